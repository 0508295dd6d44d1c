"""The NVMe example against QEMU's drive: random reads and writes, verified."""

import functools
import os
import re

import case

NVME = os.environ.get("PAGODA_TEST_NVME", "")
PAIRS = os.environ.get("PAGODA_TEST_NVME_PAIRS", "")
SECONDS = int(os.environ.get("PAGODA_TEST_SECONDS", "3"))
DRIVE = "1b36:0010"


def exercise(mode, *options):
    return [NVME, f"--iommu={mode}", "--write", f"--seconds={SECONDS}", *options, DRIVE]


@functools.cache
def with_iommu():
    commands = {
        "type1": exercise("type1"),
        "interrupts": exercise("iommufd", "--interrupts"),
        "premapped": exercise("type1", "--premapped"),
    }
    if os.path.exists(PAIRS):
        commands["pairs"] = [PAIRS, DRIVE, "--short"]
    return case.together(commands, devices=("nvme",), timeout=120 + 3 * SECONDS)


class Nvme(case.Case):
    def exercised(self, result):
        self.passed(result)
        print(result.output, end="", flush=True)
        self.assertIn("all as written", result.output)
        reads, writes = map(int, re.search(r"(\d+) reads, (\d+) writes", result.output).groups())
        self.assertGreater(min(reads, writes), 100)
        return int(re.search(r"(\d+) bounced", result.output)[1])

    def test_type1(self):
        self.assertEqual(self.exercised(with_iommu()["type1"]), 0)

    def test_iommufd_with_interrupts(self):
        self.assertEqual(self.exercised(with_iommu()["interrupts"]), 0)

    def test_no_iommu(self):
        result = self.guest(*exercise("none"), devices=("nvme",), noiommu=True, timeout=60 + SECONDS)
        self.assertGreater(self.exercised(result), 0)

    def test_buffers_that_were_mapped_by_hand(self):
        self.assertEqual(self.exercised(with_iommu()["premapped"]), 0)

    def test_pairs_of_both_are_compared(self):
        if not os.path.exists(PAIRS):
            self.skipTest("benchmarks are built in the release alone")
        result = self.passed(with_iommu()["pairs"])
        print(result.output, end="", flush=True)
        self.assertIn("\n0 bounced", result.output)


if __name__ == "__main__":
    case.main()
