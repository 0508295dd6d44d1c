"""Out of memory: NULL with ENOMEM, nothing lost, service again once memory is free."""

import os
import pathlib
import unittest

from harness import Case, needs_root

MEGABYTES = 256
CGROUP_V1 = pathlib.Path("/sys/fs/cgroup/memory")
CGROUP_V2 = pathlib.Path("/sys/fs/cgroup")


class Exhaustion(Case):
    def test_address_space(self):
        self.passes("exhaust", MEGABYTES, "single", ulimit=f"-v {MEGABYTES << 10}")

    def test_address_space_from_three_threads(self):
        self.passes("exhaust", MEGABYTES, "threads", ulimit=f"-v {MEGABYTES << 10}")

    def test_data(self):
        self.passes("exhaust", MEGABYTES, "single", ulimit=f"-d {MEGABYTES << 10}")

    def test_addresses_come_back(self):
        for kind in "v", "d":
            with self.subTest(limit=kind):
                self.passes("addresses", ulimit=f"-{kind} {MEGABYTES << 10}")

    def test_new_handler_runs_until_memory_is_there(self):
        self.passes("handler", ulimit=f"-v {MEGABYTES << 10}")


class Cgroup(Case):
    """The kernel ends a process that touches more than its cgroup has: so malloc is never told
    no here, and what counts is that memory once freed pays for what comes next, whatever its
    sizes. Keeping half of the limit unused would be the end of the process."""

    def make_group(self):
        name = f"pagoda-test-{os.getpid()}"
        if (CGROUP_V1 / "memory.limit_in_bytes").exists():
            group, limit = CGROUP_V1 / name, "memory.limit_in_bytes"
        elif "memory" in self.controllers():
            group, limit = CGROUP_V2 / name, "memory.max"
        else:
            self.skipTest("no memory cgroup controller")
        try:
            group.mkdir()
        except OSError as error:
            self.skipTest(f"no memory cgroup can be made: {error}")
        self.addCleanup(group.rmdir)
        try:
            (group / limit).write_text(str(MEGABYTES << 20))
        except OSError as error:
            self.skipTest(f"the memory cgroup takes no limit: {error}")
        return group

    @staticmethod
    def controllers():
        file = CGROUP_V2 / "cgroup.subtree_control"
        return file.read_text().split() if file.exists() else []

    @needs_root
    def test_cycles_in_a_memory_cgroup(self):
        group = self.make_group()
        self.passes("/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh",
                    *self.command("exhaust", (MEGABYTES, "cycles")), preload=False)


if __name__ == "__main__":
    unittest.main()
