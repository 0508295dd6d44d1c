#include "dma/software.h"

#include "tests/dma/devices.h"

#include <errno.h>
#include <vector>

namespace pagoda::test {
namespace {

using dma::kDeviceReads;
using dma::kDeviceWrites;

TEST(software, accesses_what_is_mapped_and_nothing_else) {
    device_ptr d = software({.name = "test"});
    foreign_pages m(2);
    uint64_t at = 0;
    ASSERT_EQ(
        space_of(d).map_range(m.at + 100, 5000, UINT64_MAX, kDeviceReads | kDeviceWrites, &at), 0);
    EXPECT_EQ(at & 0xfff, 100u);
    char buffer[5000];
    memset(buffer, 'd', sizeof buffer);
    EXPECT_EQ(pagoda_software_dma_write(d.get(), at, buffer, 5000), 0);
    EXPECT_EQ(m.at[99], 'm');
    EXPECT_EQ(m.at[100], 'd');
    EXPECT_EQ(m.at[5099], 'd');
    EXPECT_EQ(m.at[5100], 'm');
    memset(buffer, 0, sizeof buffer);
    EXPECT_EQ(pagoda_software_dma_read(d.get(), at - 1, buffer, 5), 0);
    EXPECT_EQ(memcmp(buffer, "mdddd\0", 6), 0);
    EXPECT_EQ(faults(d), 0u);

    memset(m.at, 'm', m.bytes);
    EXPECT_EQ(pagoda_software_dma_write(d.get(), at + 8000, buffer, 200), -EFAULT);
    for (size_t i = 0; i < m.bytes; i++)
        ASSERT_EQ(m.at[i], 'm') << "nothing of a faulting write may reach memory";
    pagoda_software_fault f = last_fault(d);
    EXPECT_STREQ(f.device, "test");
    EXPECT_EQ(f.address, (at & ~uint64_t{0xfff}) + 0x2000);
    EXPECT_TRUE(f.write);
    EXPECT_STREQ(f.reason, "Nothing is mapped there.");

    ASSERT_EQ(space_of(d).unmap_range(at, 5000), 0);
    EXPECT_EQ(pagoda_software_dma_read(d.get(), at, buffer, 1), -EFAULT);
    EXPECT_FALSE(last_fault(d).write);
    EXPECT_EQ(faults(d), 2u);
}

TEST(software, keeps_to_the_direction_of_a_mapping) {
    device_ptr d = software();
    foreign_pages m(1);
    char byte = 'd';
    for (int access : {kDeviceReads, kDeviceWrites}) {
        uint64_t at = 0;
        ASSERT_EQ(space_of(d).map_range(m.at, 1, UINT64_MAX, access, &at), 0);
        EXPECT_EQ(pagoda_software_dma_read(d.get(), at, &byte, 1),
                  access == kDeviceReads ? 0 : -EFAULT);
        EXPECT_EQ(pagoda_software_dma_write(d.get(), at, &byte, 1),
                  access == kDeviceWrites ? 0 : -EFAULT);
        EXPECT_EQ(last_fault(d).write, access == kDeviceReads);
        ASSERT_EQ(space_of(d).unmap_range(at, 1), 0);
    }
}

TEST(software, a_narrow_device_cuts_addresses_off_and_that_is_seen) {
    device_ptr d = software({.width = 28});
    foreign_pages m(1);
    uint64_t at = 0;
    ASSERT_EQ(space_of(d).map_range(m.at, 1, (1u << 28) - 1, kDeviceReads, &at), 0);
    EXPECT_LT(at, 1u << 28);
    char byte = 0;
    EXPECT_EQ(pagoda_software_dma_read(d.get(), at, &byte, 1), 0);
    EXPECT_EQ(faults(d), 0u);
    EXPECT_EQ(pagoda_software_dma_read(d.get(), at | 1u << 28, &byte, 1), 0);
    EXPECT_EQ(byte, 'm');
    EXPECT_EQ(last_fault(d).address, at | 1u << 28);
    EXPECT_EQ(space_of(d).unmap_range(at, 1), 0);
}

TEST(software, its_log_keeps_the_newest_256_faults) {
    device_ptr d = software();
    char byte = 0;
    for (uint64_t i = 1; i <= 300; i++)
        EXPECT_EQ(pagoda_software_dma_read(d.get(), i << 12, &byte, 1), -EFAULT);
    std::vector<pagoda_software_fault> log(400);
    EXPECT_EQ(pagoda_software_faults(d.get(), log.data(), 400), 300u);
    EXPECT_EQ(log[0].address, 45u << 12);
    EXPECT_EQ(log[255].address, 300u << 12);
    EXPECT_EQ(log[256].reason, nullptr);
    EXPECT_EQ(pagoda_software_faults(d.get(), log.data(), 2), 300u);
    EXPECT_EQ(log[0].address, 299u << 12);
}

TEST(software, refuses_what_an_iommu_refuses) {
    device_ptr d = software({.entry_limit = 2, .memlock = 3 << kPageShift});
    dma::iommu &i = space_of(d).back_end();
    foreign_pages m(4);
    auto map = [&](uint64_t iova, size_t n) {
        return i.ops->map(i, iova, m.address(), n << kPageShift, kDeviceReads);
    };
    EXPECT_EQ(map(0xfede0000, 0x100), -EINVAL) << "into the hole";
    EXPECT_EQ(map(0xfee00000, 1), -EINVAL);
    EXPECT_EQ(map(uint64_t{1} << 39, 1), -EINVAL);
    EXPECT_EQ(map(0x1001, 1), -EINVAL);
    EXPECT_EQ(map(0x1000, 0), -EINVAL);
    EXPECT_EQ(i.ops->map(i, 0x1000, m.address(), 4096, 0), -EINVAL);
    EXPECT_EQ(map(0x1000, 4), -ENOMEM) << "memlock";
    EXPECT_EQ(map(0x1000, 2), 0);
    EXPECT_EQ(map(0x2000, 1), -EEXIST);
    EXPECT_EQ(i.ops->entries_left(i), 1u);
    EXPECT_EQ(i.ops->unmap(i, 0x1000, 0x1000), -EINVAL) << "a part";
    EXPECT_EQ(i.ops->unmap(i, 0x2000, 0x1000), -EINVAL);
    EXPECT_EQ(map(0x8000, 1), 0);
    EXPECT_EQ(map(0x9000, 1), -ENOSPC);
    EXPECT_EQ(i.ops->unmap(i, 0x1000, 0x8000), -EINVAL) << "more than an entry";
    EXPECT_EQ(i.ops->unmap(i, 0x8000, 0x1000), 0);
    EXPECT_EQ(i.ops->unmap(i, 0x8000, 0x1000), -EINVAL) << "twice";
    EXPECT_EQ(i.ops->unmap(i, 0x1000, 0x2000), 0);
    EXPECT_EQ(i.ops->entries_left(i), 2u);
}

TEST(software, fails_the_maps_that_it_is_told_to) {
    device_ptr d = software();
    foreign_pages m(1);
    for (int error : {-ENOMEM, -ENOSPC, -EINVAL}) {
        pagoda_software_fail_maps(d.get(), 1, 2, error);
        uint64_t at[4];
        for (int i = 0; i < 4; i++)
            EXPECT_EQ(space_of(d).map_range(m.at, 1, UINT64_MAX, kDeviceReads, &at[i]),
                      i == 1 || i == 2 ? error : 0);
        EXPECT_EQ(space_of(d).unmap_range(at[0], 1), 0);
        EXPECT_EQ(space_of(d).unmap_range(at[3], 1), 0);
    }
    EXPECT_EQ(space_of(d).counters().mapped_bytes, 0u);
}

TEST(software, without_an_iommu_memory_has_made_up_frames) {
    device_ptr d = software({.no_iommu = true, .physical_bits = 30});
    EXPECT_EQ(pagoda_device_iommu(d.get()), PAGODA_IOMMU_NONE);
    dma::iommu &i = space_of(d).back_end();
    EXPECT_FALSE(i.ops->translates);
    foreign_pages m(1200); // in three blocks
    uint64_t physical = i.ops->physical(i, m.address());
    ASSERT_NE(physical, 0u);
    EXPECT_LT(physical, 1u << 30);
    EXPECT_EQ(physical & (kPageblockSize - 1), m.address() & (kPageblockSize - 1));
    EXPECT_EQ(i.ops->physical(i, m.address()), physical) << "it stays";
    char byte = 'd';
    EXPECT_EQ(pagoda_software_dma_write(d.get(), physical + 5, &byte, 1), 0);
    EXPECT_EQ(m.at[5], 'd');
    uint64_t second = i.ops->physical(i, m.address() + kPageblockSize);
    EXPECT_NE(second - physical, kPageblockSize) << "frames are not consecutive";
    uint64_t at = 0;
    EXPECT_EQ(space_of(d).map_range(m.at, 1, UINT64_MAX, kDeviceReads, &at), -ERANGE);
    EXPECT_EQ(space_of(d).reach(m.at, 1, UINT64_MAX), -EFAULT);
}

TEST(software, devices_can_share_an_iommu) {
    device_ptr one = software({.name = "one"});
    device_ptr two = software({.name = "two", .beside = one.get()});
    foreign_pages m(1);
    uint64_t at = 0;
    ASSERT_EQ(space_of(one).map_range(m.at, 1, UINT64_MAX, kDeviceReads, &at), 0);
    char byte = 0;
    EXPECT_EQ(pagoda_software_dma_read(two.get(), at, &byte, 1), 0);
    EXPECT_EQ(pagoda_software_dma_write(two.get(), at, &byte, 1), -EFAULT);
    EXPECT_STREQ(last_fault(one).device, "two");
    one.reset();
    EXPECT_EQ(pagoda_software_dma_read(two.get(), at, &byte, 1), 0) << "the space stays";
}

TEST(software, options_that_make_no_sense_are_refused_with_a_sentence) {
    uint64_t first[] = {0x10000, 0x8000};
    uint64_t last[] = {0x1ffff, 0x8fff};
    for (const software_options &o :
         {software_options{.width = 65}, software_options{.granule = 5000},
          software_options{.no_iommu = true, .physical_bits = 60},
          software_options{.window_first = first, .window_last = last, .windows = 2},
          software_options{.windows = 1}}) {
        errno = 0;
        EXPECT_EQ(o.make(), nullptr);
        EXPECT_EQ(errno, EINVAL);
        EXPECT_STRNE(pagoda_device_error(), "");
    }
}

TEST(software, in_a_child_of_fork_the_device_is_gone) {
    device_ptr d = software();
    foreign_pages m(1);
    uint64_t at = 0;
    ASSERT_EQ(space_of(d).map_range(m.at, 1, UINT64_MAX, kDeviceReads, &at), 0);
    EXPECT_TRUE(succeeded(in_child([&] {
        char byte = 0;
        EXPECT_EQ(pagoda_software_dma_read(d.get(), at, &byte, 1), -ENODEV);
        uint64_t other = 0;
        EXPECT_EQ(space_of(d).map_range(m.at, 1, UINT64_MAX, kDeviceReads, &other), -ENODEV);
        EXPECT_NE(strstr(pagoda_device_error(), "fork"), nullptr);
        EXPECT_EQ(space_of(d).virtual_address(at), nullptr);
    })));
    EXPECT_EQ(space_of(d).virtual_address(at), m.at);
    EXPECT_EQ(space_of(d).unmap_range(at, 1), 0);
}

} // namespace
} // namespace pagoda::test
