"""Small programs stay small: their peak RSS on Pagoda beside that on glibc's malloc."""

import unittest

from harness import DEBUG, LIBRARY, Case

MOST = 1024  # KiB above glibc's
RUNS = 5     # the least of so many: what is in the page cache varies


class Footprint(Case):
    def peak(self, library, command):
        runs = [self.passes("peak", library, *command, preload=False, served=False)
                for _ in range(RUNS)]
        return min(int(result.out) for result in runs)

    def test_small_programs(self):
        self.needs_pagoda()
        if DEBUG:
            self.skipTest("the debug build keeps more than users get")
        for command in (["/bin/true"], ["/bin/ls", "-R", "/usr/share"],
                        ["/usr/bin/python3", "-c", "pass"]):
            with self.subTest(command=command):
                glibc = self.peak("", command)
                self.assertLess(self.peak(LIBRARY, command), glibc + MOST)


if __name__ == "__main__":
    unittest.main()
