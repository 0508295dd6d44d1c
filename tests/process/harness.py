"""Starts programs on Pagoda and looks at how they end.

    harness.py MODULE.CLASS    runs the unittest class; status 77 if every test of it was skipped

From the environment: PAGODA_TEST_LIBRARY, the library to preload (empty: glibc's own malloc, to see
that the tests ask for what programs are used to); PAGODA_TEST_PROGRAMS, the folder of the built
programs; PAGODA_TEST_DEBUG, 1 where the library is the debug build; PAGODA_TEST_COVERAGE, 1 where
it writes down at exit which lines it ran.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

LIBRARY = os.environ.get("PAGODA_TEST_LIBRARY", "")
PROGRAMS = pathlib.Path(os.environ.get("PAGODA_TEST_PROGRAMS", "."))
DEBUG = os.environ.get("PAGODA_TEST_DEBUG") == "1"
COVERAGE = os.environ.get("PAGODA_TEST_COVERAGE") == "1"
SKIPPED = 77
# A line of Pagoda's own on stderr.
LINE = re.compile(r"^pagoda: .*$", re.MULTILINE)


class Result:
    def __init__(self, process, report):
        self.status = process.returncode
        self.out = process.stdout
        self.err = process.stderr
        self.lines = LINE.findall(self.err)
        self.report = report

    def __str__(self):
        return f"status {self.status}\n--- stdout\n{self.out[-2000:]}\n--- stderr\n{self.err[-4000:]}"


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pagoda-test-"))
        self.folder.chmod(0o777)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def needs_pagoda(self):
        if not LIBRARY:
            self.skipTest("glibc's malloc has no such thing")

    def environment(self, options="", extra=None, report=None):
        """Without LD_PRELOAD: what stands between this process and the program stays on glibc."""
        env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PAGODA_OPTIONS")}
        pieces = [piece for piece in (options, report and f"exit_report={report}") if piece]
        if pieces and LIBRARY:
            env["PAGODA_OPTIONS"] = ",".join(pieces)
        env.update(extra or {})
        return env

    def command(self, program, arguments, ulimit="", preload=True, wrapper=(), nobody=False):
        path = program if str(program).startswith("/") else PROGRAMS / program
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if nobody else []
        setting = ["/usr/bin/env", f"LD_PRELOAD={LIBRARY}"] if preload and LIBRARY else []
        command = [*user, *setting, *wrapper, str(path), *map(str, arguments)]
        if ulimit:
            command = ["/bin/sh", "-c", f'ulimit {ulimit} && exec "$@"', "sh", *command]
        return command

    def run_program(self, program, *arguments, options="", env=None, timeout=300, stdin="",
                    report=True, **kw):
        """`kw` is what command() takes."""
        path = self.folder / "report.json"
        path.unlink(missing_ok=True)
        process = subprocess.run(
            self.command(program, arguments, **kw),
            env=self.environment(options, env, report and path), input=stdin, capture_output=True,
            text=True, errors="replace", timeout=timeout, cwd=self.folder)
        lines = path.read_text().splitlines() if path.exists() else []
        return Result(process, [json.loads(line) for line in lines])

    def passes(self, program, *arguments, served=True, quiet=True, **kw):
        """The program ends with 0, Pagoda has nothing to say, and it was Pagoda that served it."""
        result = self.run_program(program, *arguments, **kw)
        if result.status == SKIPPED:
            self.skipTest(result.out.strip() or "the program says that it cannot be tested here")
        self.assertEqual(result.status, 0, result)
        self.assertNotIn("cannot be preloaded", result.err, result)
        if quiet:
            self.assertEqual(result.lines, [], result)
        if served and LIBRARY:
            self.assertTrue(result.report, f"no exit report\n{result}")
            self.assertGreater(sum(line["served"] for line in result.report), 0, result)
        return result


def needs_root(test):
    return unittest.skipUnless(os.geteuid() == 0, "only root may do this")(test)


def needs_tool(name):
    """For a class: without the tool, which packages.txt lists, its tests fail."""
    def decorate(case):
        def set_up(self):
            super(case, self).setUp()
            self.assertTrue(shutil.which(name), f"{name} is not installed; ./dev setup does it")
        case.setUp = set_up
        return case
    return decorate


@contextlib.contextmanager
def setting(path, value):
    """A system-wide setting, put back whatever happens."""
    file = pathlib.Path(path)
    before = file.read_text().split()[0]
    try:
        file.write_text(f"{value}\n")
        yield file
    finally:
        file.write_text(f"{before}\n")


def main():
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
    outcome = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    if not outcome.wasSuccessful():
        return 1
    # A skipped part of a test is in that list too, but the rest of that test ran.
    skipped = [test for test, _ in outcome.skipped if isinstance(test, Case)]
    return SKIPPED if outcome.testsRun == len(skipped) else 0


if __name__ == "__main__":
    import harness  # as the tests know it: under __main__ its classes would be others

    sys.exit(harness.main())
