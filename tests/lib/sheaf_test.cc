#include "tests/unit.h"

#include "lib/heap.h"
#include "lib/sheaf.h"

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

class sheaf : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(sheaf, tops_tell_id_and_count) {
    for (uint32_t capacity : {1u, 4u, 32u, 127u}) {
        uint32_t empty = sheaf_empty_top(3, capacity);
        for (uint32_t n = 0; n <= capacity; n++) {
            EXPECT_EQ(sheaf_id(empty + 8 * n), 3u);
            EXPECT_EQ(sheaf_count(empty + 8 * n, capacity), n);
        }
        EXPECT_EQ(empty + 8 * capacity, sheaf_full_top(3));
    }
    EXPECT_EQ(sheaf_count(0, 127), 0u);
}

TEST_F(sheaf, stock_is_for_those_who_may_not_wait) {
    EXPECT_TRUE(succeeded(in_child([] {
        sheaves_keep_stock(64);
        for (int round = 0; round < 3; round++) {
            uint32_t got = 0;
            while (uint32_t id = sheaf_alloc(127, false)) {
                ASSERT_TRUE(resident(sheaf_slot(sheaf_empty_top(id, 127))));
                got++;
            }
            EXPECT_GE(got, 32u);
            EXPECT_NE(sheaf_alloc(127, true), 0u);
        }
    })));
}

TEST_F(sheaf, starts_empty_and_is_used_again) {
    uint32_t before = sheaves_in_use();
    uint32_t id = sheaf_alloc(127, true);
    ASSERT_NE(id, 0u);
    EXPECT_EQ(sheaves_in_use(), before + 1);
    EXPECT_EQ(*sheaf_slot(sheaf_empty_top(id, 127)), nullptr);
    sheaf_free(id);
    EXPECT_EQ(sheaves_in_use(), before);
    EXPECT_EQ(sheaf_alloc(16, false), id);
    sheaf_free(id);
}

TEST_F(sheaf, a_stack_returns_the_last_first_and_counts) {
    sheaf_stack stack;
    uint32_t ids[5];
    for (uint32_t &id : ids) {
        id = sheaf_alloc(16, true);
        stack.push(id);
    }
    EXPECT_EQ(stack.count(), 5u);
    EXPECT_EQ(stack.peek(), ids[4]);
    EXPECT_EQ(stack.pop(), ids[4]);
    uint32_t left = stack.take_all();
    EXPECT_EQ(stack.count(), 0u);
    EXPECT_EQ(stack.pop(), 0u);
    for (int i = 3; i >= 0; i--) {
        EXPECT_EQ(left, ids[i]);
        left = sheaf_links()[left] & kSheafIdMask;
    }
    for (uint32_t id : ids)
        sheaf_free(id);
}

TEST_F(sheaf, threads_share_a_stack_without_losing_any) {
    constexpr int kSheaves = 16;
    sheaf_stack stack;
    std::vector<std::atomic<int>> holders(100000);
    for (int i = 0; i < kSheaves; i++)
        stack.push(sheaf_alloc(16, true));
    std::atomic<int> shared{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&] {
            for (int i = 0; i < 100000; i++)
                if (uint32_t id = stack.pop()) {
                    shared += holders[id].fetch_add(1) != 0;
                    holders[id].fetch_sub(1);
                    stack.push(id);
                }
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(shared, 0);
    EXPECT_EQ(stack.count(), static_cast<uint32_t>(kSheaves));
    while (uint32_t id = stack.pop())
        sheaf_free(id);
}

} // namespace
} // namespace pagoda::test
