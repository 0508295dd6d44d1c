#!/usr/bin/env python3
"""clang-tidy over every source file of a build directory that Clang has compiled.

A file that passed is not looked at again until it, a header of the tree that it includes, its
compile command or .clang-tidy changes.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def headers_of(build):
    """The files of the tree that each object was compiled from, as ninja recorded them."""
    listing = subprocess.run(
        ["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True, check=True
    ).stdout
    deps, target = {}, None
    for line in listing.splitlines():
        if line.startswith("    "):
            path = (build / line.strip()).resolve()
            if path.is_relative_to(ROOT):
                deps[target].append(path)
        elif ": #deps" in line:
            target = line.split(": #deps")[0]
            deps[target] = []
    return deps


def key_of(entry, deps):
    command = entry["command"].split()
    key = hashlib.sha256(entry["command"].encode())
    for path in [ROOT / ".clang-tidy", *sorted(deps[command[command.index("-o") + 1]])]:
        key.update(path.read_bytes())
    return key.hexdigest()


def check(source, build, stamp, key):
    result = subprocess.run(
        ["clang-tidy", "--quiet", "-p", build, source], capture_output=True, text=True, cwd=ROOT
    )
    if result.returncode == 0:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(key)
    return result.returncode == 0, result.stdout + result.stderr


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    deps = headers_of(build)
    entries = json.loads((build / "compile_commands.json").read_text())
    todo = []
    for source, entry in {pathlib.Path(e["file"]): e for e in entries}.items():
        key = key_of(entry, deps)
        stamp = build / "lint" / source.relative_to(ROOT)
        if not stamp.exists() or stamp.read_text() != key:
            todo.append((source, build, stamp, key))

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for passed, output in pool.map(lambda job: check(*job), todo):
            if not passed:
                failed += 1
                print(output)
    print(f"clang-tidy: {len(todo)} files looked at, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
