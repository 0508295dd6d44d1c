"""./dev run, the first thing that a reader of the README types."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

DEV = pathlib.Path(os.environ["PAGODA_SOURCE"]) / "dev"


class Dev(unittest.TestCase):
    def dev(self, *words, folder="/"):
        env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PAGODA_OPTIONS")}
        return subprocess.run([DEV, *words], env=env, cwd=folder, capture_output=True, text=True)

    def test_run_prints_42_and_runs_on_pagoda(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.dev("run", "-o", "exit_report=report", "--", "python3", "-c", "print(42)",
                            folder=folder)
            self.assertEqual((done.returncode, done.stdout), (0, "42\n"), done.stderr)
            report = json.loads((pathlib.Path(folder) / "report").read_text())
        self.assertGreater(report["served"], 1000)
        self.assertEqual(report["misuses"], 0)

    def test_help_explains_every_command(self):
        listed = self.dev("help").stdout
        for command in "setup build run vm test bench lint format clean".split():
            self.assertRegex(listed, rf"(?m)^  {command}\s+\w")
            said = self.dev(command, "--help")
            self.assertEqual(said.returncode, 0, said.stderr)
            self.assertTrue(said.stdout.startswith(f"./dev {command}"), said.stdout)

    def test_an_unknown_command_is_said(self):
        done = self.dev("walk")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("'walk'", done.stderr)


if __name__ == "__main__":
    unittest.main()
