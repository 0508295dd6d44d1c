"""One subject per file, small enough to be read at once, and a unit test for every component."""

import re
import unittest

import tree

LINES = 700
ADVISED_LINES = 500
BANNER = re.compile(r"^\s*(?://|\*|/\*|#)\s*[-=*#/~]{8,}|^\s*//.*[-=*#~]{8,}\s*$")
# Public C headers may have the guard that every C compiler knows.
GUARD = re.compile(r"^#pragma once$|^#ifndef (PAGODA_\w+_H)\n#define \1$", re.M)


def lines_fault(path, content, limit=LINES):
    lines = content.count("\n")
    if lines > limit:
        yield f"{path} has {lines} lines, more than {limit}: it holds more than one subject"


def banner_faults(path, content):
    """A ruled-off section inside a file is a second subject asking for a file of its own."""
    for number, line in enumerate(content.splitlines(), 1):
        if BANNER.search(line):
            yield f"{path}:{number}: a banner: give that section a file of its own"


def header_faults(path, content, has_header):
    """X.cc says how X.h does it: it has that header, and includes it before anything else."""
    if not has_header:
        yield f"{path} has no header of its name"
        return
    first = re.search(r"^\s*#\s*include\s+(\S+)", content, re.M)
    header = str(path)[: -len(".cc")] + ".h"
    if not first or first[1] != f'"{header}"':
        yield f'{path} does not include "{header}" first'


class Files(unittest.TestCase):
    def check(self, wrong):
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_no_file_outgrows_one_subject(self):
        wrong, large = [], []
        for path in tree.sources():
            wrong += lines_fault(path, tree.text(path))
            large += lines_fault(path, tree.text(path), ADVISED_LINES)
        if large:
            print("larger than advised:", *large, sep="\n  ")
        self.check(wrong)

    def test_no_file_is_ruled_into_sections(self):
        wrong = []
        for path in tree.sources():
            wrong += banner_faults(path, tree.text(path))
        self.check(wrong)

    def test_every_component_has_its_header(self):
        wrong = []
        for path in tree.sources("hugepage", "lib", "dma"):
            if path.suffix == ".cc":
                header = (tree.ROOT / path).with_suffix(".h")
                wrong += header_faults(path, tree.text(path), header.exists())
        self.check(wrong)

    def test_every_component_has_its_unit_test(self):
        wrong = []
        for path in tree.sources("hugepage", "lib", "dma"):
            test = f"tests/{path.parent}/{path.stem}_test.cc"
            if path.suffix == ".cc" and not (tree.ROOT / test).exists():
                wrong.append(f"{path} has no {test}")
        self.check(wrong)

    def test_every_unit_test_has_its_component(self):
        wrong = []
        for path in tree.sources("tests/hugepage", "tests/lib", "tests/dma", "tests/preload"):
            if path.name.endswith("_test.cc"):
                component = f"{path.parent.name}/{path.name.removesuffix('_test.cc')}"
                if not any((tree.ROOT / (component + end)).exists() for end in (".cc", ".h")):
                    wrong.append(f"{path} tests no component {component}")
        self.check(wrong)

    def test_every_header_is_included_once(self):
        wrong = [
            f"{path} has no #pragma once"
            for path in tree.sources()
            if path.suffix in (".h", ".hpp") and not GUARD.search(tree.text(path))
        ]
        self.check(wrong)

    def test_the_rules_see_faults(self):
        self.assertTrue(list(lines_fault("a.cc", "\n" * 701)))
        self.assertTrue(list(banner_faults("a.cc", "int a;\n// ---------- slabs\n")))
        self.assertTrue(list(banner_faults("a.cc", "//////////////////\n")))
        self.assertTrue(list(header_faults("lib/a.cc", '#include "lib/a.h"\n', False)))
        self.assertTrue(list(header_faults("lib/a.cc", "#include <b.h>\n", True)))

    def test_the_rules_allow_what_is_right(self):
        self.assertFalse(list(lines_fault("a.cc", "\n" * 700)))
        self.assertFalse(list(banner_faults("a.cc", "// a - b == c\nint x = a / b;\n")))
        self.assertFalse(list(header_faults("lib/a.cc", '// a\n#include "lib/a.h"\n', True)))


if __name__ == "__main__":
    unittest.main()
