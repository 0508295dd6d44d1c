"""Section 3 of the manual: made from the public headers, whole, well-formed and installed."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["PAGODA_SOURCE"])
BUILD = pathlib.Path(os.environ["PAGODA_BUILD"])
HEADERS = sorted((SOURCE / "include" / "pagoda").glob("*.h"))
PAGES = BUILD / "man3"
SAMPLE = """/* Boxes: things in boxes. Longer words follow.
 *
 * Source: none. */
#ifndef BOX_H
#define BOX_H
#ifdef __cplusplus
extern "C" {
#endif

/* Flags. */
#define BOX_OPEN 1u /* it stays open */

struct box {
    int width; /* in cm */
};

/* Making: how boxes come to be. */

/* A box of `width`; NULL when -ENOMEM.
 *   small  below 3
 * Blocks. */
struct box *pagoda_box_make(int width, void (*done)(struct box *)) __attribute__((malloc));
/* Ends it. */
void pagoda_box_end(struct box *box);

static inline struct box *box_make(int width, void (*done)(struct box *)) {
    return pagoda_box_make(width, done);
}
/* Two of them. */
static inline void box_make_two(void) { (void)box_make(1, 0); }
static inline void box_make_pair(void) { box_make_two(); }
static inline void box_end(struct box *box) { pagoda_box_end(box); }

/* Widest box of `a` and `b`. */
#define box_widest(a, b) ((a)->width > (b)->width ? (a) : (b))
#ifdef __cplusplus
static inline void box_hidden(void) {}
}
#endif

#define box_stop pagoda_box_end
#endif
"""


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def rendered(page):
    return re.sub(".\b", "", output("mandoc", "-Tascii", page))


def functions():
    """What a compiler says that each header declares, and the macros with arguments."""
    every = "".join(f'#include "{header}"\n' for header in HEADERS)
    done = subprocess.run(["clang", "-I", SOURCE / "include", "-x", "c", "-std=c11",
                           "-fsyntax-only", "-Xclang", "-ast-dump=json", "-"],
                          input=every, capture_output=True, text=True, check=True)
    names, file = {str(header): set() for header in HEADERS}, ""

    # A location names its file only where that is another than the last one's, at any depth.
    def walk(node):
        nonlocal file
        if isinstance(node, list):
            for child in node:
                walk(child)
        elif isinstance(node, dict):
            file = node.get("file", file)
            for key, child in node.items():
                if key != "includedFrom":
                    walk(child)
                if key == "loc" and node["kind"] == "FunctionDecl" and file in names:
                    # urcu.h declares what liburcu defines.
                    if not node.get("isImplicit") and not node["name"].startswith("urcu_"):
                        names[file].add(node["name"])

    walk(json.loads(done.stdout))
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        extended = re.findall(r"^#\s*undef (\w+)", text, re.M)
        names[str(header)].update(name for name in re.findall(r"^#\s*define (\w+)\(", text, re.M)
                                  if not name.startswith("PAGODA_") and name not in extended)
    return names


class Manual(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def generate(self, *headers):
        return subprocess.run(
            [sys.executable, "-B", SOURCE / "cmake" / "man3.py", "--output", self.folder / "man3",
             "--version", "1", "--date", "2026-01-01", "--strict", *headers], capture_output=True, text=True)

    def sample(self, text=SAMPLE):
        (self.folder / "box.h").write_text(text)
        return self.generate(self.folder / "box.h")

    def page(self, name):
        return rendered(self.folder / "man3" / f"{name}.3")

    def test_every_function_has_a_page(self):
        declared = functions()
        for header in HEADERS:
            self.assertTrue(declared[str(header)], header)
            for name in declared[str(header)]:
                page = PAGES / f"{name}.3"
                self.assertTrue(page.exists(), f"{name} of {header.name} has no page")
                text = page.read_text()
                if text.startswith(".so "):
                    text = (PAGES.parent / text.split()[1]).read_text()
                self.assertIn(f"<pagoda/{header.name}>", text.replace("\\-", "-"), name)
                # In the synopsis, and in the names that the page is found by.
                words = re.findall(r"\w+", re.sub(r"\\f[BIR]", "", text))
                self.assertGreaterEqual(words.count(name), 2, name)

    def test_a_comment_speaks_for_every_function(self):
        done = self.generate(*HEADERS)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_every_header_has_a_page(self):
        for header in HEADERS:
            page = rendered(PAGES / f"pagoda_{header.name}.3")
            self.assertIn(f"#include <pagoda/{header.name}>", page)

    def test_pages_are_well_formed(self):
        pages = [page for page in PAGES.glob("*.3") if not page.read_text().startswith(".so")]
        self.assertGreater(len(pages), len(HEADERS))
        output("mandoc", "-Tlint", "-W", "warning", *pages)
        done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", *pages],
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_installed(self):
        output("cmake", "--install", BUILD, "--prefix", self.folder)
        installed = self.folder / "share" / "man" / "man3"
        self.assertLessEqual({page.name for page in PAGES.glob("*.3")},
                             {page.name for page in installed.iterdir()})
        self.assertIn("kmalloc", rendered(installed / "kmalloc.3"))

    def test_a_page_has_what_the_header_says(self):
        done = self.sample()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        page = " ".join(self.page("box_make").split())
        self.assertIn("pagoda_box_end - how boxes come to be SYNOPSIS", page)
        self.assertIn("#include <pagoda/box.h> struct box *box_make(int width, "
                      "void (*done)(struct box *)); void box_make_two(void);", page)
        self.assertIn("box_make A box of width; NULL when -ENOMEM. small: below 3 Blocks. "
                      "box_end, box_stop Ends it. box_make_two, box_make_pair Two of them.", page)
        self.assertIn("STRUCTURES struct box { int width; /* in cm */ };", page)
        self.assertNotIn("__attribute__", page)
        self.assertIn("void box_stop(struct box *box);", page)
        self.assertIn("Widest box of a and b.", " ".join(self.page("box_widest").split()))
        overview = " ".join(self.page("pagoda_box.h").split())
        self.assertIn("pagoda_box.h - things in boxes SYNOPSIS", overview)
        self.assertIn("BOX_OPEN it stays open", overview)
        self.assertIn("box_make(3) box_make, box_make_two, box_make_pair, box_end, box_stop", overview)
        self.assertFalse((self.folder / "man3" / "box_hidden.3").exists())

    def test_a_function_without_a_comment_is_named(self):
        done = self.sample(SAMPLE.replace("/* Two of them. */", "\n"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))  # it calls box_make
        done = self.sample(SAMPLE.replace("/* Widest box of `a` and `b`. */", ""))
        self.assertEqual(done.returncode, 1)
        self.assertIn("box.h: no comment speaks for box_widest", done.stderr)


if __name__ == "__main__":
    unittest.main()
