#include "hugepage/absent.h"

#include "tests/unit.h"

#include <set>

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

} // namespace
} // namespace pagoda
