"""Swapping, in a guest that has more swap than memory."""

import functools
import os

import case

COMMAND = os.environ.get("PAGODA_TEST_COMMAND", "")
SWAP = case.PROGRAMS / "swap"


def with_options(name, options):
    return ["/vm/bin/env", f"PAGODA_OPTIONS={options}", SWAP, name]


@functools.cache
def small_guest():
    commands = {
        "unswappable": with_options("unswappable", "hugetlb=2M:16,kmalloc_max=4M"),
        "no pool": ["/bin/sh", "-c", "echo 0 >/proc/sys/vm/nr_hugepages"],
        "highmem": with_options("highmem", "highmem=300M"),
        "write_store": ["/vm/bin/env", f"PAGODA_COMMAND={COMMAND}", SWAP, "write_store"],
        "read_store": [SWAP, "read_store"],
    }
    return case.together(commands, memory="192M", hugepages=16, swap="320M", files=[COMMAND],
                         timeout=600)


@functools.cache
def larger_guest():
    # Both areas of `cold` fit into memory: nothing goes before the advice is given.
    commands = {name: [SWAP, name] for name in ("pageout", "cold")}
    return case.together(commands, memory="320M", hugepages=0, swap="400M", timeout=300)


class Swap(case.Case):
    def swapped(self, result):
        self.passed(result)
        print(result.output, end="", flush=True)

    def test_hugetlb_and_locked_pages_are_never_swapped(self):
        self.swapped(small_guest()["unswappable"])

    def test_memory_of_every_kind_is_paged_out_when_told_to(self):
        self.swapped(larger_guest()["pageout"])

    def test_cold_memory_goes_first(self):
        self.swapped(larger_guest()["cold"])

    def test_highmem_larger_than_memory(self):
        self.swapped(small_guest()["highmem"])

    def test_a_store_larger_than_memory_outlives_its_writer(self):
        killed = small_guest()["write_store"]
        self.assertEqual(killed.returncode, 128 + 9, killed)
        self.swapped(small_guest()["read_store"])


if __name__ == "__main__":
    case.main()
