#!/usr/bin/env python3
"""CPython's own tests (Debian's libpython3.11-testsuite) on Pagoda."""

import xml.etree.ElementTree

import program

PYTHON = "/usr/bin/python3.11"
SUITES = ("test_json test_re test_gc test_threading test_subprocess test_ctypes test_mmap "
          "test_weakref test_array test_zlib test_hashlib test_bytes test_unicode test_decimal "
          "test_long test_pickle test_dict test_list test_set test_struct test_collections "
          "test_itertools test_memoryview test_exceptions test_generators").split()


class Python3Suite(program.ProgramTest):
    needs = (PYTHON, "/usr/lib/python3.11/test/test_json/__init__.py")

    def check(self, at_least, **env):
        results = self.dir / "results.xml"
        result = self.run_program(PYTHON, "-m", "test", "-j2", "--junit-xml", results, *SUITES,
                                  env=env, timeout=800)
        self.assertIn(f"All {len(SUITES)} tests OK.", result.text)
        total = xml.etree.ElementTree.parse(results).getroot()
        self.assertEqual((total.get("errors"), total.get("failures")), ("0", "0"))
        self.assertGreater(int(total.get("tests")), 5_000)
        # One worker process for each suite, and the children that test_subprocess and others start.
        self.assertGreater(len(self.reports("python3.11")), len(SUITES))
        self.assert_served(at_least, program="python3.11")

    def test_python_objects_from_pymalloc(self):
        self.check(at_least=100_000)

    def test_all_objects_from_malloc(self):
        self.check(at_least=3_000_000, PYTHONMALLOC="malloc")


if __name__ == "__main__":
    program.main()
