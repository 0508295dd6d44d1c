"""The edu device's driver over each way to the device: what works, what the IOMMU refuses, and what
the library says of it."""

import functools
import re

import case

EDU, NODES = case.PROGRAMS / "edu", case.PROGRAMS / "nodes"
TRANSLATED = ("type1", "iommufd")


@functools.cache
def with_iommu():
    commands = {}
    for mode in TRANSLATED:
        commands[f"{mode} nodes"] = [NODES, mode]
        commands[mode] = [EDU, mode]
        for what in ("blocked", "entries", "killed", "shared", "removed"):
            commands[f"{mode} {what}"] = [EDU, mode, what]
    return case.together(commands, devices=["edu", "edu"], timeout=400)


@functools.cache
def without_iommu():
    commands = {"nodes": [NODES, "noiommu"], "works": [EDU, "noiommu"]}
    for what in ("killed", "shared", "removed"):
        commands[what] = [EDU, "noiommu", what]
    return case.together(commands, devices=["edu", "edu"], noiommu=True, timeout=200)


@functools.cache
def of_a_user():
    return case.together({mode: [EDU, mode, "memlock"] for mode in TRANSLATED}, user="64K")


class Edu(case.Case):
    def test_type1(self):
        self.passed(with_iommu()["type1"])

    def test_iommufd(self):
        self.passed(with_iommu()["iommufd"])

    def test_no_iommu(self):
        self.passed(without_iommu()["works"])

    def test_the_nodes_are_there(self):
        for mode in TRANSLATED:
            self.passed(with_iommu()[f"{mode} nodes"])
        self.passed(without_iommu()["nodes"])

    def test_writes_to_what_is_not_mapped_or_read_only_change_nothing(self):
        for mode in TRANSLATED:
            result = self.passed(with_iommu()[f"{mode} blocked"])
            address = int(re.search(r"gone (0x\w+)", result.output)[1], 16)
            self.assertIn(f"fault addr {address:#x}", result.dmesg, result)
            self.assertRegex(result.dmesg, r"DMAR: \[DMA Write.*00:04\.0")

    def test_type1_has_65535_entries(self):
        print(self.passed(with_iommu()["type1 entries"]).output)

    def test_iommufd_has_no_such_limit(self):
        print(self.passed(with_iommu()["iommufd entries"]).output)

    def test_a_user_hears_of_the_limit_of_locked_memory(self):
        for result in of_a_user().values():
            print(self.passed(result).output)

    def test_the_device_is_given_back_when_the_system_asks(self):
        for mode in TRANSLATED:
            self.passed(with_iommu()[f"{mode} removed"])
        self.passed(without_iommu()["removed"])

    def test_a_process_that_is_killed_leaves_the_device_to_the_next(self):
        for mode in TRANSLATED:
            self.passed(with_iommu()[f"{mode} killed"])
        self.passed(without_iommu()["killed"])

    def test_two_devices_share_an_address_space(self):
        for mode in TRANSLATED:
            self.passed(with_iommu()[f"{mode} shared"])
        self.passed(without_iommu()["shared"])

    def test_no_address_is_clamped(self):
        for results in (with_iommu(), without_iommu()):
            for result in results.values():
                self.assertNotIn("clamping", result.qemu)


if __name__ == "__main__":
    case.main()
