#include "dma/vfio.h"

#include "tests/dma/fake_vfio.h"

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

// An answer whose list of capabilities leads back to its own start.
long circle(int, unsigned long, uintptr_t argument) {
    auto *info = reinterpret_cast<vfio_iommu_type1_info *>(argument);
    info->flags = VFIO_IOMMU_INFO_CAPS;
    info->cap_offset = sizeof *info;
    if (info->argsz >= sizeof *info + sizeof(vfio_info_cap_header)) {
        auto *header = reinterpret_cast<vfio_info_cap_header *>(info + 1);
        *header = {VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, sizeof *info};
    }
    info->argsz = sizeof *info + sizeof(vfio_info_cap_header);
    return 0;
}

// An answer that is always longer than the room for it.
long grows(int, unsigned long, uintptr_t argument) {
    reinterpret_cast<vfio_iommu_type1_info *>(argument)->argsz += 8;
    return 0;
}

} // namespace

TEST(vfio, containers) {
    fake_vfio kernel;
    EXPECT_EQ(vfio::check_container(3, false), 0);
    EXPECT_EQ(vfio::check_container(3, true), -ENODEV);
    kernel.noiommu = true;
    EXPECT_EQ(vfio::check_container(3, true), 0);
    EXPECT_EQ(vfio::check_container(3, false), -ENODEV);
    kernel.errors[VFIO_GET_API_VERSION] = EBADF;
    EXPECT_EQ(vfio::check_container(3, false), -EBADF);
    EXPECT_EQ(vfio::group_is_viable(3), 1);
    kernel.viable = false;
    EXPECT_EQ(vfio::group_is_viable(3), 0);
    kernel.errors[VFIO_GROUP_GET_STATUS] = ENODEV;
    EXPECT_EQ(vfio::group_is_viable(3), -ENODEV);
    kernel.errors[VFIO_GROUP_SET_CONTAINER] = EBUSY;
    EXPECT_EQ(vfio::group_set_container(3, 4), -EBUSY);
    kernel.errors[VFIO_SET_IOMMU] = EPERM;
    EXPECT_EQ(vfio::set_iommu(3, false), -EPERM);
    EXPECT_EQ(vfio::group_device(3, "0000:00:1f.0"), -1) << "the kernel's answer is passed on";
}

TEST(vfio, type1_windows_entries_and_page_sizes) {
    fake_vfio kernel;
    vfio::type1_info info;
    iova_window windows[4] = {};
    ASSERT_EQ(vfio::type1_get_info(3, &info, windows, 4), 0);
    EXPECT_EQ(info.page_sizes, 0x40201000u);
    EXPECT_EQ(info.entries_left, 65535u);
    ASSERT_EQ(info.windows, 2);
    EXPECT_EQ(windows[0].last, 0xfedfffffu);
    EXPECT_EQ(windows[1].first, 0xfef00000u);
    EXPECT_EQ(windows[1].last, 0x7fffffffffu);
    windows[1] = {7, 7};
    ASSERT_EQ(vfio::type1_get_info(3, &info, windows, 1), 0);
    EXPECT_EQ(info.windows, 2) << "how many there are, not how many had room";
    EXPECT_EQ(windows[1].first, 7u);
    for (uint64_t i = 0; i < 100; i++)
        kernel.windows.push_back({i << 40, (i << 40) + 4095});
    ASSERT_EQ(vfio::type1_get_info(3, &info, windows, 4), 0);
    EXPECT_EQ(info.windows, 102);
    kernel.errors[VFIO_IOMMU_GET_INFO] = EFAULT;
    EXPECT_EQ(vfio::type1_get_info(3, &info, windows, 4), -EFAULT);
}

TEST(vfio, answers_that_make_no_sense_end) {
    fake_vfio kernel;
    vfio::type1_info info;
    os::play(kernel.root.c_str(), circle);
    EXPECT_EQ(vfio::type1_get_info(3, &info, nullptr, 0), 0);
    EXPECT_EQ(info.windows, 0);
    EXPECT_EQ(info.entries_left, UINT64_MAX);
    os::play(kernel.root.c_str(), grows);
    EXPECT_EQ(vfio::type1_get_info(3, &info, nullptr, 0), -EAGAIN);
}

TEST(vfio, type1_maps_and_unmaps) {
    fake_vfio kernel;
    EXPECT_EQ(vfio::type1_map(3, 0x10000, 0x700000, 8192, kDeviceReads), 0);
    EXPECT_EQ(kernel.mapped[0x10000].bytes, 8192u);
    EXPECT_EQ(kernel.mapped[0x10000].at, 0x700000u);
    EXPECT_EQ(kernel.mapped[0x10000].flags, uint32_t{VFIO_DMA_MAP_FLAG_READ});
    EXPECT_EQ(vfio::type1_map(3, 0x20000, 0x700000, 4096, kDeviceWrites), 0);
    EXPECT_EQ(kernel.mapped[0x20000].flags, uint32_t{VFIO_DMA_MAP_FLAG_WRITE});
    EXPECT_EQ(vfio::type1_map(3, 0x11000, 0x700000, 4096, kDeviceReads), -EEXIST);
    EXPECT_EQ(vfio::type1_unmap(3, 0x10000, 4096), -EINVAL);
    EXPECT_EQ(vfio::type1_unmap(3, 0x10000, 8192), 0);
    EXPECT_EQ(vfio::type1_unmap(3, 0x10000, 8192), -ENOENT);
}

TEST(vfio, iommufd) {
    fake_vfio kernel;
    uint32_t ioas = 0;
    uint64_t granule = 0;
    iova_window windows[4] = {};
    EXPECT_EQ(vfio::bind_iommufd(3, 4), 0);
    EXPECT_EQ(vfio::ioas_alloc(4, &ioas), 0);
    EXPECT_EQ(ioas, 1u);
    EXPECT_EQ(vfio::attach_ioas(3, ioas), 0);
    EXPECT_EQ(vfio::ioas_windows(4, ioas, windows, 4, &granule), 2);
    EXPECT_EQ(granule, 4096u);
    EXPECT_EQ(windows[1].last, 0x7fffffffffu);
    EXPECT_EQ(vfio::ioas_windows(4, ioas, windows, 1, &granule), 2);
    EXPECT_EQ(vfio::ioas_map(4, ioas, 0x10000, 0x700000, 8192, kDeviceReads | kDeviceWrites), 0);
    EXPECT_EQ(kernel.mapped[0x10000].at, 0x700000u);
    EXPECT_EQ(kernel.mapped[0x10000].flags, 3u);
    EXPECT_EQ(vfio::ioas_map(4, ioas, 0x10000, 0x700000, 4096, kDeviceReads), -EADDRINUSE);
    EXPECT_EQ(vfio::ioas_unmap(4, ioas, 0x10000, 4096), -ENOENT);
    EXPECT_EQ(vfio::ioas_unmap(4, ioas, 0x10000, 8192), 0);
    for (unsigned long request : {kBind, kAttach, kIoasAlloc, kIoasRanges})
        kernel.errors[request] = ENOTTY;
    EXPECT_EQ(vfio::bind_iommufd(3, 4), -ENOTTY);
    EXPECT_EQ(vfio::ioas_alloc(4, &ioas), -ENOTTY);
    EXPECT_EQ(vfio::attach_ioas(3, ioas), -ENOTTY);
    EXPECT_EQ(vfio::ioas_windows(4, ioas, windows, 4, &granule), -ENOTTY);
}

TEST(vfio, regions) {
    fake_vfio kernel;
    vfio::region r;
    ASSERT_EQ(vfio::device_region(3, VFIO_PCI_BAR0_REGION_INDEX, &r), 0);
    EXPECT_EQ(r.bytes, kBarBytes);
    EXPECT_EQ(r.map_first, 0u);
    EXPECT_EQ(r.map_bytes, kBarBytes);
    kernel.sparse = {{0, 4096}, {8192, kBarBytes - 8192}}; // the second page: the MSI-X table
    ASSERT_EQ(vfio::device_region(3, VFIO_PCI_BAR0_REGION_INDEX, &r), 0);
    EXPECT_EQ(r.map_first, 8192u);
    EXPECT_EQ(r.map_bytes, kBarBytes - 8192);
    ASSERT_EQ(vfio::device_region(3, VFIO_PCI_BAR2_REGION_INDEX, &r), 0);
    EXPECT_EQ(r.bytes, kBar2Bytes);
    EXPECT_EQ(r.map_bytes, 0u);
    EXPECT_EQ(vfio::device_region(3, VFIO_PCI_ROM_REGION_INDEX, &r), -EINVAL);
    bool can_reset = false;
    EXPECT_EQ(vfio::device_info(3, &can_reset), 0);
    EXPECT_TRUE(can_reset);
    EXPECT_EQ(vfio::device_reset(3), 0);
    EXPECT_EQ(kernel.resets, 1);
}

TEST(vfio, interrupts) {
    fake_vfio kernel;
    bool automasked = true;
    EXPECT_EQ(vfio::interrupt_count(3, VFIO_PCI_MSIX_IRQ_INDEX, &automasked), 4);
    EXPECT_FALSE(automasked);
    EXPECT_EQ(vfio::interrupt_count(3, VFIO_PCI_INTX_IRQ_INDEX, &automasked), 1);
    EXPECT_TRUE(automasked);
    EXPECT_EQ(vfio::interrupt_count(3, VFIO_PCI_ERR_IRQ_INDEX, &automasked), -EINVAL);
    int fds[2] = {os::make_eventfd(), os::make_eventfd()};
    EXPECT_EQ(vfio::interrupts_enable(3, VFIO_PCI_MSIX_IRQ_INDEX, fds, 2), 0);
    EXPECT_EQ(kernel.interrupts[VFIO_PCI_MSIX_IRQ_INDEX], (std::vector<int>{fds[0], fds[1]}));
    EXPECT_EQ(vfio::interrupt_trigger(3, VFIO_PCI_MSIX_IRQ_INDEX, 1), 0);
    uint64_t count = 0;
    EXPECT_EQ(read(fds[0], &count, 8), -1);
    EXPECT_EQ(read(fds[1], &count, 8), 8);
    EXPECT_EQ(vfio::interrupt_unmask(3, VFIO_PCI_INTX_IRQ_INDEX), 0);
    EXPECT_EQ(kernel.unmasked, 1);
    EXPECT_EQ(vfio::interrupts_disable(3, VFIO_PCI_MSIX_IRQ_INDEX), 0);
    EXPECT_TRUE(kernel.interrupts.empty());
    os::close(fds[0]);
    os::close(fds[1]);
}
