"""Memory moved by a device: every kind, over every way to reach the device, wide and narrow."""

import case

WIDE = "edu,dma_mask=0xffffffffffffffff"


class Dma(case.Case):
    def moves(self, mode, bits, **options):
        device = WIDE if bits == 64 else "edu"  # whose own mask is 28 bits
        result = self.passes(case.PROGRAMS / "dma", mode, bits, devices=(device,), timeout=110,
                             **options)
        self.assertNotIn("clamping", result.qemu, "an address beyond the mask reached the device")
        return result

    def test_type1(self):
        result = self.moves("type1", 64)
        self.assertRegex(result.dmesg, "DMAR: .*fault")  # of what was blocked

    def test_type1_with_28_bits(self):
        self.moves("type1", 28)

    def test_iommufd(self):
        result = self.moves("iommufd", 64)
        self.assertRegex(result.dmesg, "DMAR: .*fault")

    def test_iommufd_with_28_bits(self):
        self.moves("iommufd", 28)

    def test_no_iommu(self):
        self.moves("noiommu", 64, noiommu=True)

    def test_no_iommu_with_28_bits(self):
        self.moves("noiommu", 28, noiommu=True, memory="2G", hugepages=512)


if __name__ == "__main__":
    case.main()
