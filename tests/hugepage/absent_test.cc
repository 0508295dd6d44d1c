#include "hugepage/absent.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "tests/unit.h"

#include <set>
#include <sys/wait.h>

namespace pagoda {
namespace {

using test::in_child;
using test::random_numbers;
using test::succeeded;

constexpr uint32_t kBlocks = 4000;

template <class F> void with_records(F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        ASSERT_TRUE(address_space_init(kPageSize));
        ASSERT_TRUE(g_space.pageblocks.reach(kBlocks * sizeof(pageblock)));
        absent_blocks absent;
        body(absent);
    })));
}

TEST(AbsentTest, FindsTheLowest) {
    with_records([](absent_blocks &absent) {
        EXPECT_EQ(absent.find(1, kBlocks), kNoPage);
        for (uint32_t block : {7u, 3u, 8u, 9u})
            absent.add(block);
        EXPECT_EQ(absent.count(), 4u);
        EXPECT_EQ(absent.find(1, kBlocks), 3u);
        EXPECT_EQ(absent.find(2, kBlocks), 7u);
        EXPECT_EQ(absent.find(3, kBlocks), 7u);
        EXPECT_EQ(absent.find(3, 9), kNoPage);
        EXPECT_EQ(absent.find(4, kBlocks), kNoPage);
        absent.remove(3);
        EXPECT_EQ(absent.find(1, kBlocks), 7u);
        absent.add(0);
        EXPECT_EQ(absent.find(1, kBlocks), 0u);
    });
}

TEST(AbsentTest, HolesAreBounded) {
    with_records([](absent_blocks &absent) {
        uint32_t block = 1;
        while (block < kBlocks && absent.room_for(block)) {
            absent.add(block);
            block += 2;
        }
        EXPECT_GT(absent.count(), 100u);
        EXPECT_LT(absent.count(), kBlocks / 2);
        EXPECT_TRUE(absent.room_for(2)); // joins two
        absent.add(2);
        EXPECT_TRUE(absent.room_for(block)); // which left room for one
        absent.remove(2);
        EXPECT_FALSE(absent.room_for(block));
    });
}

TEST(AbsentTest, AgreesWithASet) {
    with_records([](absent_blocks &absent) {
        random_numbers random(1);
        std::set<uint32_t> model;
        for (int i = 0; i < 20000; i++) {
            uint32_t block = static_cast<uint32_t>(random.below(100));
            if (model.erase(block) != 0) {
                absent.remove(block);
            } else {
                model.insert(block);
                absent.add(block);
            }
            ASSERT_EQ(absent.count(), model.size());
            ASSERT_EQ(absent.find(1, 100), model.empty() ? kNoPage : *model.begin());
        }
    });
}

// In a zone.

constexpr size_t kMiB = size_t{1} << 20;

template <class F> void under(const memory_limits &limits, F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        mutable_options().thp = thp_policy::never;
        ASSERT_TRUE(address_space_init(kPageSize));
        ASSERT_TRUE(zones_init());
        zone_normal().set_limits(limits);
        body(zone_normal());
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

memory_limits addresses(uint64_t bytes) { return {bytes, kNoLimit, false}; }

bool mapped(uint32_t page) { return msync(page_address(page), kPageSize, MS_ASYNC) == 0; }

uint32_t get(uint32_t count) {
    page_state state;
    uint32_t first = zone_normal().alloc(count, 0, GFP_KERNEL, &state);
    if (first != kNoPage)
        memset(page_address(first), 1, size_t{count} << kPageShift);
    return first;
}

// The first page of 8 whole pageblocks in a row, just freed.
uint32_t freed_blocks() {
    uint32_t first = get(8 * kPageblockPages);
    EXPECT_NE(first, kNoPage);
    zone_normal().free(first, 8 * kPageblockPages, true, GFP_KERNEL);
    return first;
}

TEST(AbsentInZoneTest, WithoutLimitsAddressesAreKept) {
    under({}, [](zone &z) {
        uint32_t first = freed_blocks();
        EXPECT_GT(z.purge(0), 0u);
        EXPECT_TRUE(mapped(first));
    });
}

TEST(AbsentInZoneTest, WhatIsPurgedIsUnmappedWhereAddressesCount) {
    for (const memory_limits &limits :
         {addresses(1 << 30), memory_limits{kNoLimit, kNoLimit, true}}) {
        under(limits, [](zone &z) {
            uint32_t first = freed_blocks();
            z.purge(0);
            for (uint32_t page = first; page < first + 8 * kPageblockPages; page++)
                EXPECT_FALSE(mapped(page));
            EXPECT_EQ(z.stats().free, z.stats().present);
            EXPECT_LT(z.stats().present, uint64_t{8 * kPageblockPages});
        });
    }
}

TEST(AbsentInZoneTest, UnmappedPlacesServeAgainBeforeOthersDo) {
    under(addresses(1 << 30), [](zone &z) {
        uint32_t first = freed_blocks();
        z.purge(0);
        page_state state;
        EXPECT_EQ(z.alloc(8 * kPageblockPages, 0, GFP_KERNEL, &state), first);
        EXPECT_TRUE(state.zeroed);
        EXPECT_FALSE(state.backed);
        for (uint32_t page = first; page < first + 8 * kPageblockPages; page++)
            ASSERT_EQ(*static_cast<char *>(page_address(page)), 0);
    });
}

TEST(AbsentInZoneTest, SmallPiecesAreTakenFromThemToo) {
    under(addresses(1 << 30), [](zone &z) {
        uint32_t first = freed_blocks();
        z.purge(0);
        for (int i = 0; i < 1000; i++)
            EXPECT_LT(get(4), first + 8 * kPageblockPages);
        EXPECT_EQ(z.stats().present - z.stats().free, 4000u);
    });
}

TEST(AbsentInZoneTest, APlaceThatSomebodyTookIsLost) {
    under(addresses(1 << 30), [](zone &z) {
        uint32_t first = freed_blocks();
        z.purge(0);
        uint32_t foreign = first + 3 * kPageblockPages + 5;
        ASSERT_EQ(sys::map_at(reinterpret_cast<uintptr_t>(page_address(foreign)), kPageSize), 0);
        memset(page_address(foreign), 0x77, kPageSize);
        for (uint32_t count : {8u * kPageblockPages, 4u * kPageblockPages, kPageblockPages, 1u})
            for (int i = 0; i < 6; i++) {
                uint32_t got = get(count);
                ASSERT_NE(got, kNoPage);
                EXPECT_TRUE(foreign < got || foreign >= got + count);
            }
        for (size_t i = 0; i < kPageSize; i++)
            ASSERT_EQ(static_cast<char *>(page_address(foreign))[i], 0x77);
    });
}

TEST(AbsentInZoneTest, ARefusedGrowthMakesAddressesCount) {
    under({}, [](zone &z) {
        uint32_t first = freed_blocks();
        z.squeeze(uint64_t{1} << 40); // more than there ever was: says nothing
        EXPECT_FALSE(mapped(first));  // but all was asked for
        ASSERT_EQ(freed_blocks(), first);
        z.purge(0);
        EXPECT_TRUE(mapped(first));
        z.squeeze(kMiB);
        ASSERT_EQ(freed_blocks(), first);
        z.purge(0);
        EXPECT_FALSE(mapped(first));
    });
}

TEST(AbsentInZoneTest, WhatCannotBeUnmappedIsStillThere) {
    under(addresses(1 << 30), [](zone &z) {
        uint32_t first = get(8 * kPageblockPages);
        for (uint32_t block = 0; block < 8; block += 2) // whole blocks between used ones
            z.free(first + block * kPageblockPages, kPageblockPages, true, GFP_KERNEL);
        z.free(first + kPageblockPages, 100, true, GFP_KERNEL); // and a part of one
        z.purge(0);
        EXPECT_TRUE(mapped(first + kPageblockPages)); // discarded, but not unmapped
        EXPECT_FALSE(test::resident(page_address(first + kPageblockPages)));
        EXPECT_FALSE(mapped(first));
        for (uint32_t i = 0; i < 100; i++)
            EXPECT_EQ(*static_cast<char *>(page_address(first + kPageblockPages + 100 + i)), 1);
    });
}

TEST(AbsentInZoneTest, AForkChildHasWhatItsParentHad) {
    under(addresses(1 << 30), [](zone &z) {
        freed_blocks();
        z.purge(0);
        pid_t pid = fork();
        if (pid == 0) {
            z.lock().reset_in_child();
            z.after_fork_in_child();
            for (int i = 0; i < 100; i++)
                if (get(100) == kNoPage)
                    _exit(2);
            _exit(z.consistent() ? 0 : 3);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
    });
}

} // namespace
} // namespace pagoda
