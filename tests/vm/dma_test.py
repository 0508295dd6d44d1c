"""Memory moved by a device: every kind, over every way to reach the device, wide and narrow."""

import functools

import case

DMA, GRANULES = case.PROGRAMS / "dma", case.PROGRAMS / "granules"
DEVICES = ("edu,dma_mask=0xffffffffffffffff", "edu")  # whose own mask is 28 bits
WIDE, NARROW = [64, "00:04.0"], [28, "00:05.0"]


@functools.cache
def with_iommu():
    commands = {}
    for mode in ("type1", "iommufd"):
        commands[mode] = [DMA, mode, *WIDE]
        commands[f"{mode} narrow"] = [DMA, mode, *NARROW]
        commands[f"{mode} granules"] = [GRANULES, mode]
    return case.together(commands, devices=DEVICES, timeout=300)


@functools.cache
def without_iommu():
    return case.together({"wide": [DMA, "noiommu", *WIDE], "narrow": [DMA, "noiommu", *NARROW]},
                         devices=DEVICES, noiommu=True, memory="2G", hugepages=512, timeout=200)


class Dma(case.Case):
    def moved(self, result):
        self.passed(result)
        self.assertNotIn("clamping", result.qemu, "an address beyond the mask reached the device")
        return result

    def test_type1(self):
        result = self.moved(with_iommu()["type1"])
        self.assertRegex(result.dmesg, "DMAR: .*fault")  # of what was blocked

    def test_type1_with_28_bits(self):
        self.moved(with_iommu()["type1 narrow"])

    def test_iommufd(self):
        result = self.moved(with_iommu()["iommufd"])
        self.assertRegex(result.dmesg, "DMAR: .*fault")

    def test_iommufd_with_28_bits(self):
        self.moved(with_iommu()["iommufd narrow"])

    def test_no_iommu(self):
        self.moved(without_iommu()["wide"])

    def test_no_iommu_with_28_bits(self):
        self.moved(without_iommu()["narrow"])

    def test_granules_against_a_mapping_for_each_buffer(self):
        for mode in ("type1", "iommufd"):
            print(self.passed(with_iommu()[f"{mode} granules"]).output)


if __name__ == "__main__":
    case.main()
