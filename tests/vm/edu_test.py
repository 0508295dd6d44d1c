"""What the IOMMU refuses edu, and what the library says of it."""

import re

import case


class Edu(case.Case):
    def edu(self, *arguments, **options):
        return self.passes(case.PROGRAMS / "edu", *arguments, **options)

    def test_writes_to_what_is_not_mapped_or_read_only_change_nothing(self):
        for mode in ("type1", "iommufd"):
            result = self.edu(mode, "blocked")
            address = int(re.search(r"gone (0x\w+)", result.output)[1], 16)
            self.assertIn(f"fault addr {address:#x}", result.dmesg, result)
            self.assertRegex(result.dmesg, r"DMAR: \[DMA Write.*00:04\.0")

    def test_type1_has_65535_entries(self):
        print(self.edu("type1", "entries", timeout=240).output)

    def test_iommufd_has_no_such_limit(self):
        print(self.edu("iommufd", "entries", timeout=240).output)

    def test_a_user_hears_of_the_limit_of_locked_memory(self):
        for mode in ("type1", "iommufd"):
            print(self.edu(mode, "memlock", user="64K").output)

    def test_the_device_is_given_back_when_the_system_asks(self):
        self.edu("type1", "removed")
        self.edu("iommufd", "removed")

    def test_a_process_that_is_killed_leaves_the_device_to_the_next(self):
        for mode in ("type1", "iommufd"):
            self.edu(mode, "killed")

    def test_two_devices_share_an_address_space_and_no_address_is_clamped(self):
        for mode in ("type1", "iommufd"):
            result = self.edu(mode, "shared", devices=["edu", "edu"])
            self.assertNotIn("clamping", result.qemu)
        result = self.edu("noiommu", "shared", devices=["edu", "edu"], noiommu=True)
        self.assertNotIn("clamping", result.qemu)


if __name__ == "__main__":
    case.main()
