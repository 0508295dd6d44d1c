#include "lib/area_hold.h"

#include "hugepage/options.h"
#include "hugepage/provider.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/vmalloc.h"
#include "tests/contents.h"
#include "tests/fake_provider.h"
#include "tests/unit.h"

#include <pagoda/vmalloc.h>

#include <algorithm>
#include <errno.h>
#include <vector>

namespace pagoda::test {
namespace {

constexpr size_t kMiB = 1 << 20;

// Areas and the provider belong to the process, so each test has one of its own.
template <class F> void in_fresh_heap(F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        mutable_options().dirty_bytes = 1 << 30;
        ASSERT_TRUE(heap_init());
        fake_provider::install();
        body();
    })));
}

char *take(size_t bytes) {
    return static_cast<char *>(vmalloc_alloc(bytes, kPageSize, GFP_KERNEL, nullptr));
}

bool all_resident(const char *p, size_t bytes) {
    for (size_t at = 0; at < bytes; at += kPageSize)
        if (!resident(p + at))
            return false;
    return true;
}

char *hold(const void *p, size_t *bytes) {
    void *start = nullptr;
    EXPECT_EQ(pagoda_block_hold(p, &start, bytes), 0);
    return static_cast<char *>(start);
}

void hold_all(char *p, size_t bytes) {
    size_t held = 0;
    for (size_t at = 0; at < bytes; at += kPageblockSize)
        hold(p + at, &held);
}

TEST(area_holds, are_of_the_mapped_part_of_a_granule) {
    in_fresh_heap([] {
        char *p = take(5 * kMiB);
        size_t bytes = 0;
        EXPECT_FALSE(any_area_was_held()) << "frees look for none";
        EXPECT_EQ(hold(p + 3 * kMiB, &bytes), p + 2 * kMiB);
        EXPECT_EQ(bytes, 2 * kMiB);
        EXPECT_TRUE(any_area_was_held());
        EXPECT_TRUE(all_resident(p + 2 * kMiB, 2 * kMiB));
        EXPECT_FALSE(resident(p));
        EXPECT_EQ(hold(p + 5 * kMiB - 1, &bytes), p + 4 * kMiB);
        EXPECT_EQ(bytes, kMiB);
        EXPECT_EQ(hold(p + 4 * kMiB, &bytes), p + 4 * kMiB) << "the same for each pointer into it";
        EXPECT_EQ(bytes, kMiB);
        vmalloc_free(p, GFP_KERNEL);
    });
}

// A further hold touches nothing: the library above may have closed pages of the granule since.
TEST(area_holds, populate_once) {
    in_fresh_heap([] {
        char *p = take(2 * kMiB);
        size_t bytes = 0;
        EXPECT_EQ(hold(p, &bytes), p);
        ASSERT_EQ(mprotect(p + kPageSize, kPageSize, PROT_NONE), 0);
        EXPECT_EQ(hold(p + kMiB, &bytes), p);
        ASSERT_EQ(mprotect(p + kPageSize, kPageSize, PROT_READ | PROT_WRITE), 0);
        vmalloc_free(p, GFP_KERNEL);
    });
}

TEST(area_holds, need_live_memory) {
    in_fresh_heap([] {
        char *p = take(2 * kMiB);
        void *start = nullptr;
        size_t bytes = 0;
        EXPECT_EQ(pagoda_block_hold(&start, &start, &bytes), -EFAULT);
        EXPECT_EQ(pagoda_block_hold(nullptr, &start, &bytes), -EFAULT);
        EXPECT_EQ(pagoda_block_hold(p + 2 * kMiB, &start, &bytes), -EFAULT) << "the guard";
        vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(pagoda_block_hold(p, &start, &bytes), -EFAULT) << "it is free";
        pagoda_block_release(p);
        pagoda_block_release(&start);
        char *object = static_cast<char *>(heap_alloc(100, GFP_KERNEL));
        EXPECT_EQ(hold(object, &bytes), reinterpret_cast<char *>(align_down(
                                            reinterpret_cast<uintptr_t>(object), kPageblockSize)));
        EXPECT_EQ(bytes, kPageblockSize);
        pagoda_block_release(object);
        heap_free(object, GFP_KERNEL);
    });
}

TEST(area_holds, keep_freed_areas_mapped_until_the_provider_lets_go) {
    in_fresh_heap([] {
        char *p = take(5 * kMiB);
        hold_all(p, 5 * kMiB);
        vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(vmalloc_purge(0), 0u);
        EXPECT_EQ(fake_provider::calls, 0) << "called with a lock, perhaps";
        fake_provider::willing = false;
        EXPECT_EQ(vmalloc_purge_held(0), 0u);
        EXPECT_EQ(fake_provider::calls, 1);
        EXPECT_TRUE(all_resident(p, 5 * kMiB));
        EXPECT_EQ(take(5 * kMiB), p) << "it serves again meanwhile";
        EXPECT_TRUE(all_resident(p, 5 * kMiB));
        vmalloc_free(p, GFP_KERNEL);
        fake_provider::willing = true;
        EXPECT_EQ(vmalloc_purge_held(0), 5 * kMiB);
        EXPECT_EQ(fake_provider::calls, 1 + 3) << "each granule";
        EXPECT_EQ(fake_provider::last, reinterpret_cast<uintptr_t>(p) + 4 * kMiB);
        EXPECT_EQ(fake_provider::bytes, kMiB);
        EXPECT_FALSE(resident(p));
    });
}

TEST(area_holds, malloc_trim_ends) {
    in_fresh_heap([] {
        char *p = static_cast<char *>(heap_alloc(6 * kMiB, GFP_KERNEL));
        char *small = static_cast<char *>(heap_alloc(100'000, GFP_KERNEL));
        hold_all(p, 6 * kMiB);
        size_t bytes = 0;
        hold(small, &bytes);
        heap_trim(0);
        EXPECT_EQ(fake_provider::calls, 0) << "all is in use";
        heap_free(p, GFP_KERNEL);
        heap_free(small, GFP_KERNEL);
        heap_trim(0);
        EXPECT_GE(fake_provider::calls, 3);
        EXPECT_FALSE(resident(p));
    });
}

TEST(area_holds, are_not_asked_for_again_with_every_free) {
    in_fresh_heap([] {
        mutable_options().dirty_bytes = 2 << 20;
        fake_provider::willing = false;
        std::vector<char *> held;
        for (size_t i = 0; i < 8; i++) {
            held.push_back(take((4 + i) * kMiB));
            hold_all(held.back(), (4 + i) * kMiB);
        }
        for (char *p : held)
            vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(fake_provider::calls, 8);
        for (int i = 0; i < 100; i++) {
            char *p = take(30 * kMiB);
            vmalloc_free(p, GFP_KERNEL);
        }
        EXPECT_EQ(fake_provider::calls, 8);
        fake_provider::willing = true;
        EXPECT_GE(vmalloc_purge_held(0), 4 * kMiB * 8);
    });
}

TEST(area_holds, are_not_served_at_other_lengths) {
    in_fresh_heap([] {
        char *p = take(16 * kMiB);
        hold_all(p, 16 * kMiB);
        vmalloc_free(p, GFP_KERNEL);
        char *longer = take(16 * kMiB + 5 * kPageSize);
        EXPECT_NE(longer, p) << "more would be mapped behind it";
        char *guarded = static_cast<char *>(vmalloc(15 * kMiB));
        EXPECT_NE(guarded, p) << "its rest would be unmapped";
        char *shorter = take(15 * kMiB);
        EXPECT_EQ(shorter, p);
        size_t bytes = 0;
        EXPECT_EQ(hold(p + 15 * kMiB - 1, &bytes), p + 14 * kMiB);
        EXPECT_EQ(bytes, 2 * kMiB) << "as before";
        EXPECT_EQ(fake_provider::calls, 0);
        vmalloc_free(longer, GFP_KERNEL);
        vfree(guarded);
        vmalloc_free(shorter, GFP_KERNEL);
    });
}

TEST(area_holds, keep_realloc_from_moving_pages) {
    in_fresh_heap([] {
        for (bool willing : {false, true}) {
            fake_provider::willing = willing;
            fake_provider::calls = 0;
            char *p = static_cast<char *>(heap_alloc(4 * kMiB, GFP_KERNEL));
            fill(p, 4 * kMiB, 3);
            hold_all(p, 4 * kMiB);
            char *shorter = static_cast<char *>(heap_realloc(p, 3 * kMiB / 2, GFP_KERNEL));
            EXPECT_EQ(shorter, p) << "the rest is slack, and stays";
            EXPECT_TRUE(all_resident(p, 4 * kMiB));
            EXPECT_EQ(fake_provider::calls, 0);
            uint64_t moved = vmalloc_get_stats().moved;
            char *q = static_cast<char *>(heap_realloc(shorter, 100 * kMiB, GFP_KERNEL));
            ASSERT_NE(q, nullptr);
            EXPECT_TRUE(intact(q, 3 * kMiB / 2, 3));
            EXPECT_EQ(fake_provider::calls, willing ? 2 : 1);
            if (!willing) {
                EXPECT_NE(q, p);
                EXPECT_EQ(vmalloc_get_stats().moved, moved);
                EXPECT_TRUE(all_resident(p, 4 * kMiB));
            }
            heap_free(q, GFP_KERNEL);
            vmalloc_purge(0);
        }
        fake_provider::willing = false;
        char *v = static_cast<char *>(vmalloc(3 * kMiB));
        fill(v, 3 * kMiB, 4);
        hold_all(v, 3 * kMiB);
        char *less = static_cast<char *>(vrealloc(v, kMiB, GFP_KERNEL));
        EXPECT_NE(less, v) << "its end is guarded";
        EXPECT_TRUE(intact(less, kMiB, 4));
        EXPECT_TRUE(all_resident(v, 3 * kMiB));
        vfree(less);
    });
}

// A second space may have mapped the granule before the first one failed.
TEST(area_holds, stay_noted_where_memory_is_short) {
    in_fresh_heap([] {
        char *p = take(2 * kMiB);
        if (sys::populate(reinterpret_cast<uintptr_t>(p), kPageSize) != 0)
            return; // before Linux 5.14: it is done by hand, and does not fail
        ASSERT_EQ(munmap(p + kMiB, kPageSize), 0);
        void *start = nullptr;
        size_t bytes = 0;
        EXPECT_EQ(pagoda_block_hold(p, &start, &bytes), -ENOMEM);
        ASSERT_NE(mmap(p + kMiB, kPageSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                  MAP_FAILED);
        vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(vmalloc_purge(0), 0u);
        EXPECT_EQ(vmalloc_purge_held(0), 2 * kMiB);
        EXPECT_EQ(fake_provider::calls, 1) << "that is all it costs";
    });
}

// An area behind a guard has the length that it was asked for.
TEST(area_holds, leave_guarded_areas_to_what_can_be_cut) {
    in_fresh_heap([] {
        char *held = static_cast<char *>(vmalloc(8 * kPageSize));
        char *other = static_cast<char *>(vmalloc(9 * kPageSize));
        size_t bytes = 0;
        hold(held, &bytes);
        vfree(held);
        vfree(other);
        fake_provider::willing = false;
        EXPECT_EQ(vmalloc_purge_held(0), 0u);
        EXPECT_EQ(fake_provider::calls, 1);
        void *p = vmalloc(7 * kPageSize);
        EXPECT_EQ(p, other);
        void *q = vmalloc(8 * kPageSize);
        EXPECT_EQ(q, held) << "as long as it is";
        vfree(q);
        EXPECT_EQ(vmalloc_purge_held(0), 0u);
        EXPECT_EQ(fake_provider::calls, 2);
        mutable_options().dirty_bytes = 0;
        vfree(p);
        EXPECT_EQ(fake_provider::calls, 2) << "it was refused";
    });
}

TEST(area_holds, end_by_themselves) {
    in_fresh_heap([] {
        char *p = take(4 * kMiB);
        hold_all(p, 4 * kMiB);
        pagoda_block_release(p + 3 * kMiB);
        vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(vmalloc_purge(0), 0u) << "another granule is held";
        EXPECT_EQ(vmalloc_purge_held(0), 4 * kMiB);
        EXPECT_EQ(fake_provider::calls, 1);
        p = take(4 * kMiB);
        hold_all(p, 4 * kMiB);
        pagoda_block_release(p);
        pagoda_block_release(p + 2 * kMiB);
        vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(vmalloc_purge(0), 4 * kMiB);
    });
}

TEST(area_holds, are_void_in_a_child_of_fork) {
    in_fresh_heap([] {
        char *p = take(4 * kMiB);
        hold_all(p, 4 * kMiB);
        ASSERT_EQ(pagoda_object_hold(p, 10), 0);
        EXPECT_TRUE(succeeded(in_child([&] {
            heap_before_fork();
            heap_after_fork(true);
            EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
            EXPECT_EQ(vmalloc_purge(0), 4 * kMiB);
            EXPECT_EQ(fake_provider::calls, 0);
        })));
        pagoda_object_release(p);
        vmalloc_free(p, GFP_KERNEL);
        EXPECT_EQ(vmalloc_purge(0), 0u) << "in the parent they are not";
    });
}

TEST(area_holds, give_way_to_a_limit) {
    in_fresh_heap([] {
        mutable_options().limit_bytes = 64 << 20;
        char *p = static_cast<char *>(heap_alloc(40 * kMiB, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        hold_all(p, 40 * kMiB);
        heap_free(p, GFP_KERNEL);
        fake_provider::willing = false;
        EXPECT_EQ(heap_alloc(50 * kMiB, GFP_KERNEL), nullptr);
        EXPECT_GT(fake_provider::calls, 0);
        EXPECT_LT(fake_provider::calls, 20);
        fake_provider::willing = true;
        p = static_cast<char *>(heap_alloc(50 * kMiB, GFP_KERNEL));
        EXPECT_NE(p, nullptr);
        heap_free(p, GFP_KERNEL);
    });
}

// Areas come, go, change their length and are held, while the provider lets go or does not. What is
// held holds memory to its last byte, and nobody's contents change.
TEST(area_holds, agree_with_a_model) {
    in_fresh_heap([] {
        mutable_options().dirty_bytes = 16 << 20;
        random_numbers random(3);
        struct area {
            char *p;
            size_t bytes;
            uint64_t tag;
            std::vector<std::pair<char *, size_t>> held;
        };
        std::vector<area> all;
        auto check = [](const area &a) {
            for (auto [start, bytes] : a.held)
                ASSERT_TRUE(all_resident(start, bytes));
            ASSERT_TRUE(intact(a.p, 4096, a.tag));
            ASSERT_TRUE(intact(a.p + align_down(a.bytes - 4096, 8), 4096, a.tag + 1));
        };
        auto mark = [&](area &a) {
            a.tag = random.next();
            fill(a.p, 4096, a.tag);
            fill(a.p + align_down(a.bytes - 4096, 8), 4096, a.tag + 1);
        };
        uint64_t steps = operations() / (kDebug ? 20000 : 2000);
        for (uint64_t step = 0; step < steps; step++) {
            fake_provider::willing = random.one_in(2);
            size_t bytes = kMiB + 1 + random.below(10 * kMiB);
            if (all.size() < 4 || (all.size() < 12 && random.one_in(3))) {
                area a = {static_cast<char *>(heap_alloc(bytes, GFP_KERNEL)), bytes, 0, {}};
                ASSERT_NE(a.p, nullptr);
                mark(a);
                all.push_back(a);
                continue;
            }
            std::swap(all[random.below(all.size())], all.back());
            area &a = all.back();
            check(a);
            switch (random.below(4)) {
            case 0:
                heap_free(a.p, GFP_KERNEL);
                all.pop_back();
                break;
            case 1: {
                uint64_t tag = a.tag;
                a.p = static_cast<char *>(heap_realloc(a.p, bytes, GFP_KERNEL));
                ASSERT_NE(a.p, nullptr);
                ASSERT_TRUE(intact(a.p, 4096, tag));
                a.bytes = bytes;
                a.held.clear();
                mark(a);
                break;
            }
            case 2: {
                size_t held = 0;
                char *start = hold(a.p + random.below(a.bytes), &held);
                a.held.emplace_back(start, held);
                break;
            }
            default:
                if (random.one_in(10))
                    heap_trim(0);
                break;
            }
        }
        for (area &a : all) {
            check(a);
            heap_free(a.p, GFP_KERNEL);
        }
        fake_provider::willing = true;
        heap_trim(0);
        EXPECT_EQ(vmalloc_get_stats().cached, 0u);
    });
}

} // namespace
} // namespace pagoda::test
