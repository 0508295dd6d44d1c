#include "hugepage/block_hold.h"

#include "hugepage/address_space.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "tests/fake_provider.h"
#include "tests/unit.h"

#include <errno.h>
#include <set>
#include <sys/mman.h>
#include <vector>

namespace pagoda {
namespace {

using test::fake_provider;
using test::in_child;
using test::random_numbers;
using test::succeeded;

// The zones belong to the process, so each test has a process of its own.
template <class F> void in_fresh_zone(F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        mutable_options().thp = thp_policy::never;
        mutable_options().dirty_bytes = uint64_t{1} << 30;
        ASSERT_TRUE(address_space_init(kPageSize));
        ASSERT_TRUE(zones_init());
        fake_provider::install();
        body(zone_normal());
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

uint32_t get(uint32_t count, unsigned align = 0, bool *zeroed = nullptr) {
    page_state state;
    uint32_t first = zone_normal().alloc(count, align, GFP_KERNEL, &state);
    if (zeroed != nullptr)
        *zeroed = state.zeroed;
    return first;
}

void give(uint32_t first, uint32_t count, bool dirty = true) {
    zone_normal().free(first, count, dirty, GFP_KERNEL);
}

// How many pages of a pageblock hold memory.
uint32_t resident_pages(uint32_t number) {
    unsigned char in[kPageblockPages];
    if (mincore(page_address(number * kPageblockPages), kPageblockSize, in) != 0)
        return 0;
    uint32_t n = 0;
    for (unsigned char each : in)
        n += each & 1;
    return n;
}

// A whole pageblock that is held and has been freed again.
uint32_t held_and_free() {
    uint32_t first = get(kPageblockPages, kPageblockOrder);
    EXPECT_EQ(zone_normal().hold_block(first / kPageblockPages), 0);
    give(first, kPageblockPages);
    return first / kPageblockPages;
}

TEST(BlockHoldTest, PopulatesAndKeepsAccounts) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get(4); // in the first pageblock, of which little is there
        ASSERT_EQ(first / kPageblockPages, 0u);
        EXPECT_LT(resident_pages(0), 4u);
        EXPECT_EQ(z.hold_block(0), 0);
        EXPECT_EQ(resident_pages(0), kPageblockPages);
        EXPECT_EQ(z.stats().dirty, kPageblockPages - 4);
        EXPECT_TRUE(z.consistent());
        EXPECT_EQ(z.hold_block(0), 0) << "again: nothing changes";
        EXPECT_EQ(z.stats().dirty, kPageblockPages - 4);
        bool zeroed = true;
        uint32_t other = get(8, 0, &zeroed);
        EXPECT_EQ(other / kPageblockPages, 0u);
        EXPECT_FALSE(zeroed) << "a device may have written there";
        give(other, 8, false);
        EXPECT_EQ(z.stats().dirty, kPageblockPages - 4)
            << "untouched by its owner, it holds memory";
    });
}

TEST(BlockHoldTest, KeepsPurgesAwayUntilItEnds) {
    in_fresh_zone([](zone &z) {
        uint32_t held = get(kPageblockPages, kPageblockOrder);
        uint32_t other = get(kPageblockPages, kPageblockOrder);
        memset(page_address(held), 1, kPageblockSize);
        memset(page_address(other), 1, kPageblockSize);
        ASSERT_EQ(z.hold_block(held / kPageblockPages), 0);
        give(held + 1, kPageblockPages - 1);
        give(other + 1, kPageblockPages - 1);
        EXPECT_EQ(z.purge(0), (kPageblockPages - 1) * kPageSize);
        EXPECT_EQ(resident_pages(held / kPageblockPages), kPageblockPages);
        EXPECT_EQ(resident_pages(other / kPageblockPages), 1u);
        EXPECT_EQ(fake_provider::calls, 0) << "a page of it is in use";
        z.unhold_block(held / kPageblockPages);
        EXPECT_EQ(z.purge(0), (kPageblockPages - 1) * kPageSize);
        EXPECT_EQ(resident_pages(held / kPageblockPages), 1u);
    });
}

TEST(BlockHoldTest, EndsWhenTheProviderLetsGo) {
    in_fresh_zone([](zone &z) {
        uint32_t block = get(2 * kPageblockPages, kPageblockOrder) / kPageblockPages;
        uint32_t other = block + 1;
        ASSERT_EQ(z.hold_block(block), 0);
        ASSERT_EQ(z.hold_block(other), 0);
        give(block * kPageblockPages, 2 * kPageblockPages);
        fake_provider::willing = false;
        EXPECT_EQ(z.purge(0), 0u);
        EXPECT_EQ(fake_provider::calls, 2) << "each once";
        EXPECT_EQ(resident_pages(block), kPageblockPages);
        EXPECT_TRUE(z.consistent());
        fake_provider::willing = true;
        EXPECT_EQ(z.purge(kPageblockSize), kPageblockSize) << "one is enough";
        EXPECT_EQ(fake_provider::calls, 3);
        EXPECT_EQ(fake_provider::bytes, kPageblockSize);
        EXPECT_EQ(z.purge(0), kPageblockSize);
        EXPECT_EQ(fake_provider::calls, 4);
        EXPECT_EQ(resident_pages(block), 0u);
        EXPECT_EQ(resident_pages(other), 0u);
        EXPECT_EQ(z.purge(0), 0u);
        EXPECT_EQ(fake_provider::calls, 4);
    });
}

TEST(BlockHoldTest, OtherMemoryGoesFirst) {
    in_fresh_zone([](zone &z) {
        uint32_t other = get(2 * kPageblockPages, kPageblockOrder);
        held_and_free();
        give(other, 2 * kPageblockPages);
        EXPECT_EQ(z.purge(kPageblockSize), 2 * kPageblockSize);
        EXPECT_EQ(fake_provider::calls, 0);
    });
}

// What cannot be had must not be asked for with every free.
TEST(BlockHoldTest, TheDirtyBoundAsksOnce) {
    in_fresh_zone([](zone &z) {
        mutable_options().dirty_bytes = 1 << 20;
        fake_provider::willing = false;
        uint32_t first = get(8 * kPageblockPages, kPageblockOrder);
        for (uint32_t n = 0; n < 8; n++)
            ASSERT_EQ(z.hold_block(first / kPageblockPages + n), 0);
        give(first, 8 * kPageblockPages);
        EXPECT_EQ(fake_provider::calls, 8);
        EXPECT_FALSE(z.over_dirty_bound()) << "nothing that could be purged";
        uint32_t small = get(100);
        for (int i = 0; i < 1000; i++)
            give(get(1), 1);
        EXPECT_EQ(fake_provider::calls, 8);
        give(small, 100);
        // A block that was used again may be had when it is free again.
        int before = fake_provider::calls;
        fake_provider::willing = true;
        uint32_t used = get(8 * kPageblockPages, kPageblockOrder);
        EXPECT_EQ(used, first);
        give(used, 8 * kPageblockPages);
        EXPECT_GT(fake_provider::calls, before);
        EXPECT_LE(fake_provider::calls, before + 8);
        EXPECT_GT(z.stats().purged, 0u);
    });
}

TEST(BlockHoldTest, IsUnmappedOnlyAfterIt) {
    in_fresh_zone([](zone &z) {
        z.set_limits({uint64_t{1} << 40, kNoLimit, false});
        uint32_t first = get(4 * kPageblockPages, kPageblockOrder);
        for (uint32_t n = 0; n < 4; n++)
            ASSERT_EQ(z.hold_block(first / kPageblockPages + n), 0);
        give(first, 4 * kPageblockPages);
        uint64_t present = z.stats().present;
        fake_provider::willing = false;
        z.squeeze(kPageblockSize);
        EXPECT_EQ(z.stats().present, present);
        EXPECT_EQ(fake_provider::calls, 4);
        fake_provider::willing = true;
        z.squeeze(kPageblockSize);
        EXPECT_LT(z.stats().present, present);
        EXPECT_EQ(fake_provider::calls, 8);
    });
}

TEST(BlockHoldTest, CountsAgainstTheLimit) {
    in_fresh_zone([](zone &z) {
        mutable_options().limit_bytes = 8 << 20;
        uint32_t first = get(3 * kPageblockPages, kPageblockOrder);
        uint32_t one = get(1, kPageblockOrder);
        ASSERT_NE(one, kNoPage);
        EXPECT_EQ(z.committed(), 3 * kPageblockSize + kPageSize);
        EXPECT_EQ(z.hold_block(one / kPageblockPages), 0);
        EXPECT_EQ(z.committed(), 4 * kPageblockSize);
        uint32_t more = get(kPageblockPages); // of what is held already
        EXPECT_EQ(more, kNoPage);
        more = get(256);
        ASSERT_NE(more, kNoPage);
        EXPECT_LE(z.committed(), options().limit_bytes);
        give(first, 3 * kPageblockPages);
        uint32_t next = get(1, kPageblockOrder + 1); // a block of its own, where there is room
        ASSERT_NE(next, kNoPage);
        uint32_t rest = get(2 * kPageblockPages);
        EXPECT_LE(z.committed(), options().limit_bytes);
        uint32_t last = get(400);
        EXPECT_NE(rest == kNoPage && last == kNoPage, true);
        EXPECT_LE(z.committed(), options().limit_bytes);
        int r = z.hold_block(next / kPageblockPages);
        EXPECT_TRUE(r == 0 || r == -ENOMEM);
        EXPECT_LE(z.committed(), options().limit_bytes);
    });
}

TEST(BlockHoldTest, GivesBackUnderTheLimit) {
    in_fresh_zone([](zone &z) {
        mutable_options().limit_bytes = 8 << 20;
        uint32_t first = get(3 * kPageblockPages, kPageblockOrder);
        for (uint32_t n = 0; n < 3; n++)
            ASSERT_EQ(z.hold_block(first / kPageblockPages + n), 0);
        give(first, 3 * kPageblockPages);
        EXPECT_EQ(fake_provider::calls, 0);
        fake_provider::willing = false;
        EXPECT_FALSE(z.charge(6 << 20));
        EXPECT_GT(fake_provider::calls, 0);
        fake_provider::willing = true;
        EXPECT_TRUE(z.charge(6 << 20)) << "as for vmalloc";
        z.uncharge(6 << 20);
    });
}

TEST(BlockHoldTest, RefusesWhatIsNotAllThere) {
    in_fresh_zone([](zone &z) {
        uint32_t first = get(4);
        // Somebody else's mapping right behind the zone: its first pageblock cannot be completed.
        void *behind = page_address(static_cast<uint32_t>(z.stats().spanned));
        ASSERT_EQ(mmap(behind, kPageSize, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
                  behind);
        EXPECT_EQ(z.hold_block(first / kPageblockPages), -EFAULT);
        EXPECT_TRUE(z.consistent());
    });
}

TEST(BlockHoldTest, HoldsWhatTheReserveHas) {
    in_fresh_zone([](zone &z) {
        ASSERT_TRUE(z.set_reserve(kPageblockSize));
        while (z.stats().dirty != 0)
            get(1);
        page_state state;
        uint32_t first = z.alloc(1, 0, GFP_ATOMIC, &state);
        ASSERT_NE(first, kNoPage);
        ASSERT_TRUE(reserve::has(first / kPageblockPages));
        EXPECT_EQ(z.hold_block(first / kPageblockPages), 0);
        EXPECT_TRUE(z.is_held(first, 1));
        EXPECT_TRUE(z.consistent());
        z.unhold_block(first / kPageblockPages);
        EXPECT_FALSE(z.is_held(first, 1));
        EXPECT_EQ(z.hold_block(first / kPageblockPages), 0);
        z.free(first, 1, true, GFP_KERNEL);
    });
}

TEST(BlockHoldTest, KeepsWhatWasSetAside) {
    in_fresh_zone([](zone &z) {
        uint32_t first = z.set_aside(1);
        ASSERT_NE(first, kNoPage);
        memset(page_address(first), 1, kPageblockSize);
        z.free_set_aside(first, 100, true);
        ASSERT_EQ(z.hold_block(first / kPageblockPages), 0);
        EXPECT_FALSE(z.discard_set_aside(first + 100, 412)) << "a device reaches it";
        EXPECT_EQ(resident_pages(first / kPageblockPages), kPageblockPages);
        z.free_set_aside(first + 100, 412, false);
        EXPECT_TRUE(z.consistent());
        z.unhold_block(first / kPageblockPages);
    });
}

TEST(BlockHoldTest, IsVoidInAChildOfFork) {
    in_fresh_zone([](zone &z) {
        uint32_t block = held_and_free();
        EXPECT_TRUE(succeeded(in_child([&] {
            z.lock().lock_for_fork();
            z.reserve_lock().lock_for_fork();
            z.after_fork_in_child();
            z.reserve_lock().reset_in_child();
            z.lock().reset_in_child();
            EXPECT_FALSE(z.is_held(block * kPageblockPages, 1));
            EXPECT_TRUE(z.consistent());
            EXPECT_EQ(z.purge(0), kPageblockSize);
            EXPECT_EQ(fake_provider::calls, 0);
        })));
        EXPECT_TRUE(z.is_held(block * kPageblockPages, 1));
    });
}

// Random operations against a model: what is held holds memory to its last page, the buddy's books
// are right, and nobody's pages change.
TEST(BlockHoldTest, AgreesWithAModel) {
    in_fresh_zone([](zone &z) {
        random_numbers random(7);
        mutable_options().dirty_bytes = 4 << 20;
        struct run {
            uint32_t first, count;
            uint64_t mark;
        };
        std::vector<run> runs;
        std::set<uint32_t> held; // or was
        auto check = [&](const run &r) {
            for (uint32_t i = 0; i < r.count; i++)
                ASSERT_EQ(*static_cast<uint64_t *>(page_address(r.first + i)), r.mark);
        };
        uint64_t steps = test::operations() / (kDebug ? 2000 : 400);
        for (uint64_t step = 0; step < steps; step++) {
            switch (random.below(8)) {
            case 0:
            case 1:
            case 2: {
                if (runs.size() > 200)
                    break;
                auto count = static_cast<uint32_t>(random.skewed(10));
                count = count == 0 ? 1 : count;
                bool zeroed = false;
                uint32_t first = get(count, random.one_in(4) ? order_of(count) : 0, &zeroed);
                ASSERT_NE(first, kNoPage);
                for (uint32_t i = 0; i < count; i++) {
                    auto *word = static_cast<uint64_t *>(page_address(first + i));
                    ASSERT_TRUE(!zeroed || *word == 0);
                    *word = step + 1;
                }
                runs.push_back({first, count, step + 1});
                break;
            }
            case 3:
            case 4:
            case 5:
                if (!runs.empty()) {
                    std::swap(runs[random.below(runs.size())], runs.back());
                    check(runs.back());
                    give(runs.back().first, runs.back().count);
                    runs.pop_back();
                }
                break;
            case 6:
                if (!runs.empty()) {
                    uint32_t block = runs[random.below(runs.size())].first / kPageblockPages;
                    if (random.one_in(3))
                        z.unhold_block(block);
                    else
                        ASSERT_EQ(z.hold_block(block), 0);
                    held.insert(block);
                }
                break;
            default:
                fake_provider::willing = random.one_in(2);
                if (random.one_in(4))
                    z.purge(random.below(64) << 20);
                break;
            }
            if (step % 100 != 0)
                continue;
            ASSERT_TRUE(z.consistent());
            for (uint32_t block : held) {
                if (z.is_held(block * kPageblockPages, 1)) {
                    ASSERT_EQ(resident_pages(block), kPageblockPages);
                }
            }
        }
        for (const run &r : runs) {
            check(r);
            give(r.first, r.count);
        }
        fake_provider::willing = true;
        z.purge(0);
        EXPECT_EQ(z.stats().dirty, 0u);
    });
}

} // namespace
} // namespace pagoda
