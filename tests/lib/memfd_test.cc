#include "lib/memfd.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "tests/unit.h"

#include <pagoda/mm.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <vector>

namespace pagoda {
namespace {

class MemfdTest : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
    void TearDown() override {
        sys::inject_failures(0, 0);
        mutable_options() = option_values{};
    }

    char *map(const page *first, uint32_t count) {
        long at = sys::reserve_anywhere(count * kPageSize);
        EXPECT_FALSE(sys::failed(at));
        EXPECT_EQ(map_memfd_pages(static_cast<uintptr_t>(at), first, count, PROT_READ | PROT_WRITE),
                  0);
        return reinterpret_cast<char *>(at);
    }
    static int next_descriptor() {
        int fd = dup(0);
        close(fd);
        return fd;
    }
};

TEST_F(MemfdTest, PagesAreMemoryOfOneFile) {
    memfd_region *region = region_create("test", 5, true, GFP_KERNEL);
    ASSERT_NE(region, nullptr);
    EXPECT_GT(region->fd, 2);
    EXPECT_NE(fcntl(region->fd, F_GETFD) & FD_CLOEXEC, 0);
    char *all = map(region->records, 5);
    char *third = map(region->records + 2, 1);
    EXPECT_EQ(all[2 * kPageSize], 0);
    third[7] = 'x';
    EXPECT_EQ(all[2 * kPageSize + 7], 'x');
    for (uint32_t i = 0; i < 5; i++) {
        EXPECT_TRUE(is_memfd_page(public_page(region->records + i)));
        EXPECT_EQ(index_in_region(region->records + i), i);
        EXPECT_EQ(file_offset(region->records + i), i * kPageSize);
    }
    region_put(region, 1);
    EXPECT_EQ(all[2 * kPageSize + 7], 'x'); // a mapping keeps the memory
    munmap(all, 5 * kPageSize);
    munmap(third, kPageSize);
}

TEST_F(MemfdTest, PagesOfTheZonesAreNot) {
    page_state state;
    uint32_t first = zone_normal().alloc(1, 0, GFP_KERNEL, &state);
    ASSERT_NE(first, kNoPage);
    EXPECT_FALSE(is_memfd_page(public_page(&page_at(first))));
    EXPECT_FALSE(is_memfd_page(public_page(
        g_pagemap.memmap + (g_space.vmalloc_base + kVmallocSpan - g_space.zone_base) / kPageSize)));
    EXPECT_FALSE(is_memfd_page(nullptr));
    // What virt_to_page() makes of any address at all.
    for (uintptr_t at = 0; at < uintptr_t{1} << 47; at += uintptr_t{7} << 30)
        EXPECT_FALSE(is_memfd_page(virt_to_page(reinterpret_cast<void *>(at))));
    zone_normal().free(first, 1, true, GFP_KERNEL);
}

// Regions come and go; their struct pages never overlap and begin zeroed.
TEST_F(MemfdTest, RecordsAreReused) {
    test::random_numbers random(9);
    std::vector<memfd_region *> live;
    uint64_t pages = 0;
    uint64_t most = 0;
    for (int i = 0; i < 3000; i++) {
        if (live.size() < 40 && random.below(2) == 0) {
            auto count = static_cast<uint32_t>(1 + random.below(100));
            memfd_region *region = region_create("test", count, false, GFP_KERNEL);
            ASSERT_NE(region, nullptr);
            for (uint32_t j = 0; j < count; j++) {
                ASSERT_FALSE(is_memfd_page(public_page(region->records + j)));
                ASSERT_EQ(region->records[j].npages | region->records[j].link, 0u);
                region->records[j].owner = region;
                region->records[j].npages = region->records[j].link = 77;
            }
            live.push_back(region);
            pages += count;
            most = std::max(most, pages);
        } else if (!live.empty()) {
            std::swap(live[random.below(live.size())], live.back());
            memfd_region *region = live.back();
            live.pop_back();
            for (uint32_t j = 0; j < region->pages; j++)
                ASSERT_EQ(region->records[j].owner, region);
            pages -= region->pages;
            region_put(region, 1);
        }
    }
    for (memfd_region *region : live)
        region_put(region, 1);
    EXPECT_LT(g_space.memfd_pages.bytes(), 4 * most * sizeof(page));
}

TEST_F(MemfdTest, TheLastUserEndsTheRegionAndItsCharge) {
    uint64_t live = zone_normal().live_bytes();
    int fd = next_descriptor();
    memfd_region *region = region_create("test", 512, true, GFP_KERNEL);
    ASSERT_NE(region, nullptr);
    EXPECT_GE(zone_normal().live_bytes(), live + 512 * kPageSize);
    region->users += 3;
    region_put(region, 1);
    EXPECT_NE(fcntl(region->fd, F_GETFD), -1);
    region_put(region, 3);
    EXPECT_EQ(next_descriptor(), fd);
    EXPECT_LT(zone_normal().live_bytes(), live + 512 * kPageSize);
}

TEST_F(MemfdTest, MemoryIsHadAndGivenBackByThePiece) {
    memfd_region *region = region_create("test", 1024, false, GFP_KERNEL);
    ASSERT_NE(region, nullptr);
    for (uint32_t i = 0; i < 1024; i++)
        region->records[i].owner = region;
    struct stat status;
    EXPECT_TRUE(region_reserve(region, 8, 16));
    ASSERT_EQ(fstat(region->fd, &status), 0);
    EXPECT_EQ(status.st_blocks * 512, 16 * int64_t{kPageSize});
    char *p = map(region->records + 8, 16);
    memset(p, 'x', 16 * kPageSize);
    region_release(region, 10, 1);
    ASSERT_EQ(fstat(region->fd, &status), 0);
    EXPECT_EQ(status.st_blocks * 512, 15 * int64_t{kPageSize});
    EXPECT_EQ(p[2 * kPageSize], 0);
    EXPECT_EQ(p[3 * kPageSize], 'x');
    sys::inject_failures(0, 1);
    EXPECT_FALSE(region_reserve(region, 100, 1));
    region_release(region, 8, 2);
    region_release(region, 11, 13);
    region_put(region, 1);
    munmap(p, 16 * kPageSize);
}

TEST_F(MemfdTest, TheLimitHolds) {
    mutable_options().limit_bytes = zone_normal().committed() + (8 << 20);
    EXPECT_EQ(region_create("test", 4096, true, GFP_KERNEL), nullptr);
    memfd_region *region = region_create("test", 1024, true, GFP_KERNEL);
    EXPECT_NE(region, nullptr);
    EXPECT_EQ(region_create("test", 1536, true, GFP_KERNEL), nullptr);
    region_put(region, 1);
    region = region_create("test", 1536, true, GFP_KERNEL);
    EXPECT_NE(region, nullptr);
    region_put(region, 1);
}

TEST_F(MemfdTest, ImportsPartsOfFiles) {
    FILE *file = tmpfile();
    int fd = fileno(file);
    ASSERT_EQ(ftruncate(fd, 10 * kPageSize), 0);
    ASSERT_EQ(pwrite(fd, "abc", 3, 3 * kPageSize), 3);
    memfd_region *region = nullptr;
    EXPECT_EQ(region_import(fd, 3 * kPageSize, 8, &region), -EINVAL); // beyond the end
    EXPECT_EQ(region_import(fd, 11 * kPageSize, 1, &region), -EINVAL);
    EXPECT_EQ(region_import(fd, 100, 1, &region), -EINVAL);
    EXPECT_EQ(region_import(fd, 0, 0, &region), -EINVAL);
    EXPECT_EQ(region_import(-1, 0, 1, &region), -EBADF);
    ASSERT_EQ(region_import(fd, 3 * kPageSize, 7, &region), 0);
    fclose(file);
    EXPECT_EQ(file_offset(region->records + 1), 4 * kPageSize);
    char *p = map(region->records, 7);
    EXPECT_STREQ(p, "abc");
    munmap(p, 7 * kPageSize);
    region_put(region, 1);
}

TEST_F(MemfdTest, FailuresLeaveNothingBehind) {
    int fd = next_descriptor();
    uint64_t live = zone_normal().live_bytes();
    sys::inject_failures(0, 100);
    EXPECT_EQ(region_create("test", 4096, true, GFP_KERNEL), nullptr);
    sys::inject_failures(0, 0);
    EXPECT_EQ(next_descriptor(), fd);
    EXPECT_LT(zone_normal().live_bytes(), live + 4096 * kPageSize);
    auto end = test::in_child([] {
        test::limit(RLIMIT_NOFILE, 3);
        EXPECT_EQ(region_create("test", 1, true, GFP_KERNEL), nullptr);
    });
    EXPECT_TRUE(test::succeeded(end));
    end = test::in_child([] {
        test::limit(RLIMIT_FSIZE, kPageSize); // and no SIGXFSZ
        EXPECT_EQ(region_create("test", 2, true, GFP_KERNEL), nullptr);
        EXPECT_NE(region_create("test", 1, true, GFP_KERNEL), nullptr);
    });
    EXPECT_TRUE(test::succeeded(end));
}

} // namespace
} // namespace pagoda
