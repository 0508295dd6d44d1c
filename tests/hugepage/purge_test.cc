#include "hugepage/purge.h"

#include "hugepage/address_space.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "tests/fresh_zone.h"

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::fill_pages;
using test::get_pages;
using test::in_fresh_zone;
using test::random_numbers;

// Holds the zone's lock in another thread while `body` runs.
template <class F> void with_zone_locked(F body) {
    std::atomic<bool> locked{false};
    std::atomic<bool> done{false};
    std::thread holder([&] {
        lock_guard g(zone_normal().lock());
        locked = true;
        while (!done)
            std::this_thread::yield();
    });
    while (!locked)
        std::this_thread::yield();
    body();
    done = true;
    holder.join();
}

// A free that passes the dirty bound gives memory back, but never waits to do so.
TEST(PurgeTest, FreesPurgeOnlyWhereTheyNeedNotWait) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = 64 << 10;
        uint32_t first = get_pages(kPageblockPages);
        fill_pages(first, kPageblockPages, 1);
        uint32_t other = get_pages(10);
        fill_pages(other, 10, 1);
        z.free(first, kPageblockPages, true, GFP_ATOMIC);
        with_zone_locked([&] { z.free(other, 10, true, GFP_KERNEL); });
        EXPECT_EQ(z.stats().purged, 0u);
        z.free(get_pages(1), 1, false, GFP_KERNEL);
        EXPECT_GT(z.stats().purged, 0u);
        EXPECT_FALSE(z.over_dirty_bound());
        EXPECT_EQ(z.stats().free, z.stats().present);
    });
}

// A thread that takes the lock all the time makes purges end without it: no page is lost, and none
// reads as what it was.
TEST(PurgeTest, EndsWithoutTheLockLoseNothing) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = 64 << 10;
        std::atomic<bool> done{false};
        std::thread holder([&] {
            while (!done) {
                lock_guard g(z.lock());
                for (int i = 0; i < 2000; i++)
                    asm volatile("" ::: "memory");
            }
        });
        random_numbers random(1);
        std::vector<std::pair<uint32_t, uint32_t>> runs;
        for (int i = 0; i < 3000; i++) {
            if (runs.size() < 8) {
                uint32_t count = 1 + static_cast<uint32_t>(random.below(600));
                page_state state;
                uint32_t first = z.alloc(count, 0, GFP_KERNEL, &state);
                ASSERT_NE(first, kNoPage);
                for (uint32_t p = 0; p < count; p++) {
                    uint64_t *word = static_cast<uint64_t *>(page_address(first + p));
                    ASSERT_TRUE(!state.zeroed || *word == 0);
                    *word = 1;
                }
                runs.emplace_back(first, count);
            } else {
                std::swap(runs[random.below(runs.size())], runs.back());
                z.free(runs.back().first, runs.back().second, true, GFP_KERNEL);
                runs.pop_back();
            }
        }
        for (auto [first, count] : runs)
            z.free(first, count, true, GFP_KERNEL);
        done = true;
        holder.join();
        EXPECT_TRUE(z.consistent()); // takes in what was left
        EXPECT_EQ(z.stats().free, z.stats().present);
        EXPECT_GT(z.stats().purged, 0u);
    });
}

// A purge that ended without the lock has left its pageblock isolated. When more of that block is
// free by the next purge, that one must not isolate it a second time.
TEST(PurgeTest, TheNextPurgeFindsWhatTheLastOneLeft) {
    in_fresh_zone([](zone &z) {
        for (int round = 0, left = 0; round < 300 && left < 20; round++) {
            uint32_t first = get_pages(kPageblockPages);
            ASSERT_EQ(first % kPageblockPages, 0u);
            fill_pages(first, kPageblockPages, 1);
            for (uint32_t p = 1; p < kPageblockPages; p += 2) // a call for each: a slow purge
                z.free(first + p, 1, true, GFP_KERNEL);
            pageblock &b = g_space.pageblocks.as<pageblock>()[first / kPageblockPages];
            std::atomic<bool> over{false};
            std::thread purging([&] {
                z.purge(0, false);
                over = true;
            });
            while (!over && std::atomic_ref<uint64_t>(b.isolated[0]).load() == 0) {
            }
            z.stats();                          // waits until all are isolated
            z.free(first, 1, true, GFP_KERNEL); // of the same block, meanwhile
            {
                lock_guard g(z.lock());
                purging.join();
                left += b.purge_ended.load() != purge_end::none;
            }
            z.purge(0);
            for (uint32_t p = 2; p < kPageblockPages; p += 2)
                z.free(first + p, 1, true, GFP_KERNEL);
            ASSERT_TRUE(z.consistent());
            ASSERT_EQ(z.stats().free, z.stats().present);
        }
    });
}

TEST(PurgeTest, UnmapsWhereAddressesAreLimited) {
    in_fresh_zone([](zone &z) {
        z.set_limits({uint64_t{1} << 40, kNoLimit, false});
        uint32_t first = get_pages(8 * kPageblockPages);
        fill_pages(first, 8 * kPageblockPages, 1);
        uint64_t before = z.stats().present;
        z.free(first, 8 * kPageblockPages, true, GFP_KERNEL);
        z.purge(0, false);
        EXPECT_LT(z.stats().present, before);
        EXPECT_EQ(z.stats().free, z.stats().present);
        EXPECT_NE(get_pages(8 * kPageblockPages), kNoPage);
    });
}

} // namespace
} // namespace pagoda
