"""What the tests in guests share: a run that is skipped where there is no guest."""

import os
import pathlib
import sys
import unittest

import guest

LIBRARY = os.environ.get("PAGODA_TEST_LIBRARY", "")
PROGRAMS = pathlib.Path(os.environ.get("PAGODA_TEST_PROGRAMS", "."))
SKIPPED = 77


class Case(unittest.TestCase):
    def guest(self, program, *arguments, **options):
        try:
            return guest.run(program, *arguments, **options)
        except guest.Unavailable as reason:
            self.skipTest(str(reason))

    def sh(self, script, **options):
        return self.guest("/bin/sh", "-c", script, **options)

    def passes(self, program, *arguments, **options):
        result = self.guest(program, *arguments, **options)
        self.assertEqual(result.returncode, 0, result)
        return result


def main():
    """Runs the tests of the calling script; status 77 if every one of them was skipped."""
    outcome = unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]], exit=False).result
    if not outcome.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if outcome.testsRun == len(outcome.skipped) else 0)
