"""How a process may start: very early calls, loaders and auditors, set-uid, other copies."""

import os
import shutil
import signal
import stat
import unittest

from harness import LIBRARY, PROGRAMS, Case, needs_root

SIZES = 4 << 20


class Loading(Case):
    def test_first_call_from_preinit_array(self):
        for call in ("free", "malloc", "calloc", "realloc", "memalign", "usable", "large"):
            for program in ("preinit", "preinit_static"):
                with self.subTest(call=call, program=program):
                    self.passes(program, call, preload=program == "preinit")

    def test_early_process_reads_its_options(self):
        self.needs_pagoda()
        result = self.run_program("preinit", "malloc", options="nonsense=1")
        self.assertEqual(result.status, 0, result)
        self.assertEqual(len(result.lines), 1, result)
        self.assertIn("nonsense", result.lines[0])

    def test_handler_that_interrupts_the_first_call(self):
        self.needs_pagoda()
        self.passes("init_handler", preload=False, options="nonsense=1")

    def test_dlopen(self):
        self.needs_pagoda()
        self.passes("dlopen_library", LIBRARY, preload=False, served=False,
                    env={"PAGODA_TEST_LIBRARY": ""})

    def test_program_with_an_environ_and_a_clock_of_its_own(self):
        self.passes("own_names")

    def test_audit_beside_preload(self):
        result = self.passes("workout", 4, 3000, SIZES,
                             env={"LD_AUDIT": str(PROGRAMS / "audit.so")})
        self.assertIn("the auditor is at work", result.err)

    def test_bad_alloc_in_a_local_scope(self):
        self.passes("plugin_host", PROGRAMS / "plugin.so")

    def test_operator_new_where_nobody_can_throw(self):
        self.needs_pagoda()
        result = self.run_program("bare_new")
        self.assertEqual(result.status, -signal.SIGABRT, result)
        self.assertEqual(result.out, "served\n")
        self.assertEqual(len(result.lines), 1, result)
        self.assertIn("operator new is out of memory", result.lines[0])

    def test_archive_brings_the_whole_family(self):
        self.needs_pagoda()
        self.passes("archive", preload=False)

    def test_destructors(self):
        self.passes("destructors")
        self.passes("destructors", options="percpu=off")
        self.passes("destructors_static", preload=False)

    def test_stderr_and_stdout_closed(self):
        self.passes("/bin/sh", "-c", f"exec {PROGRAMS}/workout 2 1000 {SIZES} <&- >&- 2>&-",
                    served=False)


class Options(Case):
    def test_wrong_options_are_said_once_each_and_ignored(self):
        self.needs_pagoda()
        for options, word in (("nonsense=1", "nonsense"), ("dirty=blue", "dirty"),
                              ("on_error", "on_error"), ("thp=sometimes,", "thp"),
                              ("x" * 5000 + "=1", "xxx")):
            with self.subTest(options=options):
                result = self.run_program("workout", 1, 500, SIZES, options=options)
                self.assertEqual(result.status, 0, result)
                self.assertEqual(len(result.lines), 1, result)
                self.assertIn(word, result.lines[0])

    def test_a_report_that_cannot_be_written_is_said(self):
        self.needs_pagoda()
        for path in (self.folder / "none" / "report", "/dev/full"):
            with self.subTest(path=path):
                result = self.run_program("workout", 1, 500, SIZES, options=f"exit_report={path}",
                                          report=False)
                self.assertEqual(result.status, 0, result)
                self.assertEqual(len(result.lines), 1, result)
                self.assertIn(f"exit_report: cannot write {path}", result.lines[0])

    def test_every_index_of_the_cpu_caches(self):
        for percpu in ("auto", "mm_cid", "cpu_id", "off"):
            with self.subTest(percpu=percpu):
                self.passes("workout", 4, 5000, SIZES, options=f"percpu={percpu}")

    def test_no_rseq(self):
        tunables = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
        for program, *arguments in (("workout", 4, 5000, SIZES), ("thread_churn",), ("spawn", 2)):
            with self.subTest(program=program):
                self.passes(program, *arguments, env=tunables)


class TwoCopies(Case):
    def setUp(self):
        super().setUp()
        self.needs_pagoda()
        self.copy = shutil.copy(LIBRARY, self.folder / "libother.so")

    def test_loaded_beside_the_preloaded_one(self):
        self.passes("two_copies", self.copy)

    def test_loaded_into_a_program_linked_with_the_archive(self):
        self.passes("two_copies_static", self.copy, preload=False)

    def test_preloaded_before_a_program_linked_with_the_archive(self):
        # Two reports: the program's own copy served, the other one only stood by.
        result = self.passes("workout_static", 4, 3000, SIZES)
        self.assertEqual(len(result.report), 2, result)

    def test_preloaded_twice(self):
        self.passes("workout", 4, 3000, SIZES, preload=False,
                    env={"LD_PRELOAD": f"{LIBRARY} {self.copy}"})


class Secure(Case):
    @needs_root
    def test_set_uid_program_ignores_options(self):
        self.needs_pagoda()
        copy = self.folder / "secure"
        shutil.copy(PROGRAMS / "secure", copy)
        copy.chmod(0o755)
        result = self.passes(copy, preload=False)
        self.assertEqual(result.out, "secure 0\n")

        os.chown(copy, 65534, 65534)
        copy.chmod(0o755 | stat.S_ISUID)
        result = self.passes(copy, preload=False, served=False, options="nonsense=1")
        if result.out == "secure 0\n":
            self.skipTest(f"{self.folder} is on a file system without set-uid")
        self.assertEqual(result.out, "secure 1\n")
        self.assertEqual(result.report, [])


if __name__ == "__main__":
    unittest.main()
