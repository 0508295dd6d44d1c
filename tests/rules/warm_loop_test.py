"""A warm loop of malloc and free never leaves the hit path that hot_path_test.py has read."""

import os
import re
import subprocess
import unittest

import tree

PROGRAM = tree.BUILD / "tests" / "rules_warm_loop"


def stayed(tries):
    """In the best of (rounds, rounds that left, switches).

    A restartable section that is interrupted starts over by way of the slow path. Mostly that is a
    switch, which the kernel counts; but it may restart a section for reasons that it does not count,
    and does so on a busy machine. A loop that leaves by itself leaves in every try.
    """
    return any(left <= switches for _, left, switches in tries)


class WarmLoop(unittest.TestCase):
    def watch(self, functions, options):
        symbols = tree.output("nm", "-C", tree.LIBRARY)
        offsets = []
        for name in functions:
            found = re.search(rf"^(\w+) [tT] .*\b{re.escape(name)}\(", symbols, re.M)
            self.assertTrue(found, f"{name} is no function of its own any more")
            offsets.append(found[1])
        run = subprocess.run(
            [PROGRAM, *offsets],
            env=os.environ | {"LD_PRELOAD": str(tree.LIBRARY), "PAGODA_OPTIONS": options},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        *tries, cold = run.stdout.splitlines()
        self.assertGreater(int(cold), 0, "the counter does not count")
        return [tuple(map(int, line.split())) for line in tries]

    def test_stays_on_the_hit_path(self):
        tries = self.watch(("malloc_slow", "free_slow"), "")
        left = sum(left for _, left, _ in tries)
        rounds = sum(rounds for rounds, _, _ in tries)
        switches = sum(switches for _, _, switches in tries)
        print(f"{left} of {rounds} warm rounds left the hit path in {switches} switches")
        self.assertTrue(stayed(tries), tries)

    def test_stays_in_the_threads_own_sheaf(self):
        # Without rseq every call is a slow path, which nothing interrupts: what it must not do is
        # exchange sheaves or go to the slabs.
        tries = self.watch(("percpu::replace", "take_from_slabs", "give_to_slabs"), "percpu=off")
        self.assertEqual([left for _, left, _ in tries], [0] * len(tries))

    def test_the_rule_sees_a_leak(self):
        self.assertTrue(stayed([(200, 3, 1), (200, 0, 0)]))
        self.assertTrue(stayed([(200, 1, 0), (200, 2, 2)]))
        self.assertFalse(stayed([(200, 200, 3), (200, 1, 0)]))


if __name__ == "__main__":
    unittest.main()
