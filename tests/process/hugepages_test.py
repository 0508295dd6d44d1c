"""Hugepages as the kernel shows them: smaps of a process that holds memory, and the pools."""

import pathlib
import re
import subprocess
import time
import unittest

from harness import Case, needs_root

POOLS = pathlib.Path("/sys/kernel/mm/hugepages")
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Held:
    """The program `hold` at its "ready", with what /proc says of it."""

    def __init__(self, case, kind, megabytes, options):
        self.process = subprocess.Popen(
            case.command("hold", (kind, megabytes)), env=case.environment(options),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        case.addCleanup(self.end)
        self.blocks = []
        for line in self.process.stdout:
            if line == "ready\n":
                return
            address, size = map(int, line.split())
            self.blocks.append((address, size))
        case.fail(f"hold ended: {self.process.communicate()[1]}")

    def end(self, line=""):
        """Whole again, or gone: both are an end."""
        if self.process.poll() is None and not line:
            self.process.kill()
        _, err = self.process.communicate(line)
        return self.process.returncode, err

    def maps(self):
        """(first, past the last, {field: kilobytes}) of each mapping."""
        maps = []
        for line in pathlib.Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if head:
                maps.append((int(head[1], 16), int(head[2], 16), {}))
            elif field := re.match(r"(\w+):\s+(\d+) kB", line):
                maps[-1][2][field[1]] = int(field[2])
        return maps

    def share_on(self, kilobytes):
        """The share of the blocks that lie on pages of that size."""
        maps = self.maps()
        on = sum(any(first <= address < last and fields["KernelPageSize"] == kilobytes
                     for first, last, fields in maps) for address, _ in self.blocks)
        return on / len(self.blocks)


class Transparent(Case):
    def anonymous_huge(self, options):
        held = Held(self, "small", 256, options)
        share = sum(fields["AnonHugePages"] for _, _, fields in held.maps()) / (256 << 10)
        status, err = held.end("go on\n")
        self.assertEqual((status, err), (0, ""))
        return share

    def test_small_objects_lie_on_huge_pages(self):
        self.needs_pagoda()
        if "[never]" in THP.read_text():
            self.skipTest("transparent huge pages are off")
        self.assertGreaterEqual(self.anonymous_huge(""), 0.9)

    def test_huge_pages_are_filled(self):
        for size in (64, 1000, 5000, 20000, 70000, 140000, 270000, 900000, 1500000):
            with self.subTest(size=size):
                self.passes("density", size)

    # Does not hold yet: three such runs fit into a pageblock, and nothing else fills the rest.
    @unittest.expectedFailure
    def test_huge_pages_are_filled_by_odd_sizes(self):
        self.passes("density", 530000)

    def test_never_means_never(self):
        self.needs_pagoda()
        if "[always]" in THP.read_text():
            self.skipTest("the kernel gives huge pages to everybody")
        self.assertEqual(self.anonymous_huge("thp=never"), 0)


class Hugetlb(Case):
    def reserve(self, kilobytes, pages):
        """Brings the pool to `pages` free pages, and the old size back at the end."""
        self.needs_pagoda()
        self.pool = POOLS / f"hugepages-{kilobytes}kB"
        if not self.pool.is_dir():
            self.skipTest(f"the kernel has no pages of {kilobytes} KiB")
        size = self.pool / "nr_hugepages"
        before = int(size.read_text())
        self.addCleanup(lambda: size.write_text(f"{before}\n"))
        size.write_text(f"{before + pages}\n")
        self.whole = self.count("free")
        if int(size.read_text()) < before + pages:
            self.skipTest(f"the kernel has no {pages} free pages of {kilobytes} KiB in one piece")

    def count(self, name):
        return int((self.pool / f"{name}_hugepages").read_text())

    def pool_is_whole(self):
        deadline = time.monotonic() + 10
        while (self.count("free"), self.count("resv")) != (self.whole, 0):
            self.assertLess(time.monotonic(), deadline,
                            f"{self.count('free')} of {self.whole} pages are free")
            time.sleep(0.05)

    def holds(self, options, kilobytes, kind, megabytes):
        held = Held(self, kind, megabytes, options)
        self.assertGreaterEqual(held.share_on(kilobytes), 0.9)
        used = self.whole - self.count("free")
        self.assertGreaterEqual(used, megabytes * 1024 * 0.9 / kilobytes)
        return held

    @needs_root
    def test_2m_pool_serves_malloc_and_is_whole_after_a_kill(self):
        self.reserve(2048, 64)
        for kind in ("small", "run", "large"):
            with self.subTest(kind=kind):
                held = self.holds("hugetlb=2M:64", 2048, kind, 64)
                held.end()
                self.pool_is_whole()
                held = self.holds("hugetlb=2M:64", 2048, kind, 64)
                self.assertEqual(held.end("go on\n"), (0, ""))
                self.pool_is_whole()

    @needs_root
    def test_no_more_than_the_option_says(self):
        self.reserve(2048, 64)
        held = Held(self, "small", 100, "hugetlb=2M:16")
        self.assertLessEqual(self.whole - self.count("free"), 16)
        self.assertGreaterEqual(self.whole - self.count("free"), 15)
        self.assertEqual(held.end("go on\n"), (0, ""))
        self.pool_is_whole()

    @needs_root
    def test_more_than_the_pool_has(self):
        self.reserve(2048, 8)
        for kind in ("small", "run", "large"):
            with self.subTest(kind=kind):
                held = Held(self, kind, 64, "hugetlb=2M:64")
                self.assertEqual(held.end("go on\n")[0], 0)
                self.pool_is_whole()

    @needs_root
    def test_child_writes_to_what_the_pool_can_copy(self):
        self.reserve(2048, 64)
        held = Held(self, "small", 32, "hugetlb=2M:24")
        self.assertEqual(held.end("fork\n"), (0, ""))
        self.pool_is_whole()

    @needs_root
    # Does not hold yet: the kernel ends a child that finds no page to copy to, see docs/limits.md.
    @unittest.expectedFailure
    def test_child_writes_where_the_pool_is_used_up(self):
        self.reserve(2048, 16)
        held = Held(self, "small", 64, "hugetlb=2M:16")
        self.assertEqual(held.end("fork\n"), (0, ""))
        self.pool_is_whole()

    @needs_root
    def test_pool_is_left_alone_without_the_option(self):
        self.reserve(2048, 16)
        held = Held(self, "small", 64, "")
        self.assertEqual(self.count("free"), self.whole)
        self.assertEqual(held.end("go on\n"), (0, ""))

    @needs_root
    def test_1g_pool_serves_malloc_and_is_whole_after_a_kill(self):
        self.reserve(1048576, 1)
        for kind in ("small", "run", "large"):
            with self.subTest(kind=kind):
                held = Held(self, kind, 200, "hugetlb=1G:1")
                self.assertGreaterEqual(held.share_on(1048576), 0.9)
                self.assertEqual(self.whole - self.count("free"), 1)
                held.end()
                self.pool_is_whole()


if __name__ == "__main__":
    unittest.main()
