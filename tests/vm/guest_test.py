"""The guest itself: what comes out of it, what its options do, and how it is ended."""

import functools
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

import case
import guest

VM = pathlib.Path(__file__).with_name("vm.py")


@functools.cache
def one_guest():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "file"
        file.write_text("content\n")
        (pathlib.Path(folder) / "link").symlink_to("file")
        commands = {
            "status": ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"],
            "pagoda": ["/bin/sh", "-c",
                       "sort /etc/passwd >&2 && env -u LD_PRELOAD cat /tmp/report"],
            "memory": ["/bin/sh", "-c",
                       "cd /sys/devices/system/node; ls -d node*; cat /proc/swaps;"
                       "cat /proc/sys/vm/nr_hugepages; nproc; grep MemTotal /proc/meminfo"],
            "files": ["/bin/cat", f"{folder}/link", "/data/other"],
        }
        return case.together(commands, memory="512M", numa=2, cpus=2, swap="64M", hugepages=24,
                             files=["/usr/bin/sort", folder, f"{file}:/data/other"],
                             env={"LD_PRELOAD": case.LIBRARY, "PAGODA_OPTIONS": "exit_report=/tmp/report"})


class Ends(case.Case):
    def test_status_and_output_come_through(self):
        result = one_guest()["status"]
        self.assertEqual((result.returncode, result.output), (7, "out\nerr\n"), result)
        self.assertEqual(result.fault, "")

    def test_a_guest_that_panics_is_said(self):
        commands = {"first": ["/bin/sh", "-c", "echo 1"],
                    "panics": ["/bin/sh", "-c", "echo c >/proc/sysrq-trigger"],
                    "last": ["/bin/sh", "-c", "echo 3"]}
        results = case.together(commands)
        first = results["first"]
        self.assertEqual((first.returncode, first.output, first.fault), (0, "1\n", ""), first)
        for name in ("panics", "last"):
            self.assertIsNone(results[name].returncode, results[name])
            self.assertIn("the guest ended without a result", results[name].fault)
        self.assertNotIn("sysrq", first.dmesg)
        self.assertIn("sysrq triggered crash", results["panics"].dmesg)


class Inside(case.Case):
    def test_a_program_runs_on_pagoda(self):
        result = self.passed(one_guest()["pagoda"])
        report = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
        served = [line["served"] for line in report if line["program"].endswith("sort")]
        self.assertTrue(served and served[0] > 0, result)

    def test_memory_is_as_ordered(self):
        result = one_guest()["memory"]
        self.assertRegex(result.output, r"^node0\s+node1\n")
        self.assertRegex(result.output, r"/dev/nvme\w+\s+partition\s+655\d\d\s")
        self.assertRegex(result.output, r"\n24\n2\nMemTotal:\s+4\d{5} kB\n")

    def test_files_lie_where_they_are_put(self):
        result = one_guest()["files"]
        self.assertEqual((result.returncode, result.output), (0, "content\ncontent\n"), result)

    def test_a_user_has_the_nodes_and_a_limit(self):
        result = self.sh("id -u; ulimit -l; for node in /dev/iommu /dev/vfio/[0-9]*; do"
                         " [ -w $node ] && echo $node; done; [ -w /etc/passwd ]", user="64K")
        self.assertEqual(result.returncode, 1, result)
        self.assertRegex(result.output, r"^1000\n64\n/dev/iommu\n/dev/vfio/\d+\n$")


class CommandLine(case.Case):
    def vm(self, *words, **env):
        return subprocess.run([sys.executable, "-B", VM, *words], env={**os.environ, **env},
                              capture_output=True, text=True)

    def test_status_output_and_log(self):
        with tempfile.TemporaryDirectory() as folder:
            device = "/sys/bus/pci/devices/0000:00:04.0"
            done = self.vm("--device", "nvme", "--iommu", "virtio", "--env", "A=b c", "--log", folder,
                           "--", "/bin/sh", "-c", f'echo "$A"; cat {device}/class {device}/iommu_group/type;'
                           "exit 3")
            if done.returncode == case.SKIPPED:
                self.skipTest(done.stderr.strip())
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertRegex(done.stdout, r"^b c\n0x010802\nDMA.*\n$")
            self.assertIn("Power down", (pathlib.Path(folder) / "console").read_text())

    def test_a_program_that_hangs_is_ended(self):
        done = self.vm("--timeout", "2", "--", "sh", "-c", "echo before; sleep 1000")
        if done.returncode == case.SKIPPED:
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stdout), (124, "before\n"))
        self.assertEqual(done.stderr, "vm: the program did not end within 2 s, and the guest was ended\n")

    def test_no_such_program(self):
        if not guest.shutil.which(guest.QEMU):
            self.skipTest(f"{guest.QEMU} is not installed")
        done = self.vm("--", "no-such-program")
        self.assertEqual((done.returncode, done.stderr),
                         (125, "vm: there is no program no-such-program\n"))

    def test_without_qemu_it_says_so(self):
        done = self.vm("--", "/bin/true", PATH="/nowhere")
        self.assertEqual(done.returncode, case.SKIPPED)
        self.assertEqual(done.stderr,
                         "vm: qemu-system-x86_64 is not installed (./dev setup does it)\n")

    def test_without_packages_it_says_so_and_leaves_nothing_behind(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("apt-get", "qemu-system-x86_64"):
                tool = pathlib.Path(folder) / name
                tool.write_text("#!/bin/sh\nexit 1\n")
                tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
            cache = pathlib.Path(folder) / "cache"
            done = self.vm("--", "/bin/true", PATH=f"{folder}:{os.environ['PATH']}",
                           PAGODA_VM_CACHE=str(cache))
            self.assertEqual(done.returncode, case.SKIPPED)
            self.assertRegex(done.stderr, r"^vm: no guest kernel: .*\n$")
            self.assertEqual({path.name for path in cache.iterdir()} - {"lock", "log"}, set())


if __name__ == "__main__":
    case.main()
