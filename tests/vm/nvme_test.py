"""The NVMe example against QEMU's drive: random reads and writes, verified."""

import os
import re

import case

NVME = os.environ.get("PAGODA_TEST_NVME", "")
SECONDS = os.environ.get("PAGODA_TEST_SECONDS", "5")


class Nvme(case.Case):
    def exercise(self, mode, *options, **more):
        result = self.passes(NVME, f"--iommu={mode}", "--write", f"--seconds={SECONDS}", *options,
                             "1b36:0010", devices=("nvme",), timeout=60 + int(SECONDS), **more)
        print(result.output, end="", flush=True)
        self.assertIn("all as written", result.output)
        reads, writes = map(int, re.search(r"(\d+) reads, (\d+) writes", result.output).groups())
        self.assertGreater(min(reads, writes), 100)
        return int(re.search(r"(\d+) bounced", result.output)[1])

    def test_type1(self):
        self.assertEqual(self.exercise("type1"), 0)

    def test_iommufd_with_interrupts(self):
        self.assertEqual(self.exercise("iommufd", "--interrupts"), 0)

    def test_no_iommu(self):
        self.assertGreater(self.exercise("none", noiommu=True), 0)

    def test_buffers_that_were_mapped_by_hand(self):
        self.assertEqual(self.exercise("type1", "--premapped"), 0)


if __name__ == "__main__":
    case.main()
