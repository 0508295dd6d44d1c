#!/usr/bin/env python3
"""ghostscript on Pagoda: a PostScript file drawn to pixels, made a PDF, and drawn again."""

import program

WIDTH, HEIGHT = 500, 650  # points; one page at 120 dpi is 833 x 1083 pixels
PAGES = 4


def document():
    """Text, curves, clipping, shading, patterns and an image, and one square of a known colour."""
    pages = []
    for page in range(1, PAGES + 1):
        words = "\n".join(
            f"/{font} findfont {6 + n % 9} scalefont setfont "
            f"{20 + n % 5 * 90} {30 + n * 7} moveto ({font} {page}.{n}) show"
            for n, font in enumerate(["Times-Roman", "Helvetica-Bold", "Courier", "Symbol"] * 15))
        curves = "\n".join(
            f"{n % 10 / 10} {n % 7 / 7:.3f} {page / 5} setrgbcolor newpath "
            f"{n * 13 % WIDTH} {n * 29 % HEIGHT} moveto {n * 31 % WIDTH} {n * 17 % HEIGHT} "
            f"{n * 7 % WIDTH} {n * 11 % HEIGHT} {n * 3 % WIDTH} {n * 23 % HEIGHT} curveto "
            f"{n % 6 + 1} setlinewidth stroke" for n in range(700))
        image = "".join(f"{x * y * page % 256:02x}" for y in range(64) for x in range(64))
        pages.append(f"""%%Page: {page} {page}
gsave {curves} grestore
gsave 250 300 120 0 360 arc clip << /ShadingType 3 /ColorSpace /DeviceRGB
  /Coords [250 300 5 260 310 120] /Extend [true true]
  /Function << /FunctionType 2 /Domain [0 1] /C0 [1 0 0] /C1 [0 0 1] /N 1 >> >> shfill grestore
gsave 300 450 translate 150 150 scale 64 64 8 [64 0 0 -64 0 64] {{<{image}>}} image grestore
{words}
/table 20000 dict def 0 1 20000 {{ dup 20 string cvs cvn exch table 3 1 roll put }} for
/sum 0 def table {{ exch pop sum add /sum exch def }} forall
sum 200010000 ne {{ (wrong sum) = quit }} if
0 0.8 0.2 setrgbcolor 0 0 60 60 rectfill
showpage""")
    return f"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 {WIDTH} {HEIGHT}\n" + "\n".join(pages) + "\n%%EOF\n"


def pixels(data):
    """Width, height and bytes of a raw PPM file."""
    fields, rest = [], data
    while len(fields) < 4:
        line, rest = rest.split(b"\n", 1)
        if not line.startswith(b"#"):
            fields += line.split()
    return int(fields[1]), int(fields[2]), rest


class Ghostscript(program.ProgramTest):
    needs = ("gs",)

    def gs(self, device, output, source, **more):
        smooth = ("-r120", "-dTextAlphaBits=4", "-dGraphicsAlphaBits=4", "-dNumRenderingThreads=2",
                  "-dBandHeight=200", "-dMaxBitmap=0") if device == "ppmraw" else ()
        return self.run_program(
            "gs", "-q", "-dSAFER", "-dBATCH", "-dNOPAUSE", *smooth, f"-sDEVICE={device}",
            f"-dDEVICEWIDTHPOINTS={WIDTH}", f"-dDEVICEHEIGHTPOINTS={HEIGHT}",
            f"-sOutputFile={output}", source, **more)

    def check(self, prefix, reference):
        for page in range(1, PAGES + 1):
            drawn = (self.dir / f"{prefix}{page}.ppm").read_bytes()
            self.assertEqual(program.sha256(drawn),
                             program.sha256((self.dir / f"{reference}{page}.ppm").read_bytes()))
            width, height, colours = pixels(drawn)
            self.assertEqual((len(colours), height), (width * height * 3, 1083))
            corner = colours[(height - 20) * width * 3 + 60:][:3]
            self.assertEqual(tuple(corner), (0, 204, 51))
            self.assertGreater(len(set(colours)), 200)  # smooth shading, not an empty page

    def test_pixels_and_pdf(self):
        (self.dir / "in.ps").write_text(document())
        self.gs("ppmraw", "glibc%d.ppm", "in.ps", on_pagoda=False)
        result = self.gs("ppmraw", "pagoda%d.ppm", "in.ps")
        self.check("pagoda", "glibc")
        self.assert_served(1_000, pid=result.pid)

        result = self.gs("pdfwrite", "pagoda.pdf", "in.ps")
        self.assert_served(1_000, pid=result.pid)
        self.gs("ppmraw", "again-glibc%d.ppm", "pagoda.pdf", on_pagoda=False)
        result = self.gs("ppmraw", "again-pagoda%d.ppm", "pagoda.pdf")
        self.check("again-pagoda", "again-glibc")
        self.assert_served(1_000, pid=result.pid)


if __name__ == "__main__":
    program.main()
