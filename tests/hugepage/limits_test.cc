#include "hugepage/limits.h"

#include "tests/unit.h"

#include <filesystem>
#include <fstream>

namespace pagoda {
namespace {

using test::in_child;
using test::limit;
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

} // namespace
} // namespace pagoda
