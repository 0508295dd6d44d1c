"""The pagoda command: what it hands to the program, and what it says when it cannot."""

import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import unittest

BUILD = pathlib.Path(os.environ["PAGODA_BUILD"])
LIBRARY = str((BUILD / "libpagoda.so").resolve())
SHOW = ["sh", "-c", 'echo "$LD_PRELOAD|$PAGODA_OPTIONS"; printf "<%s>" "$@"', "sh"]


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def pagoda(self, *words, status=0, binary=BUILD / "pagoda", **environment):
        base = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PAGODA_OPTIONS")}
        done = subprocess.run(
            [binary, *words],
            env=base | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout if status == 0 else done.stderr

    def test_program_runs_on_the_library_beside_the_command(self):
        maps = self.pagoda("run", "--", "cat", "/proc/self/maps")
        self.assertIn(LIBRARY, maps)

    def test_environment_is_kept_and_added_to(self):
        out = self.pagoda(
            "run", "-o", "on_error=report", "-o", "dirty=64M", "--", *SHOW,
            LD_PRELOAD="libm.so.6", PAGODA_OPTIONS="thp=never",
        )
        first = out.splitlines()[0]
        self.assertEqual(first, f"{LIBRARY}:libm.so.6|thp=never,on_error=report,dirty=64M")

    def test_nothing_is_set_that_was_not_asked_for(self):
        self.assertEqual(self.pagoda("run", "--", *SHOW).splitlines()[0], f"{LIBRARY}|")

    def test_the_programs_words_are_not_parsed(self):
        words = ["[a,b]", "{}", "--", "", "-o", "--help", "--lib=x", "a b", "%%"]
        shown = "".join(f"<{word}>" for word in words)
        for dashes in (["--"], []):
            out = self.pagoda("run", *dashes, *SHOW, *words)
            self.assertEqual(out.splitlines()[1], shown)

    def test_exit_status_is_the_programs(self):
        self.pagoda("run", "--", "sh", "-c", "exit 7", status=7)

    def keeper_of(self, path):
        """The process that listens there; 0 where none does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            if probe.connect_ex(str(path)) != 0:
                return 0
            peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("iii", peer)[0]

    def test_one_keeper_for_a_socket(self):
        path = self.folder / "socket"
        keeper = subprocess.Popen([BUILD / "pagoda", "keep", path])
        self.addCleanup(keeper.wait)
        self.addCleanup(keeper.kill)
        while self.keeper_of(path) == 0:
            self.assertIsNone(keeper.poll())
        self.assertIn("another keeper", self.pagoda("keep", path, status=2))
        self.pagoda("keep", "--background", path)
        self.assertEqual(self.keeper_of(path), keeper.pid)
        keeper.kill()
        keeper.wait()
        self.assertEqual(self.keeper_of(path), 0)
        self.pagoda("keep", "-b", path)
        another = self.keeper_of(path)
        self.assertNotIn(another, (0, keeper.pid))
        os.kill(another, signal.SIGKILL)

    def test_keep_says_what_it_cannot_do(self):
        self.assertIn("socket", self.pagoda("keep", status=2))
        self.assertIn("too long", self.pagoda("keep", "x" * 108, status=2))
        self.assertIn("too long", self.pagoda("keep", "-b", "x" * 108, status=2))
        self.assertIn("cannot make", self.pagoda("keep", "/no/such/place", status=127))

    def test_another_library(self):
        copy = self.folder / "other.so"
        shutil.copy(LIBRARY, copy)
        out = self.pagoda("run", "--lib", "other.so", "--", *SHOW)
        self.assertEqual(out.splitlines()[0], f"{copy.resolve()}|")

    def test_missing_library(self):
        alone = shutil.copy(BUILD / "pagoda", self.folder)
        said = self.pagoda("run", "--", "true", status=127, binary=alone)
        self.assertIn("--lib", said)
        self.assertIn(str(self.folder.resolve() / "libpagoda.so"), said)
        said = self.pagoda("run", "--lib", "gone.so", "--", "true", status=127)
        self.assertIn("'gone.so'", said)

    def test_library_that_ld_so_could_not_be_told_of(self):
        shutil.copy(LIBRARY, self.folder / "a b.so")
        self.assertIn("without spaces", self.pagoda("run", "--lib", "a b.so", "true", status=127))

    def test_program_that_cannot_be_executed(self):
        (self.folder / "plain").write_text("#!/bin/sh\n")
        script = self.folder / "script"
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)
        cases = [
            ("no-such-program", 127, "in PATH"),
            ("/no/such/program", 127, "there is no program '/no/such/program'\n"),
            ("./script", 127, "the interpreter"),
            ("./plain", 126, "make it executable"),
            ("/", 126, "is a directory"),
        ]
        for program, status, words in cases:
            with self.subTest(program):
                self.assertIn(words, self.pagoda("run", "--", program, status=status))

    def test_wrong_command_lines(self):
        cases = [
            ([], "Usage: pagoda"),
            (["walk"], "walk"),
            (["run"], "no program to run"),
            (["run", "--"], "no program to run"),
            (["run", "-x", "true"], "no option '-x'"),
            (["run", "-o"], "-o"),
            (["run", "-o", "colour=red", "--", "true"], "no option 'colour'"),
            (["run", "-o", "on_error=abort,thp=3", "--", "true"], "thp=auto|never|always"),
        ]
        for words, expected in cases:
            with self.subTest(words):
                self.assertIn(expected, self.pagoda(*words, status=2))

    def test_options_are_listed_with_their_values_and_defaults(self):
        listed = self.pagoda("options")
        self.assertIn("\n  on_error=abort|report  (default abort)\n", listed)
        self.assertLessEqual(max(map(len, listed.splitlines())), 80)

    def test_help_and_version(self):
        self.assertRegex(self.pagoda("--version"), r"^pagoda \d+\.\d+\.\d+\n$")
        self.assertIn("options", self.pagoda("--help"))
        self.assertIn("-- PROGRAM [ARGUMENT]...", self.pagoda("run", "--help"))


if __name__ == "__main__":
    unittest.main()
