#include "hugepage/address_space.h"

#include "hugepage/sys.h"
#include "tests/unit.h"

#include <errno.h>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::limit;
using test::succeeded;

constexpr size_t kMiB = size_t{1} << 20;

// An address after which `bytes` are unmapped.
uintptr_t hole(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    munmap(p, bytes);
    return reinterpret_cast<uintptr_t>(p);
}

bool mapped(uintptr_t at) { return msync(reinterpret_cast<void *>(at), kPageSize, MS_ASYNC) == 0; }

class WindowTest : public ::testing::Test {
  protected:
    void TearDown() override {
        sys::inject_failures(0, 0);
        window_.close();
    }
    window window_;
    uintptr_t at_ = hole(64 * kMiB);
};

TEST_F(WindowTest, OpensWhereItIsTold) {
    ASSERT_TRUE(window_.open(at_, kMiB, 100, "test"));
    EXPECT_EQ(window_.base(), at_);
    EXPECT_EQ(window_.bytes(), sys::page_size()); // whole OS pages
    EXPECT_EQ(window_.as<char>()[99], 0);
    window_.as<char>()[99] = 1;
    EXPECT_FALSE(mapped(at_ + window_.bytes()));
}

TEST_F(WindowTest, DoesNotOpenOverOthers) {
    ASSERT_EQ(sys::map_at(at_, kPageSize), 0);
    *reinterpret_cast<char *>(at_) = 7;
    EXPECT_FALSE(window_.open(at_, kMiB, 100, "test"));
    EXPECT_EQ(window_.bytes(), 0u);
    EXPECT_EQ(*reinterpret_cast<char *>(at_), 7);
    EXPECT_EQ(sys::unmap(at_, kPageSize), 0);
}

TEST_F(WindowTest, CloseUnmaps) {
    ASSERT_TRUE(window_.open(at_, kMiB, 4 * kPageSize, "test"));
    window_.close();
    EXPECT_FALSE(mapped(at_));
    EXPECT_EQ(window_.bytes(), 0u);
    window_.close(); // once more is harmless
    EXPECT_TRUE(window_.open(at_, kMiB, kPageSize, "test"));
}

TEST_F(WindowTest, GrowsInPlaceAndKeepsItsContents) {
    ASSERT_TRUE(window_.open(at_, 32 * kMiB, kPageSize, "test"));
    char *bytes = window_.as<char>();
    for (size_t want = kPageSize; want <= 32 * kMiB; want *= 2) {
        ASSERT_TRUE(window_.reach(want));
        EXPECT_GE(window_.bytes(), want);
        EXPECT_EQ(window_.as<char>(), bytes);
        EXPECT_EQ(bytes[want - 1], 0);
        bytes[want - 1] = 9;
    }
    for (size_t want = kPageSize; want <= 32 * kMiB; want *= 2)
        EXPECT_EQ(bytes[want - 1], 9);
}

TEST_F(WindowTest, GrowsInStepsOfASixteenth) {
    ASSERT_TRUE(window_.open(at_, 32 * kMiB, 16 * kMiB, "test"));
    ASSERT_TRUE(window_.reach(16 * kMiB + 1));
    EXPECT_EQ(window_.bytes(), 17 * kMiB);
    ASSERT_TRUE(window_.reach(17 * kMiB)); // already there
    EXPECT_EQ(window_.bytes(), 17 * kMiB);
}

TEST_F(WindowTest, StopsAtItsLimit) {
    ASSERT_TRUE(window_.open(at_, kMiB, kMiB - kPageSize, "test"));
    EXPECT_FALSE(window_.reach(kMiB + 1));
    EXPECT_TRUE(window_.reach(kMiB)); // a sixteenth would pass the limit
    EXPECT_EQ(window_.bytes(), kMiB);
    EXPECT_FALSE(mapped(at_ + kMiB));
}

TEST_F(WindowTest, DoesNotGrowOverOthers) {
    ASSERT_TRUE(window_.open(at_, kMiB, kPageSize, "test"));
    uintptr_t other = at_ + 4 * kPageSize;
    ASSERT_EQ(sys::map_at(other, kPageSize), 0);
    EXPECT_FALSE(window_.reach(8 * kPageSize));
    EXPECT_EQ(window_.bytes(), kPageSize);
    EXPECT_TRUE(window_.reach(4 * kPageSize));
    EXPECT_EQ(sys::unmap(other, kPageSize), 0);
    EXPECT_TRUE(window_.reach(8 * kPageSize));
}

TEST_F(WindowTest, FailedGrowthChangesNothing) {
    ASSERT_TRUE(window_.open(at_, kMiB, kPageSize, "test"));
    sys::inject_failures(0, 1000);
    EXPECT_FALSE(window_.reach(2 * kPageSize));
    EXPECT_EQ(window_.bytes(), kPageSize);
    sys::inject_failures(0, 1); // where the mapping cannot be extended, another one follows it
    ASSERT_TRUE(window_.reach(2 * kPageSize));
    EXPECT_EQ(window_.as<char>()[2 * kPageSize - 1], 0);
}

TEST_F(WindowTest, ARefusalHoldsForATickWhereThereIsAnotherWay) {
    ASSERT_TRUE(window_.open(at_, kMiB, kPageSize, "test"));
    sys::inject_failures(0, 1000);
    EXPECT_FALSE(window_.reach_if_easy(2 * kPageSize));
    sys::inject_failures(0, 0);
    EXPECT_TRUE(window_.reach_if_easy(kPageSize)); // there already
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_TRUE(window_.reach_if_easy(2 * kPageSize));
}

TEST_F(WindowTest, KeptPopulatedItFaultsNothing) {
    ASSERT_TRUE(window_.open(at_, kMiB, 2 * kPageSize, "test"));
    EXPECT_FALSE(test::resident(window_.as<char>()));
    window_.keep_populated();
    EXPECT_TRUE(test::resident(window_.as<char>()));
    ASSERT_TRUE(window_.reach(9 * kPageSize));
    EXPECT_TRUE(test::resident(window_.as<char>() + 8 * kPageSize));
    window_.restock(9 * kPageSize, 0);
    EXPECT_EQ(window_.bytes(), 9 * kPageSize);
    window_.restock(7 * kPageSize, 4 * kPageSize); // half of the stock is there
    EXPECT_EQ(window_.bytes(), 9 * kPageSize);
    window_.restock(9 * kPageSize, 4 * kPageSize);
    EXPECT_EQ(window_.bytes(), 13 * kPageSize);
    EXPECT_TRUE(test::resident(window_.as<char>() + 12 * kPageSize));
}

TEST_F(WindowTest, FailsToOpenAtALimit) {
    sys::inject_failures(0, 1);
    EXPECT_FALSE(window_.open(at_, kMiB, kPageSize, "test"));
    EXPECT_FALSE(mapped(at_));
}

std::vector<const window *> windows() {
    return {&g_space.percpu,      &g_space.sheaves,    &g_space.slots,
            &g_space.sheaf_links, &g_space.page_class, &g_space.memmap,
            &g_space.pageblocks,  &g_space.meta,       &g_space.vm_index};
}

TEST(AddressSpaceTest, PlacesEveryWindow) {
    auto end = in_child([] {
        ASSERT_TRUE(address_space_init(3 * kPageSize));
        uintptr_t last = 0;
        for (const window *w : windows()) {
            EXPECT_GT(w->base(), last);
            EXPECT_GT(w->bytes(), 0u);
            w->as<char>()[0] = 1;
            w->as<char>()[w->bytes() - 1] = 1;
            last = w->base() + w->bytes();
            EXPECT_FALSE(mapped(last)) << "an overrun must fault";
        }
        EXPECT_GE(g_space.percpu.bytes(), 3 * kPageSize);
        EXPECT_EQ(g_space.sheaves.base() - g_space.percpu.base(), kSheavesBehindPercpu);
        EXPECT_GT(g_space.zone_base, last);
        EXPECT_GE(g_space.vmalloc_base, g_space.zone_base + kZoneSpan);
        EXPECT_EQ(g_space.zone_base % (1 << 30), 0u);
        EXPECT_EQ(g_space.vmalloc_base % (1 << 30), 0u);
        EXPECT_FALSE(mapped(g_space.zone_base));
        EXPECT_FALSE(mapped(g_space.vmalloc_base));
        EXPECT_LT(g_space.vmalloc_base + kVmallocSpan, uintptr_t{1} << 47);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(AddressSpaceTest, TakesLittleUntilItIsUsed) {
    auto end = in_child([] {
        uint64_t before = test::process_figure("VmSize");
        ASSERT_TRUE(address_space_init(kPageSize));
        EXPECT_LT(test::process_figure("VmSize") - before, 4 * kMiB);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(AddressSpaceTest, LooksElsewhereWhereItFails) {
    for (int skip : {0, 1, 4, 8}) {
        auto end = in_child([skip] {
            uint64_t before = test::process_figure("VmSize");
            sys::inject_failures(skip, 3);
            ASSERT_TRUE(address_space_init(kPageSize));
            sys::inject_failures(0, 0);
            size_t used = 0;
            for (const window *w : windows()) {
                w->as<char>()[0] = 1;
                used += w->bytes();
            }
            // What the failed attempts mapped is gone again.
            EXPECT_LE(test::process_figure("VmSize") - before, used + 64 * kPageSize);
        });
        EXPECT_TRUE(succeeded(end)) << "skip " << skip;
    }
}

TEST(AddressSpaceTest, LooksElsewhereWhereOthersAre) {
    auto end = in_child([] {
        ASSERT_TRUE(address_space_init(kPageSize));
        uintptr_t first = g_space.percpu.base();
        uintptr_t taken = g_space.meta.base();
        // The same bits choose the same region again, where one window is now somebody else's.
        ASSERT_TRUE(address_space_init(kPageSize));
        EXPECT_NE(g_space.percpu.base(), first);
        EXPECT_NE(g_space.meta.base(), taken);
        g_space.meta.as<char>()[0] = 1;
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(AddressSpaceTest, GivesUpWhereNothingFits) {
    auto end = in_child([] {
        uint64_t before = test::process_figure("VmSize");
        sys::inject_failures(0, 100'000);
        EXPECT_FALSE(address_space_init(kPageSize));
        sys::inject_failures(0, 0);
        EXPECT_EQ(test::process_figure("VmSize"), before);
        limit(RLIMIT_AS, before);
        EXPECT_FALSE(address_space_init(kPageSize));
    });
    EXPECT_TRUE(succeeded(end));
}

} // namespace
} // namespace pagoda
