"""docs/requirements.md answers every row, and names only tests that exist and run."""

import functools
import json
import pathlib
import re
import subprocess
import unittest

import tree

TEXT = tree.text(pathlib.Path("docs/requirements.md"))
ROWS = 125
STATUS = re.compile(r"^(proven|planned: (DMA|DPDK|debug aids|reclaim)|meaningless|motivation)")


def rows(text):
    """(number, status, [names of tests]) of each row of the tables."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0].isdigit():
            names = re.findall(r"`([^`]+)`", cells[3] if len(cells) > 3 else "")
            yield int(cells[0]), cells[2], names


def faults(text, exists):
    seen = set()
    for number, status, names in rows(text):
        if number in seen:
            yield f"row {number} stands twice"
        seen.add(number)
        if not STATUS.match(status):
            yield f"row {number}: no such status: {status}"
        if status.startswith("proven") and not names:
            yield f"row {number} is proven by nothing"
        for name in names:
            if not exists(name):
                yield f"row {number}: there is no test {name}"
    for number in sorted(set(range(1, ROWS + 1)) - seen):
        yield f"row {number} is missing"


@functools.cache
def commands():
    listing = subprocess.run(
        ["ctest", "--show-only=json-v1"], cwd=tree.BUILD, capture_output=True, text=True, check=True
    )
    return {test["name"]: test.get("command", []) for test in json.loads(listing.stdout)["tests"]}


@functools.cache
def cases(test):
    """The cases of a ctest test: gtest's Suite.name, or unittest's methods."""
    command = commands()[test]
    # A script, or a class of one that the harness of tests/process starts.
    script = next((m for word in command if (m := re.search(r"(\w+_test)\.(py|[A-Z]\w+)$", word))), None)
    if script:
        source = tree.text(pathlib.Path("tests") / test.split(".")[0] / f"{script[1]}.py")
        return set(re.findall(r"def (test_\w+)", source))
    listing = subprocess.run([*command, "--gtest_list_tests"], capture_output=True, text=True)
    suite, found = "", set()
    for line in listing.stdout.splitlines():
        if line.startswith("  "):
            found.add(suite + line.split("#")[0].strip())
        else:
            suite = line.split("#")[0].strip()
    return {case for case in found if "DISABLED_" not in case}


def is_run(name):
    test, _, case = name.partition(":")
    return test in commands() and (not case or case in cases(test))


FLAG = re.compile(r"^#define (__GFP_\w+|SLAB_\w+|PAGODA_SCOPE_\w+) ", re.M)
MASKS = {"__GFP_BITS_SHIFT", "__GFP_BITS_MASK"}  # of all flags, no flags themselves


def unanswered(headers, tests, noops):
    """Flags that neither a test uses nor the table of those without effect names."""
    flags = set(FLAG.findall(headers)) - MASKS
    return sorted(flag for flag in flags if not re.search(rf"\b{flag}\b", tests + noops))


class Requirements(unittest.TestCase):
    def test_every_flag_is_tested_or_said_to_do_nothing(self):
        headers = "".join(tree.text(f"include/pagoda/{name}.h") for name in ("gfp", "slab"))
        self.assertGreater(len(FLAG.findall(headers)), 35)
        sources = [path for path in tree.sources("tests") if path.name != "gfp_h_test.cc"]
        tests = "".join(tree.code(tree.text(path)) for path in sources if path.suffix != ".py")
        noops = TEXT.split("## Accepted and without effect")[1]
        self.assertFalse(unanswered(headers, tests, noops))
        self.assertEqual(unanswered("#define __GFP_NEW 1\n", tests, noops), ["__GFP_NEW"])

    def test_every_row_is_answered_by_tests_that_run(self):
        wrong = list(faults(TEXT, is_run))
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_the_rule_sees_faults(self):
        line = "| {} | x | {} | {} |\n"
        whole = "".join(line.format(n, "proven", "`a:b`") for n in range(1, ROWS + 1))
        self.assertFalse(list(faults(whole, lambda name: True)))
        self.assertEqual(len(list(faults(whole, lambda name: False))), ROWS)
        for wrong in [
            whole + line.format(7, "proven", "`a:b`"),
            whole.replace("| 9 | x | proven | `a:b` |", "| 9 | x | proven |  |"),
            whole.replace("| 9 | x | proven |", "| 9 | x | done |"),
            whole.replace("| 9 | x | proven | `a:b` |\n", ""),
        ]:
            self.assertEqual(len(list(faults(wrong, lambda name: True))), 1)
        self.assertFalse(is_run("rules.requirements:test_that_does_not_exist"))
        self.assertFalse(is_run("lib.no_such_component"))
        self.assertTrue(is_run("rules.requirements:test_the_rule_sees_faults"))


if __name__ == "__main__":
    unittest.main()
