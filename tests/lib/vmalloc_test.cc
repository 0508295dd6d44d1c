#include "tests/unit.h"

#include "lib/heap.h"
#include "lib/vmalloc.h"

#include <sys/syscall.h>
#include <vector>

namespace pagoda::test {
namespace {

constexpr size_t kMiB = 1 << 20;

class areas : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
    static char *take(size_t bytes, bool *zeroed = nullptr) {
        return static_cast<char *>(vmalloc_alloc(bytes, kPageSize, GFP_KERNEL, zeroed));
    }
};

TEST_F(areas, are_counted_by_whole_pages) {
    vmalloc_stats before = vmalloc_get_stats();
    char *p = take(2 * kMiB + 1);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % kPageblockSize, 0u);
    size_t bytes = vmalloc_size(p);
    EXPECT_GT(bytes, 2 * kMiB);
    memset(p, 1, bytes);
    EXPECT_EQ(vmalloc_get_stats().areas, before.areas + 1);
    EXPECT_EQ(vmalloc_get_stats().bytes, before.bytes + bytes);
    EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
    EXPECT_EQ(vmalloc_get_stats().areas, before.areas);
    EXPECT_EQ(vmalloc_size(p), 0u);
}

TEST_F(areas, cannot_be_had_or_resized_without_waiting) {
    EXPECT_EQ(vmalloc_alloc(2 * kMiB, kPageSize, GFP_ATOMIC, nullptr), nullptr);
    char *p = take(2 * kMiB);
    EXPECT_EQ(vmalloc_resize(p, 4 * kMiB, GFP_ATOMIC), nullptr);
    EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
}

TEST_F(areas, start_at_the_alignment_asked_for) {
    for (size_t align = kPageSize; align <= 256 * kMiB; align *= 4) {
        void *p = vmalloc_alloc(2 * kMiB, align, GFP_KERNEL, nullptr);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
        EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
    }
}

TEST_F(areas, pointers_into_them_are_told_apart) {
    size_t bytes = 0;
    void *start = nullptr;
    char *p = take(3 * kMiB);
    EXPECT_EQ(vmalloc_classify(p, &bytes, &start, GFP_KERNEL), vm_pointer::area);
    EXPECT_EQ(bytes, 3 * kMiB);
    EXPECT_EQ(vmalloc_classify(p + 100, &bytes, &start, GFP_KERNEL), vm_pointer::interior);
    EXPECT_EQ(start, p);
    EXPECT_EQ(vmalloc_classify(&bytes, &bytes, &start, GFP_KERNEL), vm_pointer::none);
    EXPECT_FALSE(vmalloc_free(p + 100, GFP_KERNEL));
    EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
    EXPECT_EQ(vmalloc_classify(p, &bytes, &start, GFP_KERNEL), vm_pointer::freed_area);
    EXPECT_FALSE(vmalloc_free(p, GFP_KERNEL));
}

TEST_F(areas, are_used_again_until_they_are_purged) {
    vmalloc_purge(0);
    char *p = take(3 * kMiB);
    vmalloc_free(p, GFP_KERNEL);
    bool zeroed = true;
    EXPECT_EQ(take(3 * kMiB, &zeroed), p);
    EXPECT_FALSE(zeroed);
    vmalloc_free(p, GFP_KERNEL);
    EXPECT_EQ(vmalloc_purge(0), 3 * kMiB);
    EXPECT_EQ(vmalloc_get_stats().cached, 0u);
}

TEST_F(areas, leave_what_a_smaller_one_does_not_need_mapped_behind_it) {
    vmalloc_purge(0);
    char *p = take(4 * kMiB);
    vmalloc_free(p, GFP_KERNEL);
    EXPECT_EQ(take(3 * kMiB), p);
    EXPECT_EQ(vmalloc_size(p), 3 * kMiB);
    EXPECT_EQ(vmalloc_get_stats().slack, kMiB);
    EXPECT_EQ(vmalloc_resize(p, 4 * kMiB, GFP_KERNEL), p);
    EXPECT_EQ(vmalloc_get_stats().slack, 0u);
    EXPECT_EQ(vmalloc_resize(p, 2 * kMiB, GFP_KERNEL), p) << "gives back what it is asked to";
    EXPECT_EQ(vmalloc_get_stats().slack, 0u);
    vmalloc_free(p, GFP_KERNEL);
    char *less = take(kMiB - kPageSize);
    EXPECT_NE(less, p) << "more than half of it would be idle";
    char *more = take(3 * kMiB);
    EXPECT_NE(more, p) << "too much to map";
    for (char *each : {less, more})
        vmalloc_free(each, GFP_KERNEL);
    vmalloc_purge(0);
}

TEST_F(areas, that_cannot_be_unmapped_give_their_memory_back) {
    constexpr long kMseal = 462; // Linux 6.10
    auto end = in_child([] {
        char *p = take(4 * kMiB);
        memset(p, 1, 4 * kMiB);
        bool sealed = syscall(kMseal, p, 4 * kMiB, 0) == 0;
        EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
        vmalloc_purge(0);
        EXPECT_FALSE(sealed && resident(p + kMiB));
        char *q = take(4 * kMiB); // not there again
        EXPECT_TRUE(q != nullptr && (!sealed || q != p));
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(areas, keep_their_contents_when_they_grow_and_shrink) {
    char *p = take(2 * kMiB);
    char *behind = take(2 * kMiB);
    memset(p, 5, 2 * kMiB);
    for (size_t bytes : {8 * kMiB, 64 * kMiB, 3 * kMiB}) {
        p = static_cast<char *>(vmalloc_resize(p, bytes, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(vmalloc_size(p), bytes);
        EXPECT_EQ(p[0], 5);
        EXPECT_EQ(p[2 * kMiB - 1], 5);
        p[bytes - 1] = 1;
    }
    EXPECT_TRUE(vmalloc_free(behind, GFP_KERNEL));
    EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
}

TEST_F(areas, behave_like_a_table_of_areas) {
    struct entry {
        uint64_t *p;
        size_t words;
        uint64_t tag;
    };
    random_numbers random(2);
    entry table[3] = {};
    uint64_t before = heap_get_stats().live_objects;
    auto check_and_free = [](entry &e) {
        ASSERT_EQ(e.p[0], e.tag);
        ASSERT_EQ(e.p[e.words - 1], e.tag);
        ASSERT_TRUE(vmalloc_free(e.p, GFP_KERNEL));
        e.p = nullptr;
    };
    for (uint64_t op = operations(); op-- > 0;) {
        entry &e = table[random.below(3)];
        if (e.p != nullptr && random.one_in(50000)) {
            e.words = (kMiB + kPageSize * (1 + random.below(512))) / 8;
            auto *moved = static_cast<uint64_t *>(vmalloc_resize(e.p, e.words * 8, GFP_KERNEL));
            ASSERT_NE(moved, nullptr);
            ASSERT_EQ(moved[0], e.tag);
            e.p = moved;
            e.p[e.words - 1] = e.tag;
        } else if (e.p != nullptr) {
            check_and_free(e);
            if (HasFatalFailure())
                return;
        } else {
            e.words = (kMiB + kPageSize * (1 + random.below(4))) / 8;
            e.p = reinterpret_cast<uint64_t *>(take(e.words * 8));
            ASSERT_NE(e.p, nullptr);
            e.tag = random.next();
            e.p[0] = e.p[e.words - 1] = e.tag;
        }
    }
    for (entry &e : table)
        if (e.p != nullptr)
            check_and_free(e);
    EXPECT_EQ(heap_get_stats().live_objects, before);
}

} // namespace
} // namespace pagoda::test
