#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/shared_blocks.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"

namespace pagoda::test {
namespace {

#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(shared_blocks, name) { EXPECT_TRUE(succeeded(in_child(name))); }                          \
    void name()

char *address(uint32_t block) { return static_cast<char *>(page_address(block * kPageblockPages)); }

// The lines of /proc/self/smaps of the mapping around p.
std::string mapping_of(const void *p) {
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    std::string found;
    bool inside = false;
    while (f != nullptr && fgets(line, sizeof line, f) != nullptr) {
        uintptr_t from = 0;
        uintptr_t to = 0;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = reinterpret_cast<uintptr_t>(p) >= from && reinterpret_cast<uintptr_t>(p) < to;
        if (inside)
            found += line;
    }
    if (f != nullptr)
        fclose(f);
    return found;
}

TEST_IN_CHILD(are_populated_shared_and_not_for_children) {
    ASSERT_TRUE(heap_init());
    for (uint32_t count : {1u, 3u, 8u, 16u}) {
        uint32_t block = shared_blocks_take(count);
        ASSERT_NE(block, kNoPage);
        uint32_t align = 1u << order_of(count);
        EXPECT_EQ(block % align, 0u);
        char *at = address(block);
        size_t bytes = size_t{count} << kPageblockShift;
        for (size_t i = 0; i < bytes; i += kPageSize)
            ASSERT_TRUE(resident(at + i));
        std::string map = mapping_of(at);
        EXPECT_NE(map.find("rw-s"), std::string::npos) << map;
        EXPECT_NE(map.find(" dc"), std::string::npos) << map; // VmFlags: not copied on fork
        memset(at, 0x5a, bytes);
        pid_t child = fork();
        if (child == 0) {
            unsigned char in = 0;
            _exit(mincore(at, kPageSize, &in) == 0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        EXPECT_EQ(status, 0) << "it is mapped in the child";
        shared_blocks_give(block, count);
    }
    EXPECT_EQ(zone_normal().stats().set_aside, 0u);
    EXPECT_TRUE(zone_normal().consistent());
}

// The zone's next growth extends its last mapping, which must be none of these.
TEST_IN_CHILD(at_the_zones_end_do_not_grow_with_it) {
    ASSERT_TRUE(heap_init());
    uint32_t held[16];
    for (uint32_t &block : held) {
        block = shared_blocks_take(1);
        ASSERT_NE(block, kNoPage);
        memset(address(block), 0x11, kPageblockSize);
        page_state state;
        uint32_t first = zone_normal().alloc(700, 0, GFP_KERNEL, &state);
        ASSERT_NE(first, kNoPage);
        std::string map = mapping_of(page_address(first));
        EXPECT_EQ(map.find("rw-s"), std::string::npos) << map;
        memset(page_address(first), 0x22, size_t{700} * kPageSize);
    }
    for (uint32_t block : held) {
        for (size_t i = 0; i < kPageblockSize; i += 512)
            ASSERT_EQ(address(block)[i], 0x11);
        shared_blocks_give(block, 1);
    }
    EXPECT_TRUE(zone_normal().consistent());
}

// Neither do they when private pageblocks behind them, which were unmapped, come back.
TEST_IN_CHILD(before_a_hole_do_not_grow_into_it) {
    ASSERT_TRUE(heap_init());
    uint32_t held[8];
    uint32_t behind[8];
    page_state state;
    for (int i = 0; i < 8; i++) {
        held[i] = shared_blocks_take(1);
        behind[i] = zone_normal().alloc(kPageblockPages, 9, GFP_KERNEL, &state);
        ASSERT_TRUE(held[i] != kNoPage && behind[i] != kNoPage);
        memset(address(held[i]), 0x33, kPageblockSize);
    }
    for (uint32_t first : behind)
        zone_normal().free(first, kPageblockPages, false, GFP_KERNEL);
    uint64_t present = zone_normal().stats().present;
    zone_normal().squeeze(kPageSize);
    ASSERT_LE(zone_normal().stats().present, present - 6 * kPageblockPages);
    for (uint32_t &first : behind) {
        first = zone_normal().alloc(kPageblockPages, 9, GFP_KERNEL, &state);
        ASSERT_NE(first, kNoPage);
        std::string map = mapping_of(page_address(first));
        EXPECT_NE(map.find("rw-p"), std::string::npos) << map;
        memset(page_address(first), 0x44, kPageblockSize);
    }
    for (uint32_t block : held)
        for (size_t i = 0; i < kPageblockSize; i += 512)
            ASSERT_EQ(address(block)[i], 0x33);
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_IN_CHILD(come_back_as_private_memory_that_reads_as_zero) {
    ASSERT_TRUE(heap_init());
    uint32_t block = shared_blocks_take(4);
    ASSERT_NE(block, kNoPage);
    memset(address(block), 0x77, 4 * kPageblockSize);
    shared_blocks_give(block, 4);
    uint64_t present = zone_normal().stats().present;
    page_state state;
    for (bool found = false; !found;) {
        uint32_t first = zone_normal().alloc(kPageblockPages, 9, GFP_KERNEL, &state);
        ASSERT_NE(first, kNoPage);
        ASSERT_EQ(zone_normal().stats().present, present) << "they are not in the zone";
        found = first / kPageblockPages == block;
        std::string map = mapping_of(page_address(first));
        EXPECT_NE(map.find("rw-p"), std::string::npos) << map;
        EXPECT_EQ(map.find(" dc"), std::string::npos) << map;
        const char *bytes = static_cast<char *>(page_address(first));
        for (size_t i = 0; state.zeroed && i < kPageblockSize; i++)
            ASSERT_EQ(bytes[i], 0);
    }
}

// Whatever call is the first that fails, nothing is left behind but what worked.
TEST_IN_CHILD(that_cannot_be_had_leave_nothing_behind) {
    ASSERT_TRUE(heap_init());
    shared_blocks_give(shared_blocks_take(2), 2); // the zone has grown
    int works = 0;
    for (;; works++) {
        zone_stats before = zone_normal().stats();
        sys::inject_failures(works, 1);
        uint32_t block = shared_blocks_take(2);
        sys::inject_failures(0, 0);
        if (block != kNoPage && works > 20)
            break;
        if (block != kNoPage) // the hugetlb pool, or what follows it, was not needed
            shared_blocks_give(block, 2);
        zone_stats after = zone_normal().stats();
        EXPECT_EQ(after.set_aside, before.set_aside) << works;
        EXPECT_EQ(after.present, before.present) << works;
        EXPECT_EQ(after.free, before.free) << works;
        EXPECT_TRUE(zone_normal().consistent());
    }
    limit(RLIMIT_NOFILE, 0);
    EXPECT_EQ(shared_blocks_take(1), kNoPage);
}

TEST_IN_CHILD(that_cannot_be_mapped_anew_lose_their_addresses_alone) {
    ASSERT_TRUE(heap_init());
    uint32_t block = shared_blocks_take(2);
    ASSERT_NE(block, kNoPage);
    sys::inject_failures(0, 1);
    shared_blocks_give(block, 2);
    sys::inject_failures(0, 0);
    EXPECT_FALSE(resident(address(block)));
    EXPECT_EQ(zone_normal().stats().set_aside, 2u * kPageblockPages);
    uint32_t other = shared_blocks_take(2);
    EXPECT_NE(other, kNoPage);
    EXPECT_NE(other, block);
}

TEST_IN_CHILD(count_against_the_limit) {
    ASSERT_EQ(parse_options("limit=64M"), 0);
    ASSERT_TRUE(heap_init());
    uint32_t count = 0;
    while (shared_blocks_take(1) != kNoPage)
        count++;
    EXPECT_GT(count, 16u);
    EXPECT_LE(count, 32u);
    EXPECT_LE(zone_normal().committed(), 64u << 20);
}

} // namespace
} // namespace pagoda::test
