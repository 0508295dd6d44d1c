"""Every entry point runs on a stack of 8 KiB."""

import pathlib
import re
import subprocess
import unittest

from harness import LIBRARY, PROGRAMS, Case

HERE = pathlib.Path(__file__).parent
SOURCE = HERE / "programs" / "entry_stacks.cc"
# Called by other copies of the library, once, at their start.
AT_START = {"pagoda_join"}


class Stacks(Case):
    def every_scenario(self, options):
        run = subprocess.run(
            [PROGRAMS / "entry_stacks"],
            env={"PAGODA_OPTIONS": f"on_error=report,exit_check=0{options}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr[-2000:])

    def test_every_scenario(self):
        self.every_scenario("")

    def test_every_scenario_with_thread_slots(self):
        self.every_scenario(",percpu=off")

    def test_no_entry_is_left_out(self):
        symbols = subprocess.run(
            ["readelf", "-W", "--dyn-syms", LIBRARY], capture_output=True, text=True, check=True
        )
        exported = set(re.findall(r"FUNC\s.*\s(pagoda_\w+)", symbols.stdout)) - AT_START
        called = set(re.findall(r"\bpagoda_\w+", SOURCE.read_text()))
        self.assertGreater(len(exported), 100)
        self.assertFalse(sorted(exported - called))


if __name__ == "__main__":
    unittest.main()
