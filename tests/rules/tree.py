"""The files of the tree and the build under test, for the rules."""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(os.environ.get("PAGODA_SOURCE", pathlib.Path(__file__).parents[2])).resolve()
BUILD = pathlib.Path(os.environ.get("PAGODA_BUILD", ROOT / "build" / "release")).resolve()
LIBRARY = BUILD / "libpagoda.so"
DMA_LIBRARY = BUILD / "libpagoda_dma.so"
SOURCE_SUFFIXES = {".cc", ".c", ".h", ".hpp", ".py", ".sh"}
NOT_OURS = {".git", "build", "__pycache__", ".cache"}


def files(*folders):
    """Paths, relative to the root, of what git would keep in these folders, or in all."""
    found = []
    for folder in folders or ["."]:
        for directory, names, leaves in os.walk(ROOT / folder):
            names[:] = sorted(set(names) - NOT_OURS)
            leaves = sorted(set(leaves) - NOT_OURS)  # .git is a file in a second work tree
            found += [(pathlib.Path(directory) / leaf).relative_to(ROOT) for leaf in leaves]
    return found


def sources(*folders):
    return [path for path in files(*folders) if path.suffix in SOURCE_SUFFIXES]


def text(path):
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def code(content):
    """C or C++ without its comments and with empty string literals; lines keep their numbers."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
    return token.sub(
        lambda m: '""' if m[0].startswith('"') else "\n" * m[0].count("\n") + " ", content
    )


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
