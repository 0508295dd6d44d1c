#!/usr/bin/env python3
"""Headless Chromium on Pagoda, drawing a local page.

Chromium's program file defines malloc itself (PartitionAlloc), which comes before any preloaded
library. What is tested is that the two live in one process in peace, and the share is stated.
"""

import struct

import program

PROGRAM = "/usr/lib/chromium/chromium"
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
         "--disable-background-networking --disable-component-update --disable-sync "
         "--disable-dev-shm-usage --window-size=400,300 --hide-scrollbars").split()
PAGE = """<!DOCTYPE html>
<title>page</title>
<body style="margin:0;background:#3060c0">
<canvas id="canvas" width="400" height="200"></canvas>
<p id="result">not run</p>
<script>
const pen = canvas.getContext("2d");
const shade = pen.createLinearGradient(0, 0, 400, 200);
shade.addColorStop(0, "red"); shade.addColorStop(1, "lime");
pen.fillStyle = shade; pen.fillRect(0, 0, 400, 200);
pen.fillStyle = "rgb(10,20,30)"; pen.fillRect(50, 50, 20, 20);
const spot = Array.from(pen.getImageData(60, 60, 1, 1).data).join();
const words = new Map();
for (let i = 0; i < 300000; i++) words.set("w" + i % 5000, (words.get("w" + i % 5000) || 0) + i);
let sum = 0;
for (const n of words.values()) sum += n;
for (let i = 0; i < 2000; i++) {
    const item = document.createElement("span");
    item.textContent = i;
    document.body.append(item);
    if (i % 2) item.remove();
}
const bytes = new Uint8Array(new ArrayBuffer(8 << 20));
if (bytes.some(byte => byte)) sum = -1;
result.textContent = [spot, sum, document.querySelectorAll("span").length].join(" ");
</script>
"""
RESULT = f'<p id="result">10,20,30,255 {299_999 * 150_000} 1000</p>'


class Chromium(program.ProgramTest):
    needs = (PROGRAM,)

    def browse(self, name, *words, **more):
        (self.dir / name).mkdir()
        return self.run_program(PROGRAM, *FLAGS, f"--user-data-dir={self.dir / name}", *words,
                                (self.dir / "page.html").as_uri(), **more)

    def setUp(self):
        super().setUp()
        (self.dir / "page.html").write_text(PAGE)

    def test_document(self):
        result = self.browse("profile", "--dump-dom")
        self.assertIn(RESULT, result.text)
        self.assertTrue(self.reports(pid=result.pid), "the browser process had no Pagoda")
        self.state_share(pid=result.pid)

    def test_picture(self):
        self.browse("glibc", f"--screenshot={self.dir}/glibc.png", on_pagoda=False)
        self.browse("pagoda", f"--screenshot={self.dir}/pagoda.png")
        picture = (self.dir / "pagoda.png").read_bytes()
        self.assertEqual(picture[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(struct.unpack(">II", picture[16:24])[0], 400)
        self.assertGreater(len(picture), 3_000)
        self.assertEqual(program.sha256(picture),
                         program.sha256((self.dir / "glibc.png").read_bytes()))


if __name__ == "__main__":
    program.main()
