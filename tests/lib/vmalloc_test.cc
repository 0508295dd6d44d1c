#include "tests/unit.h"

#include "hugepage/address_space.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/vmalloc.h"
#include "tests/contents.h"

#include <atomic>
#include <sys/syscall.h>
#include <thread>
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

TEST_F(areas, that_cannot_exist_are_refused) {
    EXPECT_EQ(vmalloc_alloc(kVmallocSpan, kPageSize, GFP_KERNEL, nullptr), nullptr);
    EXPECT_EQ(vmalloc_alloc(2 * kMiB, kVmallocSpan / 2, GFP_KERNEL, nullptr), nullptr);
    char *p = take(2 * kMiB);
    EXPECT_EQ(vmalloc_resize(p, kVmallocSpan, GFP_KERNEL), nullptr);
    EXPECT_EQ(vmalloc_resize(p + kPageSize, 4 * kMiB, GFP_KERNEL), nullptr) << "no area's start";
    EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
    EXPECT_EQ(vmalloc_resize(p, 4 * kMiB, GFP_KERNEL), nullptr) << "free";
}

TEST_F(areas, step_over_what_others_mapped) {
    EXPECT_TRUE(succeeded(in_child([] {
        vmalloc_purge(0);
        char *p = take(8 * kMiB);
        char *next = p + 10 * kMiB; // behind its guard
        ASSERT_EQ(sys::map_at(reinterpret_cast<uintptr_t>(next), kPageSize), 0);
        memset(next, 7, kPageSize);
        std::vector<char *> more;
        for (int i = 0; i < 20; i++) {
            more.push_back(take(3 * kMiB));
            ASSERT_NE(more.back(), nullptr);
            EXPECT_TRUE(more.back() + 3 * kMiB <= next || more.back() > next);
            memset(more.back(), 1, 3 * kMiB);
        }
        for (size_t i = 0; i < kPageSize; i++)
            ASSERT_EQ(next[i], 7);
        for (char *area : more)
            EXPECT_TRUE(vmalloc_free(area, GFP_KERNEL));
        EXPECT_FALSE(vmalloc_free(next, GFP_KERNEL));
        size_t bytes = 0;
        void *start = nullptr;
        EXPECT_EQ(vmalloc_classify(next, &bytes, &start, GFP_KERNEL), vm_pointer::none);
    })));
}

TEST_F(areas, keep_their_contents_where_growing_is_refused) {
    vmalloc_purge(0);
    char *p = take(3 * kMiB);
    char *behind = take(3 * kMiB); // so that it has to move
    fill(p, 3 * kMiB, 4);
    vmalloc_stats before = vmalloc_get_stats();
    uint64_t mapped = process_figure("VmSize");
    char *moved = nullptr;
    int refused = 0; // first the reservation, then the move
    for (;; refused++) {
        sys::inject_failures(refused, 1 << 30);
        moved = static_cast<char *>(vmalloc_resize(p, 64 * kMiB, GFP_KERNEL));
        sys::inject_failures(0, 0);
        if (moved != nullptr)
            break;
        EXPECT_EQ(vmalloc_size(p), 3 * kMiB);
        EXPECT_TRUE(intact(p, 3 * kMiB, 4));
        EXPECT_EQ(vmalloc_get_stats().bytes, before.bytes);
        EXPECT_LE(process_figure("VmSize"), mapped) << "what was reserved is gone again";
    }
    EXPECT_GE(refused, 2);
    EXPECT_TRUE(intact(moved, 3 * kMiB, 4));
    EXPECT_EQ(vmalloc_get_stats().moved, before.moved + 1);
    EXPECT_TRUE(vmalloc_free(moved, GFP_KERNEL));
    EXPECT_TRUE(vmalloc_free(behind, GFP_KERNEL));
}

// Whatever the flags: the holder may be a thread that is stopped.
TEST_F(areas, are_freed_without_waiting) {
    vmalloc_purge(0);
    char *p = take(3 * kMiB);
    char *q = take(3 * kMiB);
    vmalloc_stats before = vmalloc_get_stats();
    std::atomic<int> step{0};
    std::thread holder([&] {
        lock_guard g(vmalloc_lock());
        step = 1;
        while (step != 2)
            std::this_thread::yield();
    });
    while (step != 1)
        std::this_thread::yield();
    EXPECT_TRUE(vmalloc_free(p, GFP_KERNEL));
    EXPECT_TRUE(vmalloc_free(q, GFP_ATOMIC));
    EXPECT_FALSE(vmalloc_free(p, GFP_KERNEL)) << "twice";
    step = 2;
    holder.join();
    char *again = take(3 * kMiB);
    EXPECT_TRUE(again == p || again == q) << "the next holder took them in";
    EXPECT_TRUE(vmalloc_free(again, GFP_KERNEL));
    EXPECT_EQ(vmalloc_get_stats().areas, before.areas - 2);
}

TEST_F(areas, freed_where_the_lock_is_taken_come_back_later) {
    vmalloc_purge(0);
    char *p = take(3 * kMiB);
    char *q = take(3 * kMiB);
    vmalloc_stats before = vmalloc_get_stats();
    size_t bytes = 0;
    void *start = nullptr;
    vmalloc_lock().lock();
    EXPECT_TRUE(vmalloc_free(p, GFP_ATOMIC));
    EXPECT_TRUE(vmalloc_free(q, GFP_ATOMIC));
    EXPECT_FALSE(vmalloc_free(p, GFP_ATOMIC)) << "twice";
    EXPECT_EQ(vmalloc_size(p), 0u);
    EXPECT_EQ(vmalloc_classify(p, &bytes, &start, GFP_ATOMIC), vm_pointer::none);
    vmalloc_lock().unlock();
    EXPECT_EQ(vmalloc_classify(p, &bytes, &start, GFP_ATOMIC), vm_pointer::freed_area);
    EXPECT_EQ(vmalloc_purge(0), 6 * kMiB);
    EXPECT_EQ(vmalloc_get_stats().areas, before.areas - 2);
}

TEST_F(areas, freed_by_two_threads_at_once_are_freed_once) {
    constexpr int kRounds = 20'000;
    std::atomic<void *> shared{nullptr};
    std::atomic<int> round{0};
    std::atomic<int> ended{0};
    std::atomic<int> freed{0};
    auto wait_until = [](auto is_so) {
        for (int spins = 0; !is_so(); spins++)
            if (spins % 1000 == 999)
                std::this_thread::yield();
    };
    auto free_each = [&] {
        for (int i = 1; i <= kRounds; i++) {
            wait_until([&] { return round.load() == i; });
            freed += vmalloc_free(shared, GFP_ATOMIC);
            ended++;
        }
    };
    std::thread one(free_each);
    std::thread other(free_each);
    for (int i = 1; i <= kRounds; i++) {
        shared = take(3 * kMiB);
        bool locked = i % 2 != 0;
        if (locked)
            vmalloc_lock().lock();
        round = i;
        wait_until([&] { return ended.load() == 2 * i; });
        if (locked)
            vmalloc_lock().unlock();
    }
    one.join();
    other.join();
    EXPECT_EQ(freed, kRounds);
    EXPECT_EQ(vmalloc_size(shared), 0u);
}

TEST_F(areas, that_were_unmapped_a_moment_ago_raise_the_bound) {
    EXPECT_TRUE(succeeded(in_child([] {
        uint64_t began = 0;
        do { // until it was quick enough to count
            vmalloc_purge(0);
            began = sys::now_ms();
            char *p = take(32 * kMiB);
            vmalloc_free(p, GFP_KERNEL);
            vmalloc_purge(0);
            vmalloc_free(take(32 * kMiB), GFP_KERNEL);
        } while (sys::now_ms() - began > 900);
        EXPECT_GE(zone_normal().stats().refault_bonus, 16 * kMiB);
    })));
}

// A whole area is too much to look at ten million times: mostly it is a few cache lines, of which
// each operation picks others, and the first and the last; now and then it is all of it.
struct marked_area {
    char *p;
    size_t bytes;
    uint64_t tag;
    size_t line; // the first of those picked
    bool whole;

    template <class F> bool each_line(size_t upto, F fn) const {
        constexpr size_t kPicked = 8;
        if (whole)
            return fn(0, upto);
        bool fine = fn(0, 64) && (upto < bytes || fn(bytes - 64, bytes));
        size_t lines = bytes / 64;
        for (size_t i = 0; i < kPicked; i++) {
            size_t at = (line + i * (lines / kPicked)) % lines * 64;
            fine = fine && (at + 64 > upto || fn(at, at + 64));
        }
        return fine;
    }
    void mark(random_numbers &random) {
        tag = random.next();
        line = random.below(bytes / 64);
        whole = random.one_in(20'000);
        each_line(bytes, [this](size_t from, size_t to) {
            fill(p, from, to, tag);
            return true;
        });
    }
    bool holds(size_t upto) const {
        return each_line(upto, [this](size_t from, size_t to) { return intact(p, from, to, tag); });
    }
};

TEST_F(areas, behave_like_a_table_of_areas) {
    random_numbers random(2);
    marked_area table[3] = {};
    uint64_t before = heap_get_stats().live_objects;
    auto pages = [&](uint64_t most) { return kMiB + kPageSize * (1 + random.below(most)); };
    for (uint64_t op = operations(); op-- > 0;) {
        marked_area &a = table[random.below(3)];
        ASSERT_TRUE(a.p == nullptr || a.holds(a.bytes));
        if (a.p == nullptr) {
            bool zeroed = false;
            size_t align = random.one_in(1000) ? kPageSize << random.below(12) : kPageSize;
            a.bytes = pages(random.one_in(50'000) ? 5000 : 4);
            a.p = static_cast<char *>(vmalloc_alloc(a.bytes, align, GFP_KERNEL, &zeroed));
            ASSERT_NE(a.p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(a.p) % align, 0u);
            ASSERT_GE(vmalloc_size(a.p), a.bytes);
            ASSERT_TRUE(!zeroed || all_zero(a.p, a.bytes));
            a.mark(random);
        } else if (random.one_in(20'000)) {
            size_t bytes = pages(random.one_in(2) ? 5000 : 512);
            char *moved = static_cast<char *>(vmalloc_resize(a.p, bytes, GFP_KERNEL));
            ASSERT_NE(moved, nullptr);
            a.p = moved;
            ASSERT_TRUE(a.holds(min_of(bytes, a.bytes)));
            a.bytes = bytes;
            a.mark(random);
        } else {
            ASSERT_TRUE(vmalloc_free(a.p, GFP_KERNEL));
            a.p = nullptr;
        }
    }
    for (marked_area &a : table)
        if (a.p != nullptr) {
            ASSERT_TRUE(a.holds(a.bytes));
            ASSERT_TRUE(vmalloc_free(a.p, GFP_KERNEL));
        }
    EXPECT_EQ(heap_get_stats().live_objects, before);
}

} // namespace
} // namespace pagoda::test
