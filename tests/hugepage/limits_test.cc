#include "hugepage/limits.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "tests/unit.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::limit;
using test::random_numbers;
using test::succeeded;

class CgroupLimitTest : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_NE(mkdtemp(mount_.data()), nullptr); }
    void TearDown() override { std::filesystem::remove_all(mount_); }
    void put(const std::string &file, const std::string &content) {
        std::filesystem::path path = mount_ + file;
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path) << content << '\n';
    }
    uint64_t found(const char *cgroups) { return cgroup_limit(cgroups, mount_.c_str()); }
    std::string mount_ = "/tmp/pagoda-limits-XXXXXX";
};

TEST_F(CgroupLimitTest, NoneIsNone) {
    EXPECT_EQ(found(""), kNoLimit);
    EXPECT_EQ(found("0::/a\n"), kNoLimit);
    put("/a/memory.max", "max");
    EXPECT_EQ(found("0::/a\n"), kNoLimit);
}

TEST_F(CgroupLimitTest, TheLowestOfAllAncestorsCounts) {
    put("/a/b/memory.max", "3000");
    EXPECT_EQ(found("0::/a/b/c\n"), 3000u);
    put("/a/memory.max", "2000");
    EXPECT_EQ(found("0::/a/b/c\n"), 2000u);
    EXPECT_EQ(found("0::/elsewhere\n"), kNoLimit);
    put("/memory.max", "5000"); // a container's own group, under a path of the host's
    EXPECT_EQ(found("0::/elsewhere\n"), 5000u);
}

TEST_F(CgroupLimitTest, TheFirstVersionHasOneTreePerController) {
    put("/memory/a/memory.limit_in_bytes", "4000");
    EXPECT_EQ(found("9:cpu:/b\n4:memory:/a\n0::/\n"), 4000u);
    EXPECT_EQ(found("9:cpu:/a\n4:memory:/b\n0::/\n"), kNoLimit);
}

TEST_F(CgroupLimitTest, NonsenseIsNoLimit) {
    put("/a/memory.max", "1");
    for (const char *text : {":", "::", "0:", "\n\n", "0:/a", "memory"})
        EXPECT_EQ(found(text), kNoLimit) << text;
    std::string deep = "0::";
    for (int i = 0; i < 1000; i++)
        deep += "/a";
    EXPECT_EQ(found(deep.c_str()), 1u);
}

TEST(MemoryLimitsTest, RlimitsAreSeen) {
    EXPECT_TRUE(succeeded(in_child([] {
        limit(RLIMIT_DATA, uint64_t{3} << 40);
        EXPECT_EQ(read_memory_limits().addresses, uint64_t{3} << 40);
        limit(RLIMIT_AS, uint64_t{2} << 40);
        EXPECT_EQ(read_memory_limits().addresses, uint64_t{2} << 40);
    })));
}

constexpr size_t kMiB = size_t{1} << 20;

template <class F> void under_a_limit(uint64_t bytes, F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        mutable_options().thp = thp_policy::never;
        ASSERT_TRUE(address_space_init(kPageSize));
        ASSERT_TRUE(zones_init());
        zone_normal().set_limits({kNoLimit, bytes, false});
        body(zone_normal());
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

uint32_t get(uint32_t count) {
    page_state state;
    return zone_normal().alloc(count, 0, GFP_KERNEL, &state);
}

TEST(LimitedZoneTest, FreeMemoryLeavesRoomUnderALimit) {
    under_a_limit(256 * kMiB, [](zone &z) {
        uint64_t most = 0;
        z.note_refault(uint64_t{1} << 40); // as much of a bonus as can be
        EXPECT_EQ(z.dirty_bound(), 32 * kMiB);
        std::vector<uint32_t> runs;
        random_numbers random(1);
        for (int i = 0; i < 20000; i++) {
            uint64_t live = (z.stats().present - z.stats().free) << kPageShift;
            most = std::max(most, live + (z.stats().dirty << kPageShift));
            if (live < 200 * kMiB && random.below(20000) > static_cast<uint64_t>(i) / 2) {
                runs.push_back(get(64));
            } else {
                std::swap(runs[random.below(runs.size())], runs.back());
                z.free(runs.back(), 64, true, GFP_KERNEL);
                runs.pop_back();
            }
        }
        EXPECT_LT(most, 256 * kMiB);
        z.note_vmalloc(250 * int64_t{kMiB}, 0);
        EXPECT_EQ(z.dirty_bound(), kMiB);
    });
}

uint64_t kept_areas = 0;

TEST(LimitedZoneTest, AreasPayForPagesUnderALimit) {
    under_a_limit(256 * kMiB, [](zone &z) {
        z.set_reclaim(nullptr, [](uint64_t keep) {
            uint64_t less = kept_areas > keep ? kept_areas - keep : 0;
            kept_areas -= less;
            zone_normal().note_vmalloc(0, -static_cast<int64_t>(less));
            return less;
        });
        kept_areas = 30 * kMiB;
        z.note_vmalloc(0, 30 * int64_t{kMiB});
        z.pay_for(kMiB);
        EXPECT_EQ(kept_areas, 30 * kMiB); // there is room for both
        z.pay_for(150 * kMiB);
        EXPECT_LE(kept_areas, 14 * kMiB);
        for (int i = 0; i < 120; i++)
            ASSERT_NE(get(kPageblockPages), kNoPage);
        EXPECT_LE(kept_areas, 2 * kMiB);
    });
}

// limit=SIZE, which is a bound whatever happens.
template <class F> void bounded(uint64_t bytes, F body) {
    under_a_limit(kNoLimit, [&](zone &z) {
        mutable_options().limit_bytes = bytes;
        body(z);
        EXPECT_LE(z.committed(), bytes);
    });
}

TEST(CommitLimitTest, AllocationsFailAtItAndSucceedAfterFrees) {
    bounded(16 * kMiB, [](zone &z) {
        std::vector<uint32_t> runs;
        for (uint32_t run; (run = get(64)) != kNoPage;)
            runs.push_back(run);
        EXPECT_EQ(runs.size(), 64u);
        EXPECT_EQ(z.committed(), 16 * kMiB);
        EXPECT_EQ(get(1), kNoPage);
        z.free(runs[10], 64, true, GFP_KERNEL);
        EXPECT_EQ(z.committed(), 16 * kMiB) << "what is kept free counts";
        EXPECT_EQ(get(64), runs[10]) << "and serves";
        for (uint32_t i = 0; i < 20; i++)
            z.free(runs[3 * i], 64, true, GFP_KERNEL);
        EXPECT_NE(get(5 * 128), kNoPage) << "it was given back to pay for pages in a row";
        EXPECT_EQ(get(20 * kPageblockPages), kNoPage);
    });
}

TEST(CommitLimitTest, FreshPagesCostNothingUntilTheyAreTaken) {
    bounded(4 * kMiB, [](zone &z) {
        ASSERT_NE(get(1), kNoPage);
        EXPECT_GT(z.stats().present, 1u);
        EXPECT_EQ(z.committed(), kPageSize);
    });
}

TEST(CommitLimitTest, CountsTheReserve) {
    bounded(3 * kMiB, [](zone &z) {
        EXPECT_FALSE(z.set_reserve(4 * kMiB));
        EXPECT_EQ(z.stats().reserved, kPageblockPages);
        EXPECT_EQ(z.committed(), 2 * kMiB);
        EXPECT_NE(get(256), kNoPage);
        EXPECT_EQ(get(1), kNoPage);
    });
}

TEST(CommitLimitTest, CountsHugePagesAsAWhole) {
    bounded(3 * kMiB, [](zone &z) {
        mutable_options().thp = thp_policy::always;
        uint64_t pages = 0;
        for (; get(16) != kNoPage; pages += 16)
            ASSERT_LE(z.committed(), 3 * kMiB);
        EXPECT_EQ(pages, 768u);
    });
}

TEST(CommitLimitTest, AreasAreChargedBeforeTheyAreMapped) {
    bounded(8 * kMiB, [](zone &z) {
        z.set_reclaim(nullptr, [](uint64_t keep) {
            uint64_t less = kept_areas > keep ? kept_areas - keep : 0;
            kept_areas -= less;
            zone_normal().note_vmalloc(0, -static_cast<int64_t>(less));
            zone_normal().uncharge(less);
            return less;
        });
        EXPECT_TRUE(z.charge(5 * kMiB));
        kept_areas = 2 * kMiB;
        z.note_vmalloc(0, 2 * int64_t{kMiB});
        EXPECT_FALSE(z.charge(6 * kMiB));
        EXPECT_EQ(kept_areas, 0u);
        EXPECT_EQ(z.committed(), 3 * kMiB);
        EXPECT_TRUE(z.charge(5 * kMiB));
        EXPECT_EQ(get(1), kNoPage);
        z.uncharge(kPageSize);
        EXPECT_NE(get(1), kNoPage);
    });
}

} // namespace
} // namespace pagoda
