#include "tests/unit.h"

#include "lib/heap.h"
#include "lib/vm_range.h"

#include <map>
#include <vector>

namespace pagoda::test {
namespace {

// The range under test has the process's index to itself: nothing else here uses vmalloc.
class ranges : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(heap_init());
        memset(g_space.vm_index.as<char>(), 0, g_space.vm_index.bytes());
    }
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

// Whoever asks by an address must meet a span's bounds or nothing: the entry of a span that was
// merged away would pass for a span, and its record is another's by then.
TEST_F(ranges, a_merged_span_is_no_longer_found) {
    for (int order = 0; order < 4; order++) {
        vm_area *spans[4];
        for (vm_area *&span : spans)
            span = range_.take(3, 1);
        char *first = start(spans[0]);
        static constexpr int kOrders[4][3] = {{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}};
        for (int i : kOrders[order])
            range_.release(spans[i]);
        for (int granule = 1; granule < 8; granule++) {
            EXPECT_EQ(range_.at(first + granule * kPageblockSize), nullptr)
                << "granule " << granule << ", order " << order;
            vm_area *around = range_.containing(first + granule * kPageblockSize);
            ASSERT_NE(around, nullptr);
            EXPECT_EQ(start(around), first);
            EXPECT_EQ(around->granules, 9u);
        }
        EXPECT_EQ(range_.at(first), range_.at(first + 8 * kPageblockSize));
        range_.take(9, 1); // the next order starts behind it
    }
}

TEST_F(ranges, a_widened_span_is_found_by_its_new_end_alone) {
    vm_area *a = range_.take(2, 1);
    vm_area *b = range_.take(4, 1);
    range_.take(1, 1);
    range_.release(b);
    ASSERT_TRUE(range_.widen(a, 4));
    EXPECT_EQ(range_.at(start(a) + kPageblockSize), nullptr) << "where it ended";
    EXPECT_EQ(range_.at(start(a) + 2 * kPageblockSize), nullptr) << "where the free one began";
    EXPECT_EQ(range_.at(start(a) + 3 * kPageblockSize), a);
    vm_area *rest = range_.at(start(a) + 4 * kPageblockSize);
    ASSERT_NE(rest, nullptr);
    EXPECT_EQ(rest->granules, 2u);
    EXPECT_EQ(rest->state, vm_state::free);
}

TEST_F(ranges, lost_spans_are_never_used_or_merged) {
    vm_area *a = range_.take(2, 1);
    vm_area *lost = range_.take(2, 1);
    vm_area *c = range_.take(2, 1);
    range_.take(1, 1);
    lost->lost = true;
    char *first = start(a);
    range_.release(a);
    range_.release(c);
    EXPECT_EQ(range_.at(first + 2 * kPageblockSize), lost);
    vm_area *again = range_.take(2, 1);
    EXPECT_FALSE(range_.widen(again, 3));
    vm_area *six = range_.take(6, 1);
    EXPECT_TRUE(start(six) + 6 * kPageblockSize <= first || start(six) > first);
}

TEST_F(ranges, none_is_to_be_had_beyond_the_span) {
    EXPECT_EQ(range_.take(static_cast<uint32_t>(kVmallocSpan >> kPageblockShift) + 1, 1), nullptr);
    vm_area *a = range_.take(1, 1);
    ASSERT_NE(a, nullptr);
    EXPECT_FALSE(range_.widen(a, static_cast<uint32_t>(kVmallocSpan >> kPageblockShift) + 1));
    EXPECT_EQ(a->granules, 1u);
    EXPECT_EQ(range_.at(&a), nullptr);
    EXPECT_EQ(range_.containing(&a), nullptr);
}

// Spans by their first granule, with free ones merged: what the range must know too.
class map_of_spans {
  public:
    explicit map_of_spans(vm_range &range) : range_(range) {}

    void run(uint64_t operations) {
        for (uint64_t i = 0; i < operations && !::testing::Test::HasFailure(); i++) {
            if (busy_.size() < 40 && random_.one_in(2))
                take();
            else if (!busy_.empty() && random_.one_in(4))
                widen();
            else if (!busy_.empty())
                release();
            if (i % 100 == 0)
                check();
        }
        while (!busy_.empty() && !::testing::Test::HasFailure())
            release();
        check();
    }

  private:
    struct span {
        uint32_t granules;
        vm_area *area; // NULL: free
    };

    void take() {
        auto granules = static_cast<uint32_t>(1 + random_.skewed(5));
        uint32_t align = 1u << random_.below(4);
        vm_area *a = range_.take(granules, align);
        ASSERT_NE(a, nullptr);
        ASSERT_EQ(a->granules, granules);
        ASSERT_EQ(vm_range::address(a) % (align * kPageblockSize), 0u);
        uint32_t end = a->first + granules;
        if (end > end_) { // new addresses; what alignment left out is a span of its own
            if (a->first > end_)
                spans_[end_] = {a->first - end_, nullptr};
            end_ = end;
        } else {
            cut(a->first, granules);
        }
        spans_[a->first] = {granules, a};
        busy_.push_back(a);
    }

    // Takes [first, first + granules) out of the free span that must hold it.
    void cut(uint32_t first, uint32_t granules) {
        auto at = spans_.upper_bound(first);
        ASSERT_NE(at, spans_.begin());
        --at;
        auto [from, free] = *at;
        ASSERT_EQ(free.area, nullptr) << "granule " << first << " is taken";
        ASSERT_LE(first + granules, from + free.granules);
        spans_.erase(at);
        if (from < first)
            spans_[from] = {first - from, nullptr};
        if (first + granules < from + free.granules)
            spans_[first + granules] = {from + free.granules - first - granules, nullptr};
    }

    void put_free(uint32_t first, uint32_t granules) {
        auto above = spans_.find(first + granules);
        if (above != spans_.end() && above->second.area == nullptr) {
            granules += above->second.granules;
            spans_.erase(above);
        }
        auto below = spans_.lower_bound(first);
        if (below != spans_.begin() && (--below)->second.area == nullptr &&
            below->first + below->second.granules == first) {
            below->second.granules += granules;
            return;
        }
        spans_[first] = {granules, nullptr};
    }

    void release() {
        vm_area *&slot = busy_[random_.below(busy_.size())];
        vm_area *a = slot;
        slot = busy_.back();
        busy_.pop_back();
        uint32_t first = a->first;
        uint32_t granules = a->granules;
        spans_.erase(first);
        range_.release(a);
        put_free(first, granules);
    }

    void widen() {
        vm_area *a = busy_[random_.below(busy_.size())];
        uint32_t before = a->granules;
        uint32_t wanted = before + 1 + static_cast<uint32_t>(random_.below(4));
        auto above = spans_.find(a->first + before);
        bool possible = a->first + before == end_ || (above->second.area == nullptr &&
                                                      above->second.granules >= wanted - before);
        ASSERT_EQ(range_.widen(a, wanted), possible);
        ASSERT_EQ(a->granules, possible ? wanted : before);
        if (!possible)
            return;
        if (a->first + before == end_)
            end_ = a->first + wanted;
        else
            cut(a->first + before, wanted - before);
        spans_[a->first].granules = wanted;
    }

    void check() {
        uint32_t next = spans_.empty() ? end_ : spans_.begin()->first;
        for (auto [first, s] : spans_) {
            ASSERT_EQ(first, next) << "a hole";
            next = first + s.granules;
            for (uint32_t g = first; g < next; g++) {
                const char *at =
                    reinterpret_cast<char *>(g_space.vmalloc_base) + g * kPageblockSize;
                vm_area *found = range_.at(at);
                ASSERT_EQ(found != nullptr, g == first || g == next - 1) << "granule " << g;
                vm_area *around = range_.containing(at);
                ASSERT_TRUE(around != nullptr && around->first == first);
                ASSERT_EQ(around->granules, s.granules);
                ASSERT_EQ(around->state, s.area != nullptr ? vm_state::busy : vm_state::free);
                ASSERT_TRUE(found == nullptr || found == around);
                ASSERT_TRUE(s.area == nullptr || s.area == around);
            }
        }
        ASSERT_EQ(next, end_);
    }

    vm_range &range_;
    random_numbers random_{7};
    std::map<uint32_t, span> spans_;
    std::vector<vm_area *> busy_;
    uint32_t end_ = 0;
};

TEST_F(ranges, agree_with_a_map_of_spans) { map_of_spans(range_).run(operations() / 20); }

} // namespace
} // namespace pagoda::test
