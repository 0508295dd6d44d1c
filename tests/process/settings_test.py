"""System-wide settings of the kernel. Each is put back at the end, also after a failure."""

import unittest

from harness import Case, needs_root, setting

SIZES = 4 << 20
PYTHON = "/usr/bin/python3"


class Settings(Case):
    @needs_root
    def test_no_overcommit(self):
        # Everything that is reserved but not used would count here, were it writable.
        with setting("/proc/sys/vm/overcommit_memory", 2):
            self.passes("/bin/true", served=False)
            self.passes("/bin/ls", "/", served=False)
            self.passes(PYTHON, "-c", "pass")
            self.passes("workout", 4, 5000, SIZES)
            self.passes("hold", "small", 100)
            self.passes("spawn", 2)
            self.passes("addresses")

    @needs_root
    def test_always_overcommit(self):
        with setting("/proc/sys/vm/overcommit_memory", 1):
            self.passes("workout", 4, 5000, SIZES)
            self.passes("limits")

    @needs_root
    def test_few_maps(self):
        with setting("/proc/sys/vm/max_map_count", 150):
            self.passes("/bin/true", served=False)
            self.passes(PYTHON, "-c", "pass")
            self.passes("workout", 4, 5000, SIZES)
            self.passes("contents")


if __name__ == "__main__":
    unittest.main()
