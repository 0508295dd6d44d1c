"""What the tests in guests share: runs that are skipped where there is no guest."""

import dataclasses
import os
import pathlib
import re
import shlex
import sys
import unittest

import guest

LIBRARY = os.environ.get("PAGODA_TEST_LIBRARY", "")
PROGRAMS = pathlib.Path(os.environ.get("PAGODA_TEST_PROGRAMS", "."))
SKIPPED = 77
MARK = "vm: the turn of "


def run(program, *arguments, **options):
    try:
        return guest.run(program, *arguments, **options)
    except guest.Unavailable as reason:
        raise unittest.SkipTest(str(reason)) from reason


def together(commands, **options):
    """Runs several commands, one after the other, in one guest: a boot takes longer than most of
    them. `commands` is {name: [program, argument...]}, and so are the results, each with its own
    output and its own warnings of the kernel. What a guest that ends early has not run has no
    status."""
    script, files = "", {*options.pop("files", ())}
    for name, command in commands.items():
        words = [str(word) for word in command]
        files |= {word for word in words if os.path.isabs(word) and os.path.exists(word)}
        mark = shlex.quote(MARK + name)
        # The kernel's log is not a user's to write to.
        script += (f"[ ! -w /dev/kmsg ] || echo '<4>'{mark} >/dev/kmsg; echo; echo {mark};"
                   f" {shlex.join(words)}; status=$?; echo; echo {mark} $status\n")
    whole = run("/bin/sh", "-c", script, files=sorted(files), **options)
    results = {}
    for name in commands:
        mark = re.escape(MARK + name)
        said = re.search(rf"^{mark}\n(.*?)(?:^{mark} (\d+)\n|\Z)", whole.output, re.M | re.S)
        logged = re.search(rf"{mark}\n(.*?)(?:{MARK}|\Z)", whole.dmesg, re.S)
        status = int(said[2]) if said and said[2] else None
        results[name] = dataclasses.replace(
            whole, returncode=status, output=said[1].removesuffix("\n") if said else "",
            dmesg=logged[1] if logged else whole.dmesg,
            fault=whole.fault if status is None else "")
    return results


class Case(unittest.TestCase):
    def guest(self, program, *arguments, **options):
        return run(program, *arguments, **options)

    def sh(self, script, **options):
        return self.guest("/bin/sh", "-c", script, **options)

    def passed(self, result):
        self.assertEqual(result.returncode, 0, result)
        return result

    def passes(self, program, *arguments, **options):
        return self.passed(self.guest(program, *arguments, **options))


def main():
    """Runs the tests of the calling script; status 77 if every one of them was skipped."""
    outcome = unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]], exit=False).result
    if not outcome.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if outcome.testsRun == len(outcome.skipped) else 0)
