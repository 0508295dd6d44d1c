#include "tests/unit.h"

#include "lib/heap.h"
#include "lib/vm_range.h"

namespace pagoda::test {
namespace {

// The range under test has the process's index to itself: nothing else here uses vmalloc.
class ranges : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
    static char *start(const vm_area *a) { return reinterpret_cast<char *>(vm_range::address(a)); }
    vm_range range_;
};

TEST_F(ranges, areas_are_found_by_their_addresses) {
    vm_area *a = range_.take(3, 1);
    vm_area *b = range_.take(2, 1);
    ASSERT_NE(a, nullptr);
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(a->granules, 3u);
    EXPECT_EQ(start(b), start(a) + 3 * kPageblockSize);
    EXPECT_EQ(range_.at(start(a)), a);
    EXPECT_EQ(range_.at(start(b)), b);
    EXPECT_EQ(range_.containing(start(a) + kPageblockSize + 5), a);
    EXPECT_EQ(range_.at(start(b) + 2 * kPageblockSize), nullptr);
    EXPECT_EQ(range_.containing(start(b) + 2 * kPageblockSize), nullptr);
}

TEST_F(ranges, addresses_are_aligned) {
    for (uint32_t align = 1; align <= 64; align *= 2)
        EXPECT_EQ(vm_range::address(range_.take(1, align)) % (align * kPageblockSize), 0u);
}

TEST_F(ranges, neighbours_that_are_free_merge) {
    vm_area *a = range_.take(2, 1);
    vm_area *b = range_.take(2, 1);
    vm_area *c = range_.take(2, 1);
    vm_area *end = range_.take(1, 1);
    char *first = start(a);
    range_.release(a);
    range_.release(c);
    range_.release(b);
    vm_area *all = range_.take(6, 1);
    ASSERT_NE(all, nullptr);
    EXPECT_EQ(start(all), first);
    EXPECT_EQ(start(end), first + 6 * kPageblockSize);
}

TEST_F(ranges, an_area_widens_into_what_is_free_behind_it) {
    vm_area *a = range_.take(2, 1);
    vm_area *b = range_.take(4, 1);
    vm_area *end = range_.take(1, 1);
    EXPECT_FALSE(range_.widen(a, 3));
    range_.release(b);
    EXPECT_TRUE(range_.widen(a, 3));
    EXPECT_EQ(a->granules, 3u);
    EXPECT_FALSE(range_.widen(a, 7));
    EXPECT_TRUE(range_.widen(a, 6));
    EXPECT_TRUE(range_.widen(end, 10)) << "at the frontier there is room";
}

} // namespace
} // namespace pagoda::test
