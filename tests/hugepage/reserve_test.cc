#include "hugepage/reserve.h"

#include "hugepage/address_space.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "tests/fresh_zone.h"
#include "tests/unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::get_pages;
using test::in_child;
using test::random_numbers;
using test::resident;
using test::succeeded;

constexpr uint64_t kBlock = kPageblockPages;

template <class F> void with_reserve(uint64_t bytes, F body) {
    test::in_fresh_zone([&](zone &z) {
        ASSERT_TRUE(z.set_reserve(bytes));
        body(z);
    });
}

// Takes single pages while there are any.
std::vector<uint32_t> take_all(gfp_t gfp) {
    std::vector<uint32_t> taken;
    for (uint32_t page; (page = get_pages(1, gfp)) != kNoPage;)
        taken.push_back(page);
    return taken;
}

TEST(ReserveTest, HoldsMemoryInWholePageblocks) {
    with_reserve(kPageblockSize + 1, [](zone &z) {
        EXPECT_EQ(z.stats().reserved, 2 * kBlock);
        page_state state;
        uint32_t first = z.alloc(kPageblockPages, 0, GFP_ATOMIC, &state);
        ASSERT_NE(first, kNoPage);
        EXPECT_TRUE(state.backed);
        for (uint32_t i = 0; i < kPageblockPages; i++)
            ASSERT_TRUE(resident(page_address(first + i)));
        EXPECT_TRUE(reserve::has(first / kPageblockPages));
        EXPECT_EQ(z.stats().reserved, kBlock);
    });
}

TEST(ReserveTest, IsNoPartOfALargerPieceBesideIt) {
    with_reserve(kPageblockSize, [](zone &z) {
        for (int i = 0; i < 20; i++) {
            uint32_t first = get_pages(3 * kPageblockPages, GFP_KERNEL, kPageblockOrder);
            ASSERT_NE(first, kNoPage);
            for (uint32_t n = 0; n < 3; n++)
                ASSERT_FALSE(reserve::has(first / kPageblockPages + n));
            first = get_pages(2 * kPageblockPages, GFP_KERNEL, kPageblockOrder);
            for (uint32_t n = 0; n < 2; n++)
                ASSERT_FALSE(reserve::has(first / kPageblockPages + n));
        }
        EXPECT_EQ(z.stats().reserved, kBlock);
    });
}

// Each kind of flags at each fill level: what it leaves, and that the page comes back here.
TEST(ReserveTest, IsSharedOutByTheTable) {
    const gfp_t kinds[] = {GFP_NOWAIT,
                           GFP_ATOMIC,
                           GFP_ATOMIC | __GFP_NOMEMALLOC,
                           GFP_NOWAIT | __GFP_MEMALLOC,
                           GFP_ATOMIC | __GFP_MEMALLOC,
                           GFP_ATOMIC | __GFP_MEMALLOC | __GFP_NOMEMALLOC,
                           GFP_KERNEL,
                           GFP_NOIO | __GFP_NORETRY,
                           GFP_KERNEL | __GFP_HIGH,
                           GFP_KERNEL | __GFP_MEMALLOC,
                           GFP_KERNEL | __GFP_NOMEMALLOC | __GFP_HIGH};
    with_reserve(kPageblockSize, [&](zone &z) {
        std::vector<uint32_t> ordinary = take_all(GFP_NOWAIT | kGfpMayFault);
        sys::inject_failures(0, 1 << 30); // nothing grows
        for (uint64_t level = 0; level <= kBlock; level += 32) {
            for (gfp_t gfp : kinds) {
                std::vector<uint32_t> held;
                while (z.stats().reserved > level)
                    held.push_back(get_pages(1, GFP_ATOMIC | __GFP_MEMALLOC));
                uint64_t floor = reserve_floor(gfp, kBlock);
                uint32_t page = get_pages(1, gfp);
                EXPECT_EQ(page != kNoPage, level > floor) << std::hex << gfp << " at " << level;
                uint32_t two = get_pages(2, gfp);
                EXPECT_EQ(two != kNoPage, level >= floor + 3) << std::hex << gfp << " at " << level;
                if (page != kNoPage)
                    z.free(page, 1, true, GFP_ATOMIC);
                if (two != kNoPage)
                    z.free(two, 2, true, GFP_ATOMIC);
                EXPECT_EQ(z.stats().reserved, level);
                for (uint32_t each : held)
                    z.free(each, 1, true, GFP_ATOMIC);
                ASSERT_EQ(z.stats().reserved, kBlock);
            }
        }
        EXPECT_EQ(z.stats().free, z.stats().reserved);
        z.free(ordinary.back(), 1, true, GFP_ATOMIC);
        EXPECT_EQ(get_pages(1, GFP_NOWAIT), ordinary.back())
            << "the zone's own pages have no floor";
    });
}

// The order of failing that the kernel's users know.
TEST(ReserveTest, NowaitFailsFirstThenAtomicThenNobody) {
    with_reserve(kPageblockSize, [](zone &z) {
        take_all(GFP_NOWAIT);
        EXPECT_EQ(z.stats().reserved, kBlock);
        EXPECT_EQ(take_all(GFP_ATOMIC).size(), kBlock * 5 / 8);
        EXPECT_EQ(get_pages(1, GFP_NOWAIT), kNoPage);
        EXPECT_EQ(take_all(GFP_ATOMIC | __GFP_MEMALLOC).size(), kBlock * 3 / 8);
        EXPECT_EQ(get_pages(1, GFP_ATOMIC | __GFP_MEMALLOC), kNoPage);
        EXPECT_NE(get_pages(1, GFP_KERNEL), kNoPage) << "it grows, and refills";
        EXPECT_GE(z.stats().reserved, kBlock);
        EXPECT_NE(get_pages(1, GFP_ATOMIC), kNoPage);
    });
}

TEST(ReserveTest, IsRefilledByTheNextBlockingCallerAndGivesBackTheSurplus) {
    with_reserve(kPageblockSize, [](zone &z) {
        uint32_t plain = get_pages(4, GFP_KERNEL);
        std::vector<uint32_t> taken = take_all(GFP_ATOMIC);
        ASSERT_GT(taken.size(), 100u);
        EXPECT_TRUE(z.wants_restock());
        z.free(plain, 4, true, GFP_ATOMIC);
        EXPECT_TRUE(z.wants_restock()) << "not by those who may not wait";
        z.free(get_pages(1, GFP_KERNEL), 1, true, GFP_KERNEL);
        EXPECT_FALSE(z.wants_restock());
        EXPECT_GE(z.stats().reserved, kBlock);
        for (uint32_t page : taken)
            z.free(page, 1, true, GFP_ATOMIC);
        EXPECT_TRUE(z.wants_restock()) << "too much by a pageblock";
        z.free(get_pages(1, GFP_KERNEL), 1, true, GFP_KERNEL);
        EXPECT_FALSE(z.wants_restock());
        EXPECT_EQ(z.stats().reserved, kBlock);
        EXPECT_EQ(z.stats().free, z.stats().present);
    });
}

TEST(ReserveTest, ThatCannotBeFilledDoesNoHarm) {
    with_reserve(kPageblockSize, [](zone &z) {
        take_all(GFP_ATOMIC);
        while (get_pages(1, GFP_NOWAIT | kGfpMayFault) != kNoPage)
            continue;
        sys::inject_failures(0, 1 << 30);
        EXPECT_FALSE(z.set_reserve(16 * kPageblockSize));
        EXPECT_EQ(get_pages(1, GFP_KERNEL), kNoPage);
        sys::inject_failures(0, 0);
        EXPECT_NE(get_pages(1, GFP_KERNEL), kNoPage);
    });
}

// Free pageblocks in a row, of which the reserve has some.
TEST(ReserveTest, IsNoPartOfLargeBlocks) {
    with_reserve(2 * kPageblockSize, [](zone &z) {
        z.free(get_pages(6 * kPageblockPages, GFP_KERNEL), 6 * kPageblockPages, true, GFP_KERNEL);
        ASSERT_TRUE(z.set_reserve(4 * kPageblockSize));
        for (int i = 0; i < 20; i++) {
            uint32_t first = get_pages(2 * kPageblockPages, GFP_KERNEL);
            ASSERT_NE(first, kNoPage);
            EXPECT_FALSE(reserve::has(first / kPageblockPages));
            EXPECT_FALSE(reserve::has(first / kPageblockPages + 1));
            EXPECT_TRUE(z.consistent());
        }
        EXPECT_EQ(z.stats().reserved, 4 * kBlock);
    });
}

TEST(ReserveTest, IsNeverPurged) {
    with_reserve(kPageblockSize, [](zone &z) {
        uint32_t page = get_pages(1, GFP_ATOMIC);
        z.free(get_pages(1, GFP_KERNEL), 1, true, GFP_KERNEL);
        z.purge(0);
        z.squeeze(kPageSize);
        z.free(page, 1, true, GFP_ATOMIC);
        EXPECT_GE(z.stats().reserved, kBlock);
        for (uint32_t each : take_all(GFP_ATOMIC))
            EXPECT_TRUE(resident(page_address(each)));
    });
}

// Its lock is its own: whoever holds the zone's does not stand in between.
TEST(ReserveTest, ServesWhileTheZoneIsLocked) {
    with_reserve(kPageblockSize, [](zone &z) {
        z.lock().lock();
        uint32_t page = get_pages(3, GFP_ATOMIC, 2);
        EXPECT_NE(page, kNoPage);
        z.free(page, 3, true, GFP_ATOMIC);
        EXPECT_EQ(get_pages(1, GFP_NOWAIT), kNoPage);
        z.lock().unlock();
        z.reserve_lock().lock();
        EXPECT_EQ(get_pages(1, GFP_ATOMIC), kNoPage);
        z.reserve_lock().unlock();
    });
}

TEST(ReserveTest, FreesDoNotWaitForItsLock) {
    with_reserve(kPageblockSize, [](zone &z) {
        uint32_t page = get_pages(5, GFP_ATOMIC);
        z.reserve_lock().lock();
        z.free(page, 5, true, GFP_ATOMIC);
        z.reserve_lock().unlock();
        EXPECT_EQ(z.stats().reserved, kBlock - 5);
        z.free(get_pages(1, GFP_KERNEL), 1, true, GFP_KERNEL);
        EXPECT_GE(z.stats().reserved, kBlock);
        EXPECT_EQ(z.stats().free, z.stats().present);
    });
}

TEST(ReserveTest, ForkChildrenHaveOne) {
    with_reserve(kPageblockSize, [](zone &) {
        EXPECT_TRUE(succeeded(in_child([] {
            EXPECT_EQ(take_all(GFP_ATOMIC).size(), kBlock * 5 / 8);
            EXPECT_NE(get_pages(1, GFP_KERNEL), kNoPage);
            EXPECT_NE(get_pages(1, GFP_ATOMIC), kNoPage);
        })));
    });
}

// From then on whatever left the zone, or came back to it, holds memory.
TEST(ReserveTest, KeepsBackedWhatIsInUse) {
    with_reserve(kPageblockSize, [](zone &z) {
        uint32_t before = get_pages(100, GFP_KERNEL);
        memset(g_pagemap.page_class + before, kClassPages, 100); // without, it is set aside
        uint32_t freed = get_pages(50, GFP_KERNEL);
        z.free(freed, 50, true, GFP_KERNEL);
        EXPECT_FALSE(resident(page_address(before + 50)));
        z.keep_backed();
        EXPECT_TRUE(resident(page_address(before + 50)));
        EXPECT_TRUE(resident(page_address(freed + 49)));
        page_state state;
        uint32_t after = z.alloc(300, 0, GFP_KERNEL, &state);
        EXPECT_TRUE(state.backed);
        EXPECT_TRUE(resident(page_address(after + 299)));
        z.free(after, 300, true, GFP_KERNEL);
        z.purge(0);
        EXPECT_FALSE(resident(page_address(after + 299)));
    });
}

// Where the kernel cannot populate, or must not be asked to, pages are touched by hand. A thread
// that purges just then must not unmap them: here that is tried while the first touch faults.
struct {
    void *page;
    bool purged;
} touched;

void purge_and_open(int) {
    std::thread([] { zone_normal().purge(0); }).join();
    touched.purged = true;
    if (mprotect(touched.page, kPageSize, PROT_READ | PROT_WRITE) != 0)
        _exit(1); // it is gone
}

TEST(ReserveTest, NothingIsUnmappedWhileItIsTouched) {
    test::in_fresh_zone([](zone &z) {
        z.set_limits({uint64_t{1} << 30, kNoLimit, false}); // what is purged is unmapped
        uint32_t first = get_pages(4 * kBlock, GFP_KERNEL);
        test::fill_pages(first, 4 * kBlock, 1);
        z.free(first, 4 * kBlock, true, GFP_KERNEL);
        touched.page = page_address(first + 2 * kBlock);
        struct sigaction action = {};
        action.sa_handler = purge_and_open;
        action.sa_flags = SA_NODEFER;
        sigaction(SIGSEGV, &action, nullptr);
        mprotect(touched.page, kPageSize, PROT_NONE);
        t_keeps_memory = 1; // as in a noio scope: by hand
        z.keep_backed();
        t_keeps_memory = 0;
        EXPECT_TRUE(touched.purged);
    });
}

// Pages of four threads, blocking and not, with the reserve short all the time.
TEST(ReserveTest, ThreadsHoldPagesOfTheirOwn) {
    with_reserve(kPageblockSize, [](zone &z) {
        mutable_options().dirty_bytes = 256 << 10;
        std::atomic<int> wrong{0};
        auto work = [&](uint64_t seed) {
            struct run {
                uint32_t first;
                uint32_t count;
                uint64_t mark;
            };
            const gfp_t kinds[] = {GFP_ATOMIC, GFP_NOWAIT, GFP_KERNEL, GFP_ATOMIC | __GFP_MEMALLOC};
            random_numbers random(seed);
            std::vector<run> runs;
            for (int i = 0; i < 20'000; i++) {
                gfp_t gfp = kinds[random.below(4)];
                if (runs.size() < 60 && random.one_in(2)) {
                    run r = {0, 1 + static_cast<uint32_t>(random.skewed(6)), random.next()};
                    page_state state;
                    r.first = z.alloc(r.count, 0, gfp, &state);
                    if (r.first == kNoPage)
                        continue;
                    for (uint32_t p = 0; p < r.count; p++)
                        *static_cast<uint64_t *>(page_address(r.first + p)) = r.mark;
                    runs.push_back(r);
                } else if (!runs.empty()) {
                    std::swap(runs[random.below(runs.size())], runs.back());
                    run r = runs.back();
                    runs.pop_back();
                    for (uint32_t p = 0; p < r.count; p++)
                        wrong += *static_cast<uint64_t *>(page_address(r.first + p)) != r.mark;
                    z.free(r.first, r.count, true, gfp);
                }
            }
            for (const run &r : runs)
                z.free(r.first, r.count, true, GFP_ATOMIC);
        };
        std::vector<std::thread> threads;
        for (uint64_t i = 0; i < 4; i++)
            threads.emplace_back(work, i + 1);
        for (auto &t : threads)
            t.join();
        z.free(get_pages(1, GFP_KERNEL), 1, true, GFP_KERNEL);
        EXPECT_EQ(wrong, 0);
        EXPECT_EQ(z.stats().free, z.stats().present);
        EXPECT_FALSE(z.wants_restock());
    });
}

} // namespace
} // namespace pagoda
