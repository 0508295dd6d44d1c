"""Memory set aside before a program's work begins."""

import unittest

from harness import Case

MIB = 1 << 20


class Boot(Case):
    def test_a_linked_program_boots(self):
        result = self.passes("boot", preload=False, quiet=False)
        self.assertEqual(len(result.lines), 1, result)
        self.assertIn("memblock_alloc of 100 bytes after memblock_free_all", result.lines[0])

    def test_options_come_before_its_constructors(self):
        self.needs_pagoda()
        self.passes("boot", 128 * MIB, preload=False, quiet=False, options="boot=128M,contig=64M")

    def test_a_preloaded_library_sets_aside_what_no_figure_holds(self):
        self.needs_pagoda()
        plain = self.passes("hold", "small", 5).report[-1]
        booted = self.passes("hold", "small", 5, options="boot=256M,memexclude=1M-3M").report[-1]
        both = self.passes("hold", "small", 5, options="boot=256M,contig=256M").report[-1]
        for figure in ("live_objects", "live_bytes"):
            self.assertEqual(booted[figure], plain[figure], figure)
            self.assertLess(both[figure], plain[figure] + 64 * 1024, "records of the area alone")
        for figure in ("committed", "peak_committed", "free_bytes", "dirty_bytes"):
            self.assertLess(both[figure], plain[figure] + 32 * MIB, figure)

    def test_what_cannot_be_had_is_one_line(self):
        self.needs_pagoda()
        result = self.run_program("/bin/true", options="boot=1T", ulimit="-v 1000000")
        self.assertEqual(result.status, 0, result)
        self.assertEqual(len(result.lines), 1, result)
        self.assertIn("boot=1099511627776: there is not so much memory", result.lines[0])


if __name__ == "__main__":
    unittest.main()
