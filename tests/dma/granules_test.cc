#include "dma/granules.h"

#include "tests/unit.h"

#include <vector>

namespace pagoda::test {
namespace {

using dma::granule;
using dma::granule_state;
using dma::granule_table;

constexpr uintptr_t kBase = uintptr_t{5} << 40;

TEST(granules, a_word_says_where_and_how_much) {
    granule g = granule::of(granule_state::linear, 0x7fffffe00000, 511, 1);
    EXPECT_EQ(g.state(), granule_state::linear);
    EXPECT_EQ(g.address(), 0x7fffffe00000u);
    EXPECT_EQ(g.first(), 511u << 12);
    EXPECT_EQ(g.bytes(), 4096u);
    EXPECT_TRUE(g.covers(kPageblockSize - 4096, kPageblockSize));
    EXPECT_FALSE(g.covers(kPageblockSize - 4097, kPageblockSize));
    g = granule::of(granule_state::chunk, 0x200000, 0, 512);
    EXPECT_EQ(g.bytes(), kPageblockSize);
    EXPECT_TRUE(g.covers(0, kPageblockSize));
    EXPECT_FALSE(granule{}.covers(0, 0));
    EXPECT_FALSE(granule::of(granule_state::changing, 0, 0, 512).mapped());
}

TEST(granules, are_found_by_any_address_in_them) {
    granule_table t;
    ASSERT_TRUE(t.init(kBase, size_t{1} << 40));
    EXPECT_TRUE(t.spans(kBase));
    EXPECT_FALSE(t.spans(kBase - 1));
    EXPECT_FALSE(t.spans(kBase + (size_t{1} << 40)));
    EXPECT_EQ(t.get(kBase - 1).word, 0u);
    EXPECT_EQ(t.get(kBase + (size_t{1} << 40)).word, 0u);
    uintptr_t at = kBase + (uintptr_t{3} << 31) + 5 * kPageblockSize;
    EXPECT_EQ(t.get(at).word, 0u) << "no table";
    ASSERT_TRUE(t.prepare(at));
    ASSERT_TRUE(t.prepare(at)) << "it is there";
    granule g = granule::of(granule_state::linear, 0x40000000, 0, 512);
    t.set(at + 77, g);
    EXPECT_EQ(t.get(at).word, g.word);
    EXPECT_EQ(t.get(at + kPageblockSize - 1).word, g.word);
    EXPECT_EQ(t.get(at + kPageblockSize).word, 0u);
    EXPECT_EQ(t.get(at - 1).word, 0u);
}

TEST(granules, all_that_are_not_unmapped_are_shown) {
    granule_table t;
    ASSERT_TRUE(t.init(kBase, size_t{1} << 34));
    std::vector<uintptr_t> wanted = {kBase, kBase + (uintptr_t{1} << 33),
                                     kBase + (uintptr_t{1} << 34) - kPageblockSize};
    for (uintptr_t at : wanted) {
        ASSERT_TRUE(t.prepare(at));
        t.set(at, granule::of(granule_state::changing, 0, 0, 1));
    }
    std::vector<uintptr_t> seen;
    t.each([](void *list, uintptr_t at,
              granule) { static_cast<std::vector<uintptr_t> *>(list)->push_back(at); },
           &seen);
    EXPECT_EQ(seen, wanted);
}

} // namespace
} // namespace pagoda::test
