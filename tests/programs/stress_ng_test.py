#!/usr/bin/env python3
"""stress-ng's malloc stressors on Pagoda, with its own verification of what it wrote."""

import re

import program

# Its workers end by _exit, which runs no exit handler and so would write no exit report.
EXIT_HANDLERS = '#include <stdlib.h>\nextern "C" void _exit(int status) { exit(status); }\n'


class StressNg(program.ProgramTest):
    needs = ("stress-ng", "g++")

    def setUp(self):
        super().setUp()
        (self.dir / "exit_handlers.cc").write_text(EXIT_HANDLERS)
        self.run_program("g++", "-shared", "-fPIC", "exit_handlers.cc", "-o", "exit_handlers.so",
                         on_pagoda=False)

    def check(self, stressor, ops, at_least, *words):
        preload = f"{self.library} {self.dir / 'exit_handlers.so'}"
        result = self.run_program("stress-ng", "--verify", "--metrics", "--yaml", "metrics.yaml",
                                  *words, env={"LD_PRELOAD": preload})
        said = result.text + result.stderr.decode()
        self.assertIn("successful run completed", said)
        self.assertNotIn("fail:", said)
        metrics = (self.dir / "metrics.yaml").read_text()
        done = re.search(rf"stressor: {stressor}\s+bogo-ops: (\d+)", metrics)
        self.assertIsNotNone(done, metrics)
        self.assertGreaterEqual(int(done[1]), ops)
        self.assert_served(at_least, program="stress-ng")

    def test_small_and_middling(self):
        self.check("malloc", 300_000, 50_000, "--malloc", "2", "--malloc-ops", "300000",
                   "--malloc-bytes", "2K", "--malloc-max", "40000", "--malloc-pthreads", "2")

    def test_touched(self):
        self.check("malloc", 100_000, 5_000, "--malloc", "2", "--malloc-ops", "100000",
                   "--malloc-bytes", "64K", "--malloc-max", "4000", "--malloc-touch",
                   "--malloc-pthreads", "2")

    def test_large_and_cleared(self):
        self.check("malloc", 4_000, 100, "--malloc", "2", "--malloc-ops", "4000", "--malloc-bytes",
                   "4M", "--malloc-max", "40", "--malloc-touch", "--malloc-zerofree")

    def test_growing_by_realloc(self):
        self.check("bigheap", 400, 100, "--bigheap", "1", "--bigheap-growth", "512K",
                   "--bigheap-ops", "400")
        committed = max(report["peak_committed"] for report in self.reports("stress-ng"))
        self.assertGreater(committed, 190 << 20)


if __name__ == "__main__":
    program.main()
