"""What Pagoda says of double, invalid and foreign frees. The texts stand here and nowhere else."""

import re
import signal
import unittest

from harness import DEBUG, Case

ADDRESS = r"0x[0-9a-f]+"
DOUBLE = rf"^pagoda: double free of ({ADDRESS})\b"
INSIDE = rf"^pagoda: invalid free of ({ADDRESS}): inside an? "
INSIDE_SMALL = rf"^pagoda: invalid free of ({ADDRESS}): inside an object of cache malloc-64\b"
FOREIGN = rf"^pagoda: free of ({ADDRESS}): not Pagoda's memory"

ENDS = ("trim", "exit")
SIZES = ("small", "medium", "run", "large")
PLACES = ("mmap", "stack", "bss", "low", "odd", "noncanonical", "top")


class Misuse(Case):
    def setUp(self):
        super().setUp()
        self.needs_pagoda()

    def names_it(self, result, pattern):
        """One line, of that text, with the address that the program freed wrongly."""
        self.assertEqual(len(result.lines), 1, result)
        match = re.search(pattern, result.lines[0])
        self.assertTrue(match, f"no {pattern}\n{result}")
        wrong = re.search(r"^wrong (\S+)$", result.out, re.MULTILINE)
        self.assertEqual(int(match[1], 16), int(wrong[1], 16), result)

    def is_caught(self, fault, pattern):
        for end in ENDS:
            with self.subTest(fault=fault, end=end, on_error="abort"):
                result = self.run_program("misuse", fault, end)
                self.assertEqual(result.status, -signal.SIGABRT, result)
                self.names_it(result, pattern)
                if DEBUG:
                    self.assertNotIn("survived", result.out)
                self.assertNotIn("trimmed", result.out)
            with self.subTest(fault=fault, end=end, on_error="report"):
                result = self.run_program("misuse", fault, end, options="on_error=report")
                self.assertEqual(result.status, 0, result)
                self.names_it(result, pattern)

    def test_double_free(self):
        for size in SIZES:
            self.is_caught(f"double-{size}", DOUBLE)

    def test_double_free_with_others_between(self):
        for size in SIZES:
            self.is_caught(f"double-later-{size}", DOUBLE)

    def test_double_free_from_another_thread(self):
        for size in SIZES:
            self.is_caught(f"double-thread-{size}", DOUBLE)

    def test_inside_a_small_object(self):
        for kind in ("inside", "inside-odd", "inside-end"):
            self.is_caught(f"{kind}-small", INSIDE_SMALL)
            self.is_caught(f"{kind}-medium", INSIDE)

    def test_inside_a_big_block(self):
        for kind in ("inside", "inside-odd", "inside-end"):
            for size in ("run", "large"):
                self.is_caught(f"{kind}-{size}", INSIDE)

    def test_realloc_of_a_free_block_and_inside_one(self):
        for size in ("run", "large"):
            self.is_caught(f"resize-free-{size}", DOUBLE)
            for kind in ("inside", "behind"):
                self.is_caught(f"resize-{kind}-{size}", INSIDE)

    def test_without_per_cpu_caches(self):
        for fault, pattern in (("double-small", DOUBLE), ("inside-small", INSIDE_SMALL)):
            result = self.run_program("misuse", fault, "trim", options="percpu=off")
            self.assertEqual(result.status, -signal.SIGABRT, result)
            self.names_it(result, pattern)

    def test_foreign_pointers_are_ignored_with_one_warning(self):
        for place in PLACES:
            with self.subTest(place=place):
                result = self.run_program("misuse", f"foreign-{place}", "trim")
                self.assertEqual(result.status, 0, result)
                self.names_it(result, FOREIGN)

    def test_foreign_pointers_each_reported(self):
        for place in PLACES:
            with self.subTest(place=place):
                result = self.run_program("misuse", f"foreign-{place}", "trim",
                                          options="foreign=report")
                self.assertEqual(result.status, 0, result)
                self.assertEqual([bool(re.search(FOREIGN, line)) for line in result.lines],
                                 [True] * 3, result)

    def test_foreign_pointers_can_abort(self):
        for place in PLACES:
            with self.subTest(place=place):
                result = self.run_program("misuse", f"foreign-{place}", "trim",
                                          options="foreign=abort")
                self.assertEqual(result.status, -signal.SIGABRT, result)
                self.names_it(result, FOREIGN)

    def test_no_fault_no_words(self):
        for end in ENDS:
            self.passes("misuse", "none", end, served=False)


if __name__ == "__main__":
    unittest.main()
