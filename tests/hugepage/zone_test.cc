#include "hugepage/zone.h"

#include "hugepage/address_space.h"
#include "hugepage/options.h"
#include "hugepage/page.h"
#include "hugepage/sys.h"
#include "tests/fresh_zone.h"
#include "tests/unit.h"

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::fill_pages;
using test::get_pages;
using test::in_fresh_zone;
using test::limit;
using test::random_numbers;
using test::resident;

constexpr size_t kMiB = size_t{1} << 20;

bool is_zero(uint32_t first, uint32_t count) {
    const uint64_t *words = static_cast<const uint64_t *>(page_address(first));
    for (size_t i = 0; i < (size_t{count} << kPageShift) / 8; i++)
        if (words[i] != 0)
            return false;
    return true;
}

TEST(ZoneTest, HandsOutExactPages) {
    in_fresh_zone([](zone &z) {
        page_state state;
        uint32_t first = z.alloc(3, 0, GFP_KERNEL, &state);
        ASSERT_NE(first, kNoPage);
        EXPECT_TRUE(state.zeroed);
        EXPECT_FALSE(state.backed);
        EXPECT_TRUE(is_zero(first, 3));
        fill_pages(first, 3, 1);
        zone_stats s = z.stats();
        EXPECT_EQ(s.allocated, 3u);
        EXPECT_EQ(s.present - s.free, 3u);
        EXPECT_TRUE(in_zone(page_address(first + 2)));
        EXPECT_FALSE(in_zone(&s));
        z.free(first, 3, true, GFP_KERNEL);
        s = z.stats();
        EXPECT_EQ(s.released, 3u);
        EXPECT_EQ(s.free, s.present);
        EXPECT_EQ(s.dirty, 3u);
    });
}

TEST(ZoneTest, AlignsAsAsked) {
    in_fresh_zone([](zone &z) {
        for (unsigned align = 0; align <= kPageblockOrder + 3; align++) {
            ASSERT_NE(get_pages(1), kNoPage); // moves what comes next off its place
            uint32_t first = get_pages(1, GFP_KERNEL, align);
            ASSERT_NE(first, kNoPage);
            EXPECT_EQ(first % (1u << align), 0u);
        }
        EXPECT_EQ(z.stats().allocated, 26u);
        EXPECT_EQ(get_pages(1, GFP_KERNEL, 19),
                  kNoPage); // 2 GiB: no zone's start is so well aligned
        EXPECT_EQ(z.stats().allocated, 26u);
        EXPECT_TRUE(z.consistent());
    });
}

TEST(ZoneTest, AlignsMoreThanAPageblock) {
    in_fresh_zone([](zone &z) {
        for (unsigned order = kPageblockOrder + 1; order <= kPageblockOrder + 4; order++) {
            for (int i = 0; i < 3; i++) {
                ASSERT_NE(get_pages(kPageblockPages), kNoPage);
                uint32_t first = get_pages(1u << order, GFP_KERNEL, order);
                ASSERT_NE(first, kNoPage);
                EXPECT_EQ(first % (1u << order), 0u);
            }
        }
        EXPECT_TRUE(z.consistent());
    });
}

TEST(ZoneTest, HandsOutMoreThanAPageblock) {
    in_fresh_zone([](zone &z) {
        uint32_t count = 2 * kPageblockPages + 7;
        uint32_t first = get_pages(count);
        ASSERT_NE(first, kNoPage);
        fill_pages(first, count, 1);
        zone_stats s = z.stats();
        EXPECT_EQ(s.present - s.free, count);
        z.free(first, 7, true, GFP_KERNEL); // in pieces
        z.free(first + 7, count - 7, true, GFP_KERNEL);
        EXPECT_EQ(z.stats().free, z.stats().present);
    });
}

TEST(ZoneTest, AtomicTakesWhatHoldsMemory) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get_pages(64);
        fill_pages(first, 64, 1);
        EXPECT_EQ(get_pages(1, GFP_ATOMIC), kNoPage) << "the rest of the zone would fault";
        z.free(first, 64, true, GFP_ATOMIC);
        uint64_t present = z.stats().present;
        page_state state;
        uint32_t aligned = z.alloc(3, 4, GFP_ATOMIC, &state);
        ASSERT_NE(aligned, kNoPage);
        EXPECT_EQ(aligned % 16, 0u);
        EXPECT_TRUE(state.backed);
        EXPECT_FALSE(state.zeroed);
        uint32_t got = 3;
        for (uint32_t at; (at = get_pages(1, GFP_ATOMIC)) != kNoPage; got++)
            EXPECT_TRUE(resident(page_address(at)));
        EXPECT_EQ(got, 64u);
        EXPECT_EQ(z.stats().dirty, 0u);
        EXPECT_EQ(get_pages(kPageblockPages + 1, GFP_ATOMIC), kNoPage);
        EXPECT_EQ(z.stats().present, present);
        EXPECT_NE(get_pages(1, GFP_ATOMIC | kGfpMayFault), kNoPage);
        while (get_pages(1, GFP_ATOMIC | kGfpMayFault) != kNoPage)
            continue;
        EXPECT_EQ(z.stats().free, 0u);
        EXPECT_EQ(z.stats().present, present);
        EXPECT_NE(get_pages(1), kNoPage);
        EXPECT_GT(z.stats().present, present);
    });
}

TEST(ZoneTest, AtomicDoesNotWait) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get_pages(1);
        z.lock().lock();
        EXPECT_EQ(get_pages(1, GFP_ATOMIC | kGfpMayFault), kNoPage);
        z.lock().unlock();
        EXPECT_EQ(z.stats().released, 0u);
        z.free(first, 1, true, GFP_ATOMIC);
        EXPECT_EQ(z.stats().released, 1u);
    });
}

// Whatever the flags: the holder may be a thread that is stopped.
TEST(ZoneTest, FreesDoNotWait) {
    for (gfp_t gfp : {GFP_ATOMIC, GFP_KERNEL}) {
        in_fresh_zone([gfp](zone &z) {
            uint32_t first = get_pages(10);
            uint32_t second = get_pages(20);
            fill_pages(second, 20, 1);
            std::atomic<int> step{0};
            std::thread holder([&] {
                lock_guard g(z.lock());
                step = 1;
                while (step != 2)
                    std::this_thread::yield();
            });
            while (step != 1)
                std::this_thread::yield();
            g_pagemap.page_class[first] = 1;
            z.free(first, 10, false, gfp);
            z.free(second, 20, true, gfp);
            EXPECT_EQ(class_of_pointer(page_address(first)), kClassNone);
            step = 2;
            holder.join();
            EXPECT_EQ(z.stats().released, 0u);
            ASSERT_NE(get_pages(1), kNoPage); // any operation takes them in
            EXPECT_EQ(z.stats().released, 30u);
            EXPECT_EQ(z.stats().present - z.stats().free, 1u);
            EXPECT_EQ(z.stats().dirty, 20u - z.stats().present + z.stats().free);
        });
    }
}

TEST(ZoneTest, AtomicFreesDoNotPurge) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = 64 << 10;
        uint32_t first = get_pages(kPageblockPages);
        fill_pages(first, kPageblockPages, 1);
        z.free(first, kPageblockPages, true, GFP_ATOMIC);
        EXPECT_TRUE(z.over_dirty_bound());
        EXPECT_EQ(z.stats().purged, 0u);
    });
}

TEST(ZoneTest, KnowsWhatReadsAsZero) {
    in_fresh_zone([](zone &z) {
        page_state state;
        uint32_t first = z.alloc(kPageblockPages, 0, GFP_KERNEL, &state);
        fill_pages(first, kPageblockPages, 0x55);
        z.free(first, kPageblockPages, true, GFP_KERNEL);
        ASSERT_EQ(z.alloc(kPageblockPages, 0, GFP_KERNEL, &state), first); // memory is used again
        EXPECT_FALSE(state.zeroed);
        EXPECT_TRUE(state.backed);
        z.free(first, kPageblockPages, true, GFP_KERNEL);
        EXPECT_EQ(z.purge(0), kPageblockSize);
        EXPECT_FALSE(resident(page_address(first)));
        ASSERT_EQ(z.alloc(kPageblockPages, 0, GFP_KERNEL, &state), first);
        EXPECT_TRUE(state.zeroed);
        EXPECT_FALSE(state.backed);
        EXPECT_TRUE(is_zero(first, kPageblockPages));
        z.free(first, kPageblockPages, false, GFP_KERNEL); // never touched since
        EXPECT_EQ(z.stats().dirty, 0u);
    });
}

TEST(ZoneTest, PurgesDownToWhatIsKept) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = 64 * kMiB;
        uint32_t count = 4 * kPageblockPages;
        uint32_t first = get_pages(count);
        fill_pages(first, count, 1);
        z.free(first, count, true, GFP_KERNEL);
        EXPECT_EQ(z.stats().dirty, count);
        EXPECT_EQ(z.purge(16 * kMiB), 0u);
        EXPECT_EQ(z.purge(3 * kMiB), 6 * kMiB); // by whole pageblocks
        EXPECT_EQ(z.stats().dirty, kPageblockPages);
        EXPECT_EQ(z.stats().purged, 3 * kPageblockPages);
        EXPECT_EQ(z.purge(0), 2 * kMiB);
        EXPECT_EQ(z.purge(0), 0u);
        EXPECT_EQ(z.stats().free, z.stats().present);
    });
}

TEST(ZoneTest, FreeMemoryStaysWithinItsBound) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = kMiB;
        constexpr uint32_t kRun = 16;
        std::vector<uint32_t> runs;
        for (size_t i = 0; i < 64 * kMiB / (kRun * kPageSize); i++) {
            runs.push_back(get_pages(kRun));
            ASSERT_NE(runs.back(), kNoPage);
            fill_pages(runs.back(), kRun, 1);
        }
        EXPECT_EQ(z.dirty_bound(), 8 * kMiB); // an eighth of what lives
        random_numbers random(3);
        while (!runs.empty()) {
            std::swap(runs[random.below(runs.size())], runs.back());
            z.free(runs.back(), kRun, true, GFP_KERNEL);
            runs.pop_back();
            ASSERT_LE(z.stats().dirty << kPageShift, z.dirty_bound());
        }
        EXPECT_EQ(z.dirty_bound(), kMiB);
        EXPECT_GE(z.stats().purged, 63 * kMiB >> kPageShift);
    });
}

// Purges `count` pages that were just used and takes them again. False where that took so long (on
// a busy machine) that nobody can say whether it counts as quick.
bool refault(zone &z, uint32_t count) {
    uint64_t began = sys::now_ms();
    uint32_t first = get_pages(count);
    fill_pages(first, count, 1);
    z.free(first, count, true, GFP_KERNEL);
    EXPECT_EQ(z.purge(0), size_t{count} << kPageShift);
    EXPECT_EQ(get_pages(count), first);
    fill_pages(first, count, 1);
    z.free(first, count, true, GFP_KERNEL);
    return sys::now_ms() - began < 900;
}

TEST(ZoneTest, QuickRefaultsRaiseTheBound) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = 64 * kMiB; // nothing is purged but by this test
        uint64_t before = 0;
        do {
            z.purge(0);
            before = z.stats().refault_bonus;
        } while (!refault(z, kPageblockPages));
        EXPECT_GE(z.stats().refault_bonus, before / 2 + kPageblockSize);
        EXPECT_GT(z.dirty_bound(), 64 * kMiB);
    });
}

TEST(ZoneTest, LateRefaultsDoNot) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get_pages(kPageblockPages);
        fill_pages(first, kPageblockPages, 1);
        z.free(first, kPageblockPages, true, GFP_KERNEL);
        z.purge(0);
        std::this_thread::sleep_for(std::chrono::milliseconds(1100));
        ASSERT_EQ(get_pages(kPageblockPages), first);
        EXPECT_EQ(z.stats().refault_bonus, 0u);
    });
}

TEST(ZoneTest, TheBonusIsCappedAndHalvesEverySecond) {
    in_fresh_zone([](zone &z) {
        uint64_t base = z.dirty_bound();
        z.note_refault(uint64_t{8} << 30);
        EXPECT_LE(z.dirty_bound(), base + (uint64_t{1} << 30));
        EXPECT_GT(z.dirty_bound(), base);
        z.note_vmalloc(0, static_cast<int64_t>(base) + 1);
        EXPECT_FALSE(z.over_dirty_bound());
        // Read between two looks at the clock, it lies between what they would make of it.
        uint64_t last = z.stats().refault_bonus;
        uint64_t second = sys::now_ms() / 1000;
        for (uint64_t elapsed = 0; elapsed < 3;) {
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
            z.dirty_bound();
            uint64_t bonus = z.stats().refault_bonus;
            elapsed = sys::now_ms() / 1000 - second;
            ASSERT_LE(bonus, last);
            ASSERT_GE(bonus, last >> (elapsed + 1));
        }
        z.dirty_bound();
        EXPECT_LE(z.stats().refault_bonus, last / 4);
        z.note_vmalloc(0, -static_cast<int64_t>(base) - 1);
    });
}

TEST(ZoneTest, MakeRoomKeepsNoBonus) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = kMiB;
        z.note_refault(uint64_t{1} << 30);
        uint32_t count = 4 * kPageblockPages;
        uint32_t first = get_pages(count);
        fill_pages(first, count, 1);
        z.free(first, count, true, GFP_KERNEL);
        EXPECT_EQ(z.stats().dirty, count) << "the bonus lets it stay";
        z.make_room();
        EXPECT_LE(z.stats().dirty << kPageShift, kMiB);
        EXPECT_EQ(z.stats().free, z.stats().present);
    });
}

TEST(ZoneTest, VmallocCountsTowardsTheBound) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = kMiB;
        EXPECT_EQ(z.dirty_bound(), kMiB);
        z.note_vmalloc(80 * int64_t{kMiB}, 0);
        EXPECT_EQ(z.dirty_bound(), 10 * kMiB);
        z.note_vmalloc(0, 10 * int64_t{kMiB});
        EXPECT_FALSE(z.over_dirty_bound());
        z.note_vmalloc(0, 1);
        EXPECT_TRUE(z.over_dirty_bound());
        z.note_vmalloc(-80 * int64_t{kMiB}, -9 * int64_t{kMiB} - 1);
        EXPECT_FALSE(z.over_dirty_bound());
        EXPECT_EQ(z.dirty_bound(), kMiB);
    });
}

TEST(ZoneTest, LockedMemoryKeepsItsBytes) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get_pages(kPageblockPages);
        fill_pages(first, kPageblockPages, 0x55);
        if (mlock(page_address(first), kPageSize) != 0)
            return; // this process may not lock memory
        z.free(first, kPageblockPages, true, GFP_KERNEL);
        z.purge(0);
        EXPECT_GT(z.stats().dirty, 0u);
        page_state state;
        ASSERT_EQ(z.alloc(kPageblockPages, 0, GFP_KERNEL, &state), first);
        EXPECT_FALSE(state.zeroed);
    });
}

TEST(ZoneTest, StepsOverWhatOthersMapped) {
    for (size_t at : {kMiB, kPageblockSize, 5 * kMiB + kPageSize}) {
        in_fresh_zone([at](zone &z) {
            uintptr_t obstacle = g_space.zone_base + at;
            ASSERT_EQ(sys::map_at(obstacle, kPageSize), 0);
            memset(reinterpret_cast<void *>(obstacle), 0x77, kPageSize);
            uint32_t own = static_cast<uint32_t>(at >> kPageShift);
            uint32_t count = kPageblockPages / 2;
            for (int i = 0; i < 40; i++) {
                uint32_t first = get_pages(count);
                ASSERT_NE(first, kNoPage);
                EXPECT_TRUE(own < first || own >= first + count);
                fill_pages(first, count, 1);
            }
            for (size_t i = 0; i < kPageSize; i++)
                ASSERT_EQ(reinterpret_cast<char *>(obstacle)[i], 0x77);
            EXPECT_TRUE(z.consistent());
        });
    }
}

std::atomic<int> reclaims{0};

TEST(ZoneTest, AtALimitItReclaimsAndThenFails) {
    in_fresh_zone([](zone &z) {
        z.set_reclaim([] { reclaims++; }, nullptr);
        ASSERT_NE(get_pages(1), kNoPage);
        EXPECT_EQ(reclaims, 0);
        limit(RLIMIT_AS, test::process_figure("VmSize") + 3 * kMiB);
        uint64_t got = 1;
        while (get_pages(1) != kNoPage)
            got++;
        EXPECT_GT(reclaims, 0);
        EXPECT_EQ(z.stats().allocated, got);
        EXPECT_EQ(z.stats().free, 0u); // also the pieces smaller than a pageblock
        z.free(0, 1, false, GFP_KERNEL);
        EXPECT_NE(get_pages(1), kNoPage);
    });
}

uint32_t hoarded = kNoPage;

TEST(ZoneTest, UsesWhatReclaimGaveBack) {
    in_fresh_zone([](zone &) {
        hoarded = get_pages(kPageblockPages);
        ASSERT_NE(hoarded, kNoPage);
        while (get_pages(1, GFP_ATOMIC | kGfpMayFault) != kNoPage)
            continue;
        zone_normal().set_reclaim(
            [] { zone_normal().free(hoarded, kPageblockPages, false, GFP_KERNEL); }, nullptr);
        sys::inject_failures(0, 100'000);
        EXPECT_EQ(get_pages(1), hoarded);
    });
}

TEST(ZoneTest, SurvivesFailureAtEveryStep) {
    in_fresh_zone([](zone &z) {
        for (int skip = 0; skip < 20; skip++) {
            std::vector<uint32_t> runs;
            sys::inject_failures(skip, 100'000);
            for (uint32_t run = 0; (run = get_pages(300)) != kNoPage;)
                runs.push_back(run);
            EXPECT_EQ(get_pages(3 * kPageblockPages), kNoPage);
            EXPECT_FALSE(z.lock().is_locked());
            sys::inject_failures(0, 0);
            ASSERT_TRUE(z.consistent());
            uint32_t first = get_pages(300);
            ASSERT_NE(first, kNoPage);
            runs.push_back(first);
            for (uint32_t run : runs) {
                fill_pages(run, 300, 1);
                z.free(run, 300, true, GFP_KERNEL);
            }
            ASSERT_EQ(z.stats().free, z.stats().present);
        }
    });
}

TEST(ZoneTest, AnEmptyHugetlbPoolIsAskedOnce) {
    in_fresh_zone([](zone &z) {
        EXPECT_FALSE(z.hugetlb_left());
        ASSERT_EQ(parse_options("hugetlb=2M:4"), 0);
        EXPECT_TRUE(z.hugetlb_left());
        sys::inject_failures(0, 1); // the pool has no page
        uint32_t first = get_pages(kPageblockPages);
        ASSERT_NE(first, kNoPage);
        fill_pages(first, kPageblockPages, 1);
        EXPECT_FALSE(z.hugetlb_left());
        EXPECT_EQ(z.stats().hugetlb, 0u);
    });
}

TEST(ZoneTest, HugePagesComeWithMemory) {
    in_fresh_zone([](zone &z) {
        mutable_options().thp = thp_policy::always;
        page_state state;
        uint32_t first = z.alloc(8, 0, GFP_KERNEL, &state);
        ASSERT_NE(first, kNoPage);
        EXPECT_TRUE(state.zeroed);
        EXPECT_EQ(state.backed, z.stats().huge_blocks == 1); // where the kernel can populate
        EXPECT_EQ(resident(page_address(first + 7)), state.backed);
        EXPECT_TRUE(is_zero(first, 8));
        EXPECT_EQ(z.stats().dirty, state.backed ? kPageblockPages - 8 : 0);
    });
}

TEST(ZoneTest, SmallHeapsHaveNoHugePages) {
    in_fresh_zone([](zone &z) {
        mutable_options().thp = thp_policy::automatic;
        for (uint64_t i = 0; i < kHugeHeap / kPageblockSize - 1; i++)
            ASSERT_NE(get_pages(kPageblockPages), kNoPage);
        EXPECT_EQ(z.stats().huge_blocks, 0u);
        mutable_options().thp = thp_policy::never;
        for (int i = 0; i < 20; i++)
            ASSERT_NE(get_pages(kPageblockPages), kNoPage);
        EXPECT_EQ(z.stats().huge_blocks, 0u);
    });
}

TEST(ZoneTest, FreedPagesHaveNoClass) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get_pages(4);
        memset(g_pagemap.page_class + first, kClassRunTail, 4);
        EXPECT_EQ(class_of_pointer(page_address(first + 3)), kClassRunTail);
        z.free(first + 2, 2, false, GFP_KERNEL);
        EXPECT_EQ(class_of_pointer(page_address(first + 1)), kClassRunTail);
        EXPECT_EQ(class_of_pointer(page_address(first + 3)), kClassNone);
        EXPECT_EQ(class_of_pointer(nullptr), kClassNone);
        EXPECT_EQ(class_of_pointer(reinterpret_cast<void *>(UINTPTR_MAX)), kClassNone);
    });
}

// Each run carries its owner's mark in every page for as long as it is held.
TEST(ZoneTest, ThreadsHoldPagesOfTheirOwn) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = kMiB; // purges meet allocations
        std::atomic<int> wrong{0};
        auto work = [&](uint64_t seed) {
            struct run {
                uint32_t first;
                uint32_t count;
                uint64_t mark;
            };
            random_numbers random(seed);
            std::vector<run> runs;
            for (int i = 0; i < 20'000; i++) {
                if (runs.size() < 50 || (runs.size() < 100 && random.one_in(2))) {
                    run r = {0, 1 + static_cast<uint32_t>(random.skewed(7)), random.next()};
                    page_state state;
                    r.first = z.alloc(r.count, 0, GFP_KERNEL, &state);
                    for (uint32_t p = 0; p < r.count; p++) {
                        uint64_t *word = static_cast<uint64_t *>(page_address(r.first + p));
                        wrong += state.zeroed && *word != 0;
                        *word = r.mark;
                    }
                    runs.push_back(r);
                } else {
                    std::swap(runs[random.below(runs.size())], runs.back());
                    run r = runs.back();
                    runs.pop_back();
                    for (uint32_t p = 0; p < r.count; p++)
                        wrong += *static_cast<uint64_t *>(page_address(r.first + p)) != r.mark;
                    z.free(r.first, r.count, true, GFP_KERNEL);
                }
            }
            for (const run &r : runs)
                z.free(r.first, r.count, true, GFP_KERNEL);
        };
        std::vector<std::thread> threads;
        for (uint64_t i = 0; i < 4; i++)
            threads.emplace_back(work, i + 1);
        for (auto &t : threads)
            t.join();
        EXPECT_EQ(wrong, 0);
        EXPECT_EQ(z.stats().free, z.stats().present);
        EXPECT_EQ(z.stats().allocated, z.stats().released);
    });
}

} // namespace
} // namespace pagoda
