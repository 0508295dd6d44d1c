"""Swapping, in a guest that has more swap than memory."""

import os

import case

COMMAND = os.environ.get("PAGODA_TEST_COMMAND", "")


class Swap(case.Case):
    def swaps(self, name, options="", **more):
        more = {"memory": "192M", "hugepages": 0, "swap": "320M", "timeout": 200, **more}
        result = self.passes(case.PROGRAMS / "swap", name, env={"PAGODA_OPTIONS": options}, **more)
        print(result.output, end="", flush=True)

    def test_hugetlb_and_locked_pages_are_never_swapped(self):
        self.swaps("unswappable", "hugetlb=2M:16,kmalloc_max=4M", hugepages=16)

    def test_memory_of_every_kind_is_paged_out_when_told_to(self):
        self.swaps("pageout")

    def test_cold_memory_goes_first(self):
        # Both areas fit into memory: nothing goes before the advice is given.
        self.swaps("cold", memory="320M", swap="400M")

    def test_highmem_larger_than_memory(self):
        self.swaps("highmem", "highmem=300M")

    def test_a_store_larger_than_memory_outlives_its_writer(self):
        program = case.PROGRAMS / "swap"
        result = self.sh(f"{program} write_store; echo status $?; {program} read_store",
                         files=[str(program), COMMAND], env={"PAGODA_COMMAND": COMMAND},
                         memory="192M", hugepages=0, swap="320M", timeout=200)
        print(result.output, end="", flush=True)
        self.assertEqual(result.returncode, 0, result)
        self.assertIn("status 137\n", result.output)  # SIGKILL


if __name__ == "__main__":
    case.main()
