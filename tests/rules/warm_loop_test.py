"""A warm loop of malloc and free never leaves the hit path that hot_path_test.py has read."""

import os
import re
import subprocess
import unittest

import tree

PROGRAM = tree.BUILD / "tests" / "rules_warm_loop"


class WarmLoop(unittest.TestCase):
    def test_stays_on_the_hit_path(self):
        symbols = tree.output("nm", "-C", tree.LIBRARY)
        slow = [
            re.search(rf"^(\w+) t .*\b{name}\(", symbols, re.M)[1]
            for name in ("malloc_slow", "free_slow")
        ]
        run = subprocess.run(
            [PROGRAM, *slow],
            env=os.environ | {"LD_PRELOAD": str(tree.LIBRARY)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        rounds, left, switches, cold = map(int, run.stdout.split())
        print(f"{left} of {rounds} warm rounds left the hit path in {switches} switches")
        self.assertGreater(cold, 0, "the counter does not count")
        self.assertLessEqual(left, switches)


if __name__ == "__main__":
    unittest.main()
