#!/usr/bin/env python3
"""clang-tidy over every source file of a build directory that is configured for Clang.

What Clang itself warns of is a finding too: nothing else compiles the tests with it. A file that
passed is not looked at again until it, a header of the tree that it includes, its compile command
or the rules change.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOGETHER = 12


class Source:
    def __init__(self, entry, build):
        self.path = pathlib.Path(entry["file"])
        words = shlex.split(entry["command"])
        self.flags = words[1 : words.index("-o")]
        self.rules = [p / ".clang-tidy" for p in self.path.parents if (p / ".clang-tidy").exists()]
        self.stamp = build / "lint" / self.path.relative_to(ROOT)
        self.key = key_of(self)

    def passed(self):
        return self.stamp.exists() and self.stamp.read_text() == self.key

    def company(self):
        """Those that can be looked at with this one have the same."""
        alone = not self.path.name.endswith("_test.cc")
        return [str(self.path if alone else self.path.parent), *self.flags]


@functools.cache
def included_by(path):
    """The files of the tree that one file includes itself."""
    names = re.findall(r'^ *# *include ["<](.+)[">]', path.read_text(), re.MULTILINE)
    found = (folder / name for name in names for folder in (path.parent, ROOT, ROOT / "include"))
    return [included.resolve() for included in found if included.is_file()]


def key_of(source):
    seen, todo = set(), [source.path]
    while todo:
        path = todo.pop()
        if path not in seen and path.is_relative_to(ROOT):
            seen.add(path)
            todo += included_by(path)
    key = hashlib.sha256(" ".join(source.flags).encode())
    for path in [*source.rules, *sorted(seen)]:
        key.update(path.read_bytes())
    return key.hexdigest()


def text_of(sources):
    """Several as one. No header is included again by another: that would be a finding."""
    lines, before = [], set()
    for source in sources:
        own = set()
        for line in source.path.read_text().splitlines():
            name = re.match(r'#include ([<"].+?[>"])', line)
            again = name and name[1] in before - own
            lines.append("" if again else line)
            own |= {name[1]} if name else set()
        before |= own
    return "\n".join(lines) + "\n"


def check(sources):
    """What is said of each source that has findings.

    The headers of a test cost ten times what the test does. So tests are looked at together, as one
    file; and by halves where that has findings, which may be names that two of them share.
    """
    first = sources[0]
    first.stamp.parent.mkdir(parents=True, exist_ok=True)
    path = first.path
    if len(sources) > 1:
        path = first.stamp.with_suffix(".together.cc")
        path.write_text(text_of(sources))
    command = ["clang-tidy", "--quiet", f"--config-file={first.rules[0]}", path, "--"]
    done = subprocess.run([*command, *first.flags], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 0:
        for source in sources:
            source.stamp.write_text(source.key)
        return []
    if len(sources) == 1:
        return [done.stdout + done.stderr]
    half = len(sources) // 2
    return check(sources[:half]) + check(sources[half:])


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    entries = json.loads((build / "compile_commands.json").read_text())
    sources = {entry["file"]: Source(entry, build) for entry in entries}.values()
    todo = sorted((s for s in sources if not s.passed()), key=lambda s: (s.company(), s.path))
    batches = []
    for _, alike in itertools.groupby(todo, Source.company):
        alike = list(alike)
        batches += [alike[i : i + TOGETHER] for i in range(0, len(alike), TOGETHER)]

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for findings in pool.map(check, batches):
            failed += len(findings)
            for said in findings:
                print(said)
    print(f"clang-tidy: {len(todo)} files looked at, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
