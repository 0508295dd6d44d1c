#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/page_run.h"
#include "lib/reclaim.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"
#include "tests/contents.h"

#include <atomic>
#include <chrono>
#include <errno.h>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

// Before anything else of this process has started the heap.
TEST(heap_start, fails_where_nothing_fits_and_succeeds_later) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_FALSE(heap_ready());
        EXPECT_EQ(heap_usable_size(&errno), 0u);
        EXPECT_FALSE(heap_trim(0));
        EXPECT_EQ(heap_get_stats().served, 0u);
        sys::inject_failures(0, 1 << 30);
        EXPECT_FALSE(heap_init());
        EXPECT_EQ(heap_alloc(100, GFP_KERNEL), nullptr);
        EXPECT_EQ(heap_alloc_aligned(100, size_t{1} << 20, GFP_KERNEL), nullptr);
        heap_before_fork();
        heap_after_fork(false);
        sys::inject_failures(0, 0);
        void *p = heap_alloc(100, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(heap_ready());
        heap_free(p, GFP_KERNEL);
    })));
}

class heap : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(heap, sizes_are_usable_to_their_end) {
    for (size_t size = 0; size < 8 << 20; size += size / 7 + 1) {
        char *p = static_cast<char *>(heap_alloc(size, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
        EXPECT_GE(heap_usable_size(p), size);
        EXPECT_TRUE(heap_owns(p));
        memset(p, 1, heap_usable_size(p));
        heap_free(p, GFP_KERNEL);
    }
    EXPECT_EQ(heap_get_stats().live_objects, 0u);
}

TEST_F(heap, zeroed_memory_reads_as_zero_when_used_again) {
    for (size_t size : {size_t{50}, size_t{5000}, size_t{50000}, size_t{500000}, size_t{2} << 20})
        for (int round = 0; round < 3; round++) {
            char *p = static_cast<char *>(heap_alloc(size, GFP_KERNEL | __GFP_ZERO));
            for (size_t i = 0; i < size; i++)
                ASSERT_EQ(p[i], 0);
            memset(p, 1, size);
            heap_free(p, GFP_KERNEL);
        }
}

TEST_F(heap, what_realloc_outgrows_is_free_for_other_sizes) {
    char *p = static_cast<char *>(heap_alloc(40000, GFP_KERNEL));
    p[39999] = 7;
    uint64_t cached = heap_get_stats().cached_objects; // other tests' too
    for (size_t size = 50000; size < 250000; size += 50000) {
        p = static_cast<char *>(heap_realloc(p, size, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(p[39999], 7);
        EXPECT_LE(heap_get_stats().cached_objects, cached);
    }
    heap_free(p, GFP_KERNEL);
    EXPECT_EQ(heap_get_stats().live_objects, 0u);
}

TEST_F(heap, alignments_hold) {
    for (size_t align = 1; align <= 64 << 20; align *= 2)
        for (size_t size : {size_t{1}, size_t{300}, size_t{70000}}) {
            void *p = heap_alloc_aligned(size, align, GFP_KERNEL);
            ASSERT_NE(p, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            EXPECT_GE(heap_usable_size(p), size);
            heap_free(p, GFP_KERNEL);
        }
}

TEST_F(heap, what_cannot_be_had_is_refused) {
    EXPECT_EQ(heap_alloc(SIZE_MAX, GFP_KERNEL), nullptr);
    EXPECT_EQ(heap_alloc(size_t{1} << 60, GFP_KERNEL), nullptr);
    char *p = static_cast<char *>(heap_alloc(100, GFP_KERNEL));
    p[99] = 3;
    EXPECT_EQ(heap_realloc(p, size_t{1} << 60, GFP_KERNEL), nullptr);
    EXPECT_EQ(p[99], 3);
    heap_free(p, GFP_KERNEL);
}

TEST_F(heap, knows_nothing_of_other_memory) {
    int here = 0;
    EXPECT_FALSE(heap_owns(&here));
    EXPECT_FALSE(heap_owns(nullptr));
    EXPECT_EQ(heap_usable_size(&here), 0u);
    heap_free(nullptr, GFP_KERNEL);
    child_end end = in_child([&] {
        heap_set_foreign_free([](void *p) { return p != nullptr; });
        heap_free(&here, GFP_KERNEL);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "") << "the hook dealt with it";
}

TEST_F(heap, good_sizes_are_those_served) {
    for (size_t size = 1; size < 4 << 20; size += size / 5 + 1) {
        void *p = heap_alloc(size, GFP_KERNEL);
        EXPECT_GE(heap_good_size(size), size);
        EXPECT_LE(heap_good_size(size), heap_usable_size(p)) << size;
        heap_free(p, GFP_KERNEL);
    }
}

// One of each kind of block, resized up and down; what is refused leaves everything as it was.
// Returns how many calls were refused.
int take_resize_and_free() {
    static constexpr size_t kSizes[] = {16,    100,    1000,   5000,    30000,
                                        50000, 200000, 600000, 1 << 20, 3 << 20};
    struct entry {
        void *p;
        size_t size;
    };
    std::vector<entry> held;
    held.reserve(100);
    int refused = 0;
    for (size_t align : {size_t{1}, size_t{256}, size_t{1} << 16, size_t{4} << 20})
        for (size_t size : kSizes) {
            bool zero = size % 3 == 0;
            if (align > size && align > 256)
                continue;
            void *p = heap_alloc_aligned(size, align, zero ? GFP_KERNEL | __GFP_ZERO : GFP_KERNEL);
            refused += p == nullptr;
            if (p == nullptr)
                continue;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            EXPECT_TRUE(!zero || all_zero(p, size));
            fill(p, size, size);
            held.push_back({p, size});
        }
    for (size_t i = 0; i < held.size(); i++) {
        entry &e = held[i];
        size_t size = i % 2 == 0 ? e.size * 3 : e.size / 3 + 1;
        void *p = heap_realloc(e.p, size, GFP_KERNEL);
        refused += p == nullptr;
        size_t kept = p == nullptr ? e.size : min_of(size, e.size);
        e.p = p == nullptr ? e.p : p;
        EXPECT_TRUE(intact(e.p, kept, e.size)) << e.size << " -> " << size;
    }
    for (entry &e : held)
        heap_free(e.p, GFP_KERNEL);
    return refused;
}

TEST_F(heap, loses_nothing_whatever_call_is_refused) {
    auto refuse = [](int skip, int fail) {
        return in_child([=] {
            uint64_t before = heap_get_stats().live_objects;
            sys::inject_failures(skip, fail);
            int refused = take_resize_and_free();
            heap_trim(0);
            sys::inject_failures(0, 0);
            EXPECT_TRUE(skip > 0 || fail < 1000 || refused > 0);
            EXPECT_EQ(heap_get_stats().live_objects, before);
            EXPECT_TRUE(zone_normal().consistent());
            std::this_thread::sleep_for(std::chrono::milliseconds(20)); // a refusal holds a tick
            EXPECT_EQ(take_resize_and_free(), 0);
            heap_trim(0);
            EXPECT_EQ(heap_get_stats().live_objects, before);
            EXPECT_EQ(zone_normal().stats().dirty, 0u);
            EXPECT_TRUE(zone_normal().consistent());
        });
    };
    for (int skip = 0; skip < 50; skip += skip < 16 ? 1 : 5)
        for (int fail : {1, 2, 1 << 30})
            EXPECT_TRUE(succeeded(refuse(skip, fail))) << "skip " << skip << ", fail " << fail;
}

TEST_F(heap, refuses_to_resize_what_is_not_its_own) {
    child_end end = in_child([] {
        static char other[100];
        EXPECT_EQ(heap_realloc(other, 200, GFP_KERNEL), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("not Pagoda's memory")) << end.errors;
}

TEST_F(heap, serves_a_handler_without_waiting) {
    std::vector<void *> held;
    for (size_t size : {size_t{100}, size_t{5000}, size_t{50000}, size_t{600000}, size_t{3} << 20})
        held.push_back(heap_alloc(size, GFP_KERNEL));
    heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
    slow_path interrupted;
    void *small = heap_alloc(100, GFP_KERNEL);
    EXPECT_NE(small, nullptr);
    heap_free(small, GFP_KERNEL);
    EXPECT_EQ(heap_alloc(size_t{64} << 20, GFP_KERNEL), nullptr) << "that takes system calls";
    EXPECT_FALSE(heap_trim(0));
    EXPECT_EQ(heap_get_stats().served, 0u);
    for (void *p : held)
        heap_free(p, GFP_KERNEL);
    // Also where the locks are taken by whoever was interrupted.
    void *area = held.back();
    vmalloc_lock().lock();
    zone_normal().lock().lock();
    EXPECT_EQ(heap_alloc(600000, GFP_KERNEL), nullptr);
    EXPECT_EQ(heap_usable_size(area), 0u);
    zone_normal().lock().unlock();
    vmalloc_lock().unlock();
}

// Pages that slabs and runs have; vmalloc's are its own.
uint64_t pages_in_use() {
    uint64_t pages = runs_stats().big_pages;
    for (unsigned cls = 1; cls <= kLastClass; cls++)
        pages += g_caches[cls].slabs * g_caches[cls].info.pages;
    return pages;
}

TEST_F(heap, every_page_of_slabs_and_runs_is_the_buddys) {
    random_numbers random(6);
    std::vector<void *> held(3000);
    heap_trim(0);
    for (int i = 0; i < 60'000; i++) {
        void *&p = held[random.below(held.size())];
        heap_free(p, GFP_KERNEL);
        size_t align = random.one_in(20) ? size_t{1} << random.below(20) : 1;
        p = heap_alloc_aligned(1 + random.skewed(random.one_in(100) ? 20 : 12), align, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        if (i % 1000 == 0) {
            zone_stats zone = zone_normal().stats();
            ASSERT_EQ(pages_in_use(), zone.present - zone.free);
            ASSERT_EQ(pages_in_use(), zone.allocated - zone.released);
        }
    }
    EXPECT_GT(pages_in_use(), 1000u);
    for (void *p : held)
        heap_free(p, GFP_KERNEL);
    heap_trim(0);
    EXPECT_EQ(pages_in_use(), 0u);
    EXPECT_EQ(zone_normal().stats().free, zone_normal().stats().present);
}

TEST_F(heap, behaves_like_a_table_of_blocks) {
    struct entry {
        void *p;
        size_t size;
        uint64_t tag;
    };
    random_numbers random(3);
    std::vector<entry> table(2048);
    uint64_t before = heap_get_stats().live_objects;
    auto mark = [&](entry &e) {
        e.tag = random.next();
        fill(e.p, e.size, e.tag);
    };
    auto any_size = [&] { return 1 + random.skewed(random.one_in(2000) ? 21 : 11); };
    for (uint64_t op = operations(); op-- > 0;) {
        entry &e = table[random.below(table.size())];
        if (e.p == nullptr) {
            e.size = any_size();
            gfp_t gfp = random.one_in(4) ? GFP_KERNEL | __GFP_ZERO : GFP_KERNEL;
            size_t align = random.one_in(8) ? size_t{1} << random.below(13) : 1;
            e.p = heap_alloc_aligned(e.size, align, gfp);
            ASSERT_NE(e.p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(e.p) % align, 0u);
            ASSERT_TRUE((gfp & __GFP_ZERO) == 0 || all_zero(e.p, e.size));
            mark(e);
        } else if (random.one_in(4)) {
            ASSERT_TRUE(intact(e.p, e.size, e.tag));
            size_t size = any_size();
            e.p = heap_realloc(e.p, size, GFP_KERNEL);
            ASSERT_NE(e.p, nullptr);
            ASSERT_TRUE(intact(e.p, min_of(size, e.size), e.tag));
            e.size = size;
            mark(e);
        } else {
            ASSERT_TRUE(intact(e.p, e.size, e.tag));
            heap_free(e.p, GFP_KERNEL);
            e.p = nullptr;
        }
    }
    for (entry &e : table)
        if (e.p != nullptr) {
            ASSERT_TRUE(intact(e.p, e.size, e.tag));
            heap_free(e.p, GFP_KERNEL);
        }
    EXPECT_EQ(heap_get_stats().live_objects, before);
}

// limit=SIZE: runs, slabs, areas, and what all the caches keep, against one bound.
// A child may use what another thread was at when its parent forked.
TEST_F(heap, is_whole_in_a_child_of_fork) {
    std::atomic<bool> locked{false};
    std::thread holder([&] {
        zone_normal().lock().lock_for_fork();
        locked = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        zone_normal().lock().unlock_after_fork();
    });
    while (!locked)
        std::this_thread::yield();
    g_memory_waiters = 2; // threads that wait until memory is free
    heap_before_fork();
    child_end end = in_child(
        [] {
            heap_after_fork(true);
            EXPECT_TRUE(zone_normal().consistent());
            EXPECT_EQ(g_memory_waiters, 0u);
        },
        20);
    heap_after_fork(false);
    g_memory_waiters = 0;
    holder.join();
    EXPECT_TRUE(succeeded(end));
}

TEST(heap_limit, is_never_passed) {
    EXPECT_TRUE(succeeded(in_child([] {
        constexpr uint64_t kLimit = 24 << 20;
        ASSERT_TRUE(heap_init());
        heap_trim(0); // of what the tests before it left
        mutable_options().limit_bytes = kLimit;
        random_numbers random(1);
        void *blocks[200] = {};
        uint64_t refused = 0;
        uint64_t served = 0;
        for (int i = 0; i < 30'000; i++) {
            void *&b = blocks[random.below(200)];
            size_t size = random.skewed(22);
            if (b != nullptr && random.one_in(2)) {
                heap_free(b, GFP_KERNEL);
                b = nullptr;
            } else {
                void *now =
                    b != nullptr ? heap_realloc(b, size, GFP_KERNEL) : heap_alloc(size, GFP_KERNEL);
                (now != nullptr ? served : refused)++;
                if (now != nullptr)
                    static_cast<char *>(b = now)[0] = 1;
            }
            ASSERT_LE(zone_normal().committed(), kLimit);
        }
        EXPECT_GT(refused, 100u);
        EXPECT_GT(served, 10'000u);
        for (void *b : blocks)
            heap_free(b, GFP_KERNEL);
        for (size_t mib : {20, 23}) { // an area, in place of all that was cached
            void *p = heap_alloc(mib << 20, GFP_KERNEL);
            EXPECT_NE(p, nullptr);
            EXPECT_EQ(heap_alloc((25 - mib) << 20, GFP_KERNEL), nullptr);
            heap_free(p, GFP_KERNEL);
        }
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

TEST(heap_limit, holds_for_threads_together) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(heap_init());
        heap_trim(0);
        const uint64_t bound = zone_normal().committed() + (16 << 20);
        mutable_options().limit_bytes = bound;
        EXPECT_TRUE(zone_normal().set_reserve(kDefaultReserve));
        std::atomic<bool> done{false};
        std::atomic<uint64_t> refused{0};
        auto work = [&](uint64_t seed) {
            random_numbers random(seed);
            void *blocks[60] = {};
            for (int i = 0; i < 10'000; i++) {
                void *&b = blocks[random.below(60)];
                heap_free(b, GFP_KERNEL);
                b = random.one_in(3) ? nullptr : heap_alloc(random.skewed(22), GFP_KERNEL);
                refused += b == nullptr;
            }
            for (void *b : blocks)
                heap_free(b, GFP_KERNEL);
        };
        std::thread watcher([&] {
            while (!done)
                EXPECT_LE(zone_normal().committed(), bound);
        });
        std::thread other(work, 1);
        work(2);
        other.join();
        done = true;
        watcher.join();
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

} // namespace
} // namespace pagoda::test
