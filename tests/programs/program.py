"""What the tests of real programs share: a program started on Pagoda, and Pagoda's exit report.

Environment: PAGODA_LIBRARY names libpagoda.so (the build sets it), and PAGODA_OPTIONS is passed on, so
that all programs can be run with other options.
"""

import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = pathlib.Path(os.environ.get("PAGODA_LIBRARY", ROOT / "build/release/libpagoda.so"))
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


class Result:
    """A program that has ended: its pid, exit status and output."""

    def __init__(self, pid, returncode, stdout, stderr):
        self.pid, self.returncode, self.stdout, self.stderr = pid, returncode, stdout, stderr

    @property
    def text(self):
        return self.stdout.decode()


class ProgramTest(unittest.TestCase):
    needs = ()  # programs of Debian, looked up in PATH, or absolute file names

    @classmethod
    def setUpClass(cls):
        missing = [name for name in cls.needs if not shutil.which(name, path=PATH)
                   and not os.path.exists(name)]
        if missing:
            raise AssertionError(f"not installed: {', '.join(missing)}; ./dev setup does it")
        if not LIBRARY.exists():
            raise AssertionError(f"{LIBRARY} is not built")

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pagoda-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.report_file = self.dir / "exit_report"
        self.library = LIBRARY

    def environment(self, on_pagoda=True, **extra):
        env = {"PATH": PATH, "HOME": str(self.dir), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        if on_pagoda:
            options = os.environ.get("PAGODA_OPTIONS", "")
            report = f"exit_report={self.report_file}"
            env["LD_PRELOAD"] = str(self.library)
            env["PAGODA_OPTIONS"] = f"{options},{report}" if options else report
        return {**env, **extra}

    def start(self, *argv, on_pagoda=True, env=None, **popen):
        """Starts a program that is ended, with its process group, when the test is over."""
        popen.setdefault("cwd", self.dir)
        process = subprocess.Popen([str(word) for word in argv], start_new_session=True,
                                   env=self.environment(on_pagoda, **(env or {})), **popen)
        self.addCleanup(self._end, process)
        return process

    @staticmethod
    def _end(process):
        if process.poll() is None:  # once it is reaped its id may be another's
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()

    def run_program(self, *argv, input=None, timeout=300, status=0, **more):
        """Runs a program to its end and checks its exit status and that Pagoda had no complaint."""
        process = self.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, **more)
        if isinstance(input, str):
            input = input.encode()
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            self.fail(f"{argv[0]}: no end after {timeout} s")
        result = Result(process.pid, process.returncode, stdout, stderr)
        said = f"{argv[0]}: status {result.returncode}\n{tail(stdout)}\n{tail(stderr)}"
        self.assertEqual(result.returncode, status, said)
        self.assert_no_complaint(stderr)
        return result

    def run_twice(self, *argv, **more):
        """Runs a program on glibc and on Pagoda; the output must be the same. Returns Pagoda's."""
        expected = self.run_program(*argv, on_pagoda=False, **more)
        result = self.run_program(*argv, **more)
        self.assertEqual(tail(result.stdout), tail(expected.stdout))
        self.assertEqual(sha256(result.stdout), sha256(expected.stdout))
        return result

    def assert_no_complaint(self, stderr):
        lines = [line for line in stderr.decode(errors="replace").splitlines()
                 if line.lower().startswith("pagoda") or "ld.so: object" in line]
        self.assertEqual(lines, [])

    def reports(self, program=None, pid=None):
        """The lines of the exit report, of one program (by its file's name) or one process."""
        if not self.report_file.exists():
            return []
        lines = [json.loads(line) for line in self.report_file.read_text().splitlines()]
        return [line for line in lines
                if (pid is None or line["pid"] == pid)
                and (program is None or os.path.basename(line["program"]) == program)]

    def assert_served(self, at_least, program=None, pid=None):
        """Pagoda itself must have handed out that many objects, and seen no bad pointer."""
        lines = self.reports(program, pid)
        who = f"{program or ''} {pid or ''}".strip()
        self.assertTrue(lines, f"no exit report of {who} among {self.reports()}")
        served = sum(line["served"] for line in lines)
        peak = max(line["peak_committed"] for line in lines)
        print(f"{self.id().split('.', 1)[1]}: {who}: {len(lines)} process(es), {served} objects "
              f"served, at most {peak >> 10} KiB committed", flush=True)
        self.assertGreaterEqual(served, at_least, who)
        self.assertEqual([line for line in lines if line["misuses"]], [])

    def state_share(self, pid):
        """For a program with an allocator of its own: says how much of it reached malloc."""
        report, = self.reports(pid=pid)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"{self.id().split('.', 1)[1]}: {report['served']} objects reached malloc, at most "
              f"{report['peak_committed'] >> 10} KiB committed of {peak} KiB peak RSS", flush=True)

    def wait_for(self, condition, what, timeout=240):
        end = time.monotonic() + timeout
        while not condition():
            self.assertLess(time.monotonic(), end, f"{what}: not within {timeout} s")
            time.sleep(0.05)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tail(data, size=3000):
    return data[-size:].decode(errors="replace")


def main():
    """Runs the tests of the calling script."""
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]])
