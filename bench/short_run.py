#!/usr/bin/env python3
"""One short round of a benchmark: short_run.py RUNNER ARGUMENT… fails if a run does, if the
allocators' outputs differ, or if the JSON does not hold one true figure for each cell."""

import json
import pathlib
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

PEERS = ["glibc", "pagoda"]
SKIPPED = 77


def check_cell(where, cell):
    assert cell["ok"] is True and cell["problems"] == [], where
    for key in ("wall_s", "cpu_s", "rss_kib", "minor_faults"):
        values = cell[key]
        assert len(values["samples"]) == 1, where
        assert values["samples"][0] > 0, (where, key)
        assert values["q1"] == values["median"] == values["q3"] == values["samples"][0], where
        assert values["ratio"]["median"] > 0, (where, key)
        if cell["peer"] == PEERS[0]:
            assert values["ratio"]["median"] == 1, (where, key)


def main():
    runner, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "result.json"
        options = ["--short", "--rounds", "1", "--only", ",".join(PEERS), "--require", "pagoda"]
        done = subprocess.run([runner, *options, "--json", str(path), *arguments])
        if done.returncode != 0:
            return done.returncode
        result = json.loads(path.read_text())
        plot = subprocess.run([pathlib.Path(__file__).with_name("plot.py"), path],
                              stdout=subprocess.PIPE, check=True).stdout

    assert [peer["name"] for peer in result["peers"]] == PEERS
    assert result["workloads"]
    for workload in result["workloads"]:
        assert [cell["peer"] for cell in workload["results"]] == PEERS
        for cell in workload["results"]:
            check_cell((workload["name"], cell["peer"]), cell)
    for means in result["geomean"]:
        assert all(means[key] > 0 for key in ("time", "wall", "cpu", "rss", "faults")), means
    circles = ElementTree.fromstring(plot).findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(PEERS)
    return 0


sys.exit(main())
