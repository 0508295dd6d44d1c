#include "lib/page_info.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/thread.h"
#include "tests/unit.h"

#include <fstream>
#include <sstream>
#include <vector>

namespace pagoda::test {
namespace {

class what_pages_there_are : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(what_pages_there_are, adds_up) {
    ::page *p = alloc_pages(GFP_KERNEL, 9);
    unsigned long free_before = nr_free_pages();
    unsigned long all = totalram_pages();
    pagoda_sysinfo info;
    si_meminfo(&info);
    EXPECT_EQ(info.totalram, all);
    EXPECT_EQ(info.freeram, free_before);
    EXPECT_EQ(info.mem_unit, PAGE_SIZE);
    EXPECT_EQ(info.totalhigh, 0u);
    __free_pages(p, 9);
    EXPECT_EQ(nr_free_pages(), free_before + 512);
    EXPECT_EQ(totalram_pages(), all);
}

// All that is mapped for the zone is in the allocator's hands: nothing of it is kept back.
TEST_F(what_pages_there_are, is_all_that_the_zone_has_mapped) {
    ::page *p = alloc_contig_pages(20'000, GFP_KERNEL, NUMA_NO_NODE, nullptr);
    ASSERT_NE(p, nullptr);
    auto base = reinterpret_cast<uintptr_t>(pfn_to_virt(0));
    uint64_t mapped = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        uintptr_t from = 0;
        uintptr_t to = 0;
        char dash = 0;
        std::istringstream(line) >> std::hex >> from >> dash >> to;
        if (from >= base && from < base + kZoneSpan)
            mapped += to - from;
    }
    EXPECT_EQ(totalram_pages(), mapped / PAGE_SIZE);
    free_contig_range(page_to_pfn(p), 20'000);
}

TEST_F(what_pages_there_are, is_told_by_zone) {
    const char *names[] = {"DMA", "DMA32", "Normal", "HighMem", "Movable"};
    pagoda_zone_info info;
    for (unsigned zone = 0; zone < 5; zone++) {
        ASSERT_TRUE(pagoda_zoneinfo(zone, &info));
        EXPECT_STREQ(info.name, names[zone]);
        EXPECT_EQ(info.managed == 0, zone != 2);
        EXPECT_EQ(info.managed, info.present);
        EXPECT_GE(info.spanned, info.present);
        EXPECT_GE(info.present, info.free);
        EXPECT_LE(info.min, info.low);
        EXPECT_LE(info.low, info.high);
        if (zone == 2) {
            EXPECT_EQ(info.present, totalram_pages());
            EXPECT_EQ(info.free, nr_free_pages());
        }
    }
    EXPECT_FALSE(pagoda_zoneinfo(5, &info));
}

TEST_F(what_pages_there_are, is_not_told_to_a_handler_that_interrupted_the_allocator) {
    slow_path interrupted;
    lock_guard g(zone_normal().lock());
    EXPECT_EQ(nr_free_pages(), 0u);
    EXPECT_EQ(totalram_pages(), 0u);
    pagoda_zone_info info;
    EXPECT_TRUE(pagoda_zoneinfo(2, &info));
    EXPECT_EQ(info.present, 0u);
}

TEST_F(what_pages_there_are, lies_where_the_kernel_says) {
    EXPECT_EQ(pagoda_phys_contiguous(this, 0), -EINVAL);
    EXPECT_EQ(pagoda_phys_contiguous(this, SIZE_MAX), -EINVAL);
    auto *last = reinterpret_cast<void *>(~uintptr_t{0} - 100); // rounded up the end would be 0
    EXPECT_EQ(pagoda_phys_contiguous(last, 50), -EINVAL);
    char *p = reinterpret_cast<char *>(__get_free_pages(GFP_KERNEL, 0));
    *p = 1;
    EXPECT_EQ(pagoda_phys_contiguous(p, 1), geteuid() == 0 ? 1 : -EPERM);
    free_page(reinterpret_cast<unsigned long>(p));
    char *untouched = static_cast<char *>(
        mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_EQ(pagoda_phys_contiguous(untouched, 1 << 20), -ENODATA);
    munmap(untouched, 1 << 20);
}

TEST_F(what_pages_there_are, is_contiguous_inside_a_huge_page) {
    if (geteuid() != 0)
        GTEST_SKIP() << "frame numbers need CAP_SYS_ADMIN";
    child_end end = in_child([] {
        mutable_options().thp = thp_policy::always;
        int contiguous = 0;
        for (int i = 0; i < 16; i++) {
            char *p = reinterpret_cast<char *>(__get_free_pages(GFP_KERNEL | __GFP_ZERO, 9));
            ASSERT_NE(p, nullptr);
            memset(p, 1, 2 << 20);
            contiguous += pagoda_phys_contiguous(p, 2 << 20) == 1;
        }
        // The blocks are all that is made of huge pages.
        EXPECT_EQ(contiguous > 0, zone_normal().stats().huge_blocks > 0) << contiguous;
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(what_pages_there_are, is_unknown_without_privilege) {
    if (geteuid() != 0)
        GTEST_SKIP() << "already without";
    child_end end = in_child([] {
        char *p = reinterpret_cast<char *>(__get_free_pages(GFP_KERNEL | __GFP_ZERO, 1));
        memset(p, 1, 2 * PAGE_SIZE);
        ASSERT_EQ(setuid(65534), 0);
        EXPECT_EQ(pagoda_phys_contiguous(p, 2 * PAGE_SIZE), -EPERM);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(what_pages_there_are, is_found_by_arithmetic) {
    std::vector<char *> blocks;
    for (int i = 0; i < 64; i++)
        blocks.push_back(reinterpret_cast<char *>(__get_free_pages(GFP_KERNEL, 4)));
    random_numbers random(3);
    uint64_t wrong = 0;
    uint64_t lookups = kDebug ? 1'000'000 : 100'000'000;
    for (uint64_t i = 0; i < lookups; i++) {
        char *p = blocks[i & 63] + (random.next() & 0xffff);
        ::page *found = virt_to_page(p);
        wrong +=
            page_address(found) != static_cast<void *>(p - (reinterpret_cast<uintptr_t>(p) & 4095));
        wrong += pfn_to_page(page_to_pfn(found)) != found;
    }
    EXPECT_EQ(wrong, 0u);
    for (char *p : blocks)
        free_pages(reinterpret_cast<unsigned long>(p), 4);
}

} // namespace
} // namespace pagoda::test
