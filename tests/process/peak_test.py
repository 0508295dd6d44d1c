"""What a program that hardly allocates pays in memory for running on Pagoda."""

import os
import subprocess
import unittest

from harness import Case

# Started by a small program: a process's peak begins with that of whoever called exec.
LAUNCHER = os.environ.get("PAGODA_TEST_LAUNCHER", "")
MORE_AT_MOST = 1024  # KiB
RUNS = 5


class Peak(Case):
    def peak(self, command, preload):
        """KiB; the least of some runs, as other processes can only add to it."""
        least = None
        for _ in range(RUNS):
            read, write = os.pipe()
            try:
                # The launcher writes to descriptor 3.
                words = ["/bin/sh", "-c", f'exec "$@" 3>&{write}', "sh", LAUNCHER,
                         *self.command(command[0], command[1:], preload=preload)]
                done = subprocess.run(words, env=self.environment(), pass_fds=[write],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=300)
                self.assertEqual((done.returncode, done.stderr), (0, b""))
                line = os.read(read, 1000).split()
            finally:
                os.close(read)
                os.close(write)
            self.assertEqual((line[6], line[7]), (b"0", b"0"))
            least = min(least or int(line[3]), int(line[3]))
        return least

    def within_a_mebibyte_of_glibc(self, *command):
        self.needs_pagoda()
        glibc = self.peak(command, preload=False)
        pagoda = self.peak(command, preload=True)
        print(f"{' '.join(command)}: {pagoda} KiB, on glibc {glibc} KiB", flush=True)
        self.assertLessEqual(pagoda, glibc + MORE_AT_MOST)


class SmallPrograms(Peak):
    def test_true(self):
        self.within_a_mebibyte_of_glibc("/bin/true")

    def test_python3(self):
        self.within_a_mebibyte_of_glibc("/usr/bin/python3", "-c", "pass")


class Directories(Peak):
    def test_ls(self):
        self.within_a_mebibyte_of_glibc("/bin/ls", "-R", "/usr/share")


if __name__ == "__main__":
    unittest.main()
