#include "dma/page_table.h"

#include "tests/unit.h"

#include <thread>
#include <unordered_map>
#include <vector>

namespace pagoda::test {
namespace {

using dma::page_table;

TEST(page_table, has_a_word_for_each_page_of_48_bits) {
    page_table t;
    EXPECT_EQ(t.get(5), 0u) << "nothing is prepared";
    EXPECT_EQ(t.get(~uint64_t{0}), 0u);
    constexpr uint64_t kLast = (uint64_t{1} << page_table::kPageBits) - 1;
    EXPECT_FALSE(t.prepare(0, kLast + 1));
    ASSERT_TRUE(t.prepare(kLast, kLast));
    t.set(kLast, 7);
    EXPECT_EQ(t.get(kLast), 7u);
    EXPECT_EQ(t.get(kLast - 1), 0u);
    EXPECT_FALSE(t.replace(kLast, 6, 8));
    EXPECT_TRUE(t.replace(kLast, 7, 8));
    EXPECT_EQ(t.get(kLast), 8u);
}

TEST(page_table, a_range_over_several_tables_is_prepared_as_a_whole) {
    page_table t;
    ASSERT_TRUE(t.prepare(511, 1024));
    for (uint64_t page = 511; page <= 1024; page++)
        t.set(page, page);
    for (uint64_t page = 511; page <= 1024; page++)
        EXPECT_EQ(t.get(page), page);
    EXPECT_EQ(t.get(510), 0u);
    EXPECT_EQ(t.get(1536), 0u);
}

TEST(page_table, agrees_with_a_map) {
    page_table t;
    std::unordered_map<uint64_t, uint64_t> expected;
    random_numbers random(1);
    for (int i = 0; i < 100'000; i++) {
        uint64_t page = random.skewed(35);
        if (random.one_in(2)) {
            uint64_t value = random.next();
            ASSERT_TRUE(t.prepare(page, page));
            t.set(page, value);
            expected[page] = value;
        } else {
            auto found = expected.find(page);
            ASSERT_EQ(t.get(page), found != expected.end() ? found->second : 0);
        }
    }
}

TEST(page_table, threads_prepare_the_same_tables) {
    page_table t;
    std::vector<std::thread> threads;
    for (uint64_t k = 0; k < 4; k++)
        threads.emplace_back([&t, k] {
            for (uint64_t page = k; page < 100'000; page += 4) {
                EXPECT_TRUE(t.prepare(page, page));
                t.set(page, page + 1);
            }
        });
    for (std::thread &one : threads)
        one.join();
    for (uint64_t page = 0; page < 100'000; page++)
        ASSERT_EQ(t.get(page), page + 1);
}

} // namespace
} // namespace pagoda::test
