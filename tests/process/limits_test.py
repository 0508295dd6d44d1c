"""Limits and odd environments that a process runs in: the kernel says no, or says it is another."""

import os
import resource
import unittest

from harness import COVERAGE, Case, needs_root, needs_tool

SIZES = 4 << 20
PYTHON = "/usr/bin/python3"


class AddressSpace(Case):
    def test_small_programs_under_ulimit_v(self):
        for megabytes in (64, 512):
            for command in (["/bin/true"], ["/bin/ls", "/"], ["/bin/cat", "/proc/self/maps"]):
                with self.subTest(megabytes=megabytes, command=command):
                    self.passes(*command, ulimit=f"-v {megabytes << 10}", served=False)

    def test_memory_under_ulimit_v(self):
        self.passes("workout", 1, 2000, 100000, ulimit=f"-v {64 << 10}")
        self.passes("workout", 4, 5000, SIZES, ulimit=f"-v {512 << 10}")

    def test_python_under_ulimit_v(self):
        self.passes(PYTHON, "-c", "pass", ulimit=f"-v {512 << 10}")
        # 128 MiB of objects, and half a dozen threads with their stacks beside them.
        self.passes(PYTHON, "-c", "import threading, json; x = [[i] for i in range(1000000)]; "
                    "t = [threading.Thread(target=lambda: json.dumps(x[:1000])) for i in range(6)]; "
                    "[i.start() for i in t]; [i.join() for i in t]", ulimit=f"-v {512 << 10}")

    def test_every_limit_from_32_mib_to_64_gib(self):
        for shift in range(15, 27):
            with self.subTest(kilobytes=1 << shift):
                self.passes("/bin/ls", "/", ulimit=f"-v {1 << shift}", served=False)

    def test_limit_lowered_after_start(self):
        self.passes("lowered_limit", "threads")

    def test_mapping_after_the_limit_was_lowered(self):
        self.passes("lowered_limit", "mappings")


class Data(Case):
    def test_ulimit_d(self):
        self.passes("workout", 2, 3000, 100000, ulimit=f"-d {64 << 10}")
        self.passes(PYTHON, "-c", "pass", ulimit=f"-d {64 << 10}")


class Locked(Case):
    def test_mlockall(self):
        # root's CAP_IPC_LOCK makes the limit moot; others may not be allowed this much.
        if os.geteuid() != 0:
            self.skipTest("only root may lock this much")
        self.passes("locked")

    @needs_root
    def test_mlockall_under_a_tight_limit(self):
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        for megabytes in (64, 256):
            with self.subTest(megabytes=megabytes):
                if hard != resource.RLIM_INFINITY and hard < megabytes << 20:
                    self.skipTest(f"the hard limit is {hard >> 20} MiB")
                self.passes("locked", "small", ulimit=f"-l {megabytes << 10}", nobody=True)

    @needs_root
    def test_mlockall_under_the_default_limit(self):
        if os.sysconf("SC_NPROCESSORS_CONF") > 64:
            self.skipTest("what each CPU needs adds up to more")
        self.passes("locked", "small", ulimit=f"-l {8 << 10}", nobody=True)


class Kernel(Case):
    def test_map_count_reached(self):
        self.passes("many_maps")

    def test_smallest_stacks(self):
        self.passes("small_stack")
        self.passes("small_stack", options="percpu=off")

    def in_sandbox(self, *arguments):
        if COVERAGE:
            self.skipTest("coverage is written to files, which this sandbox does not allow")
        # No exit report: opening its file is a call that this sandbox does not allow. The program
        # itself checks whose malloc it runs on.
        self.passes("sandbox", *arguments, served=False, env={"PAGODA_OPTIONS": ""})

    def test_sandbox_of_glibc_calls(self):
        self.in_sandbox()

    def test_sandbox_before_the_first_allocation(self):
        self.in_sandbox("early")

    def test_sandbox_with_trim(self):
        self.in_sandbox("trim")

    def test_growth_refused(self):
        self.passes("refused_calls", "growth")

    def test_advice_refused(self):
        self.passes("refused_calls", "advice")


@needs_tool("valgrind")
class Valgrind(Case):
    def test_none_runs_pagoda(self):
        self.passes("workout", 2, 300, 100000, wrapper=("valgrind", "-q", "--tool=none"))

    def memcheck(self, *arguments):
        return self.run_program(*arguments, wrapper=("valgrind", "--leak-check=full",
                                                     "--error-exitcode=9"))

    def test_memcheck_takes_over(self):
        clean = self.memcheck("workout", 2, 100, 100000)
        self.assertEqual(clean.status, 0, clean)
        self.assertIn("ERROR SUMMARY: 0 errors", clean.err)
        leak = self.memcheck("misuse", "leak", "exit")
        self.assertEqual(leak.status, 9, leak)
        self.assertIn("definitely lost: 100 bytes in 1 blocks", leak.err)
        twice = self.memcheck("misuse", "double-small", "exit")
        self.assertIn("Invalid free()", twice.err)
        self.assertEqual(twice.lines, [], twice)


if __name__ == "__main__":
    unittest.main()
