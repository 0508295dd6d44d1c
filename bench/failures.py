#!/usr/bin/env python3
"""The runner must notice what it is there to notice: failures.py RUNNER gives it programs that
crash, fail, hang or print another result under one allocator, and peers that cannot be preloaded."""

import json
import pathlib
import subprocess
import sys
import tempfile

RUNNER = sys.argv[1]


def run(*arguments):
    return subprocess.run([RUNNER, "--rounds", "1", *arguments], capture_output=True, text=True)


def libc():
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("/libc.so.6"):
            return line.split()[-1]
    raise AssertionError("no libc.so.6 is mapped")


def expect(done, status, words):
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    assert words in text, text


def under_twin(script):
    """A shell script under glibc and under a second glibc that it can tell apart by $TWIN."""
    return run("--peer", f"twin={libc()}", "--peer-env", "twin:TWIN=1", "--only", "glibc,twin",
               "command", "--", "/bin/sh", "-c", script)


def main():
    expect(under_twin("echo same"), 0, "geomean")
    expect(under_twin("echo result$TWIN"), 1, "twin: sh printed something else")
    expect(under_twin('test -z "$TWIN" || exit 3'), 1, "twin: sh exited with status 3")
    expect(under_twin('test -z "$TWIN" || kill -SEGV $$'), 1, "Segmentation fault")
    hang = run("--only", "glibc", "--timeout", "1", "command", "--", "sleep", "30")
    expect(hang, 1, "ran longer than 1 s")

    with tempfile.TemporaryDirectory() as folder:
        broken = pathlib.Path(folder) / "broken.so"
        broken.write_text("not a library")
        json_path = pathlib.Path(folder) / "result.json"
        peers = ["--peer", f"broken={broken}", "--peer", f"absent={folder}/absent.so"]
        only = ["--only", "glibc,broken,absent"]
        done = run(*peers, *only, "--json", str(json_path), "command", "--", "true")
        expect(done, 0, "missing: broken")
        missing = json.loads(json_path.read_text())["missing"]
        assert [entry["name"] for entry in missing] == ["broken", "absent"], missing
        expect(run(*peers, *only, "--require", "broken", "small"), 2, "cannot be preloaded")


main()
