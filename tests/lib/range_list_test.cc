#include "tests/unit.h"

#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/range_list.h"

#include <memory>
#include <vector>

namespace pagoda::test {
namespace {

TEST(range_list, joins_what_touches_and_is_alike) {
    range_list list;
    EXPECT_TRUE(list.add(100, 50));
    EXPECT_TRUE(list.add(200, 50));
    EXPECT_EQ(list.count(), 2u);
    EXPECT_TRUE(list.add(150, 50));
    EXPECT_EQ(list.count(), 1u);
    EXPECT_EQ(list[0].base, 100u);
    EXPECT_EQ(list[0].end(), 250u);
    EXPECT_TRUE(list.add(250, 10, 1));
    EXPECT_TRUE(list.add(260, 10, 1, 4));
    EXPECT_EQ(list.count(), 3u) << "another node, other flags";
    EXPECT_TRUE(list.set_flags(260, 10, 4, false));
    EXPECT_EQ(list.count(), 2u);
    EXPECT_TRUE(list.add(0, 0));
    EXPECT_EQ(list.count(), 2u);
    EXPECT_TRUE(list.add(~uint64_t{0} - 5, 100));
    EXPECT_EQ(list.total(), 170u + 5) << "the end saturates";
    EXPECT_FALSE(list.covers(0, 1));
    EXPECT_TRUE(list.covers(100, 170));
    EXPECT_FALSE(list.covers(100, 171));
    EXPECT_TRUE(list.overlaps(0, 101));
    EXPECT_FALSE(list.overlaps(0, 100));
    EXPECT_FALSE(list.overlaps(120, 0));
}

TEST(range_list, that_cannot_grow_stays_as_it_was) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(heap_init());
        range_list list;
        for (uint64_t i = 0; i < range_list::kFirst; i++)
            EXPECT_TRUE(list.add(i * 10, 5));
        while (heap_alloc(64 * 1024, GFP_NOWAIT) != nullptr) {
        }
        while (heap_alloc(4096, GFP_NOWAIT) != nullptr) {
        }
        sys::inject_failures(0, 1 << 30);
        bool grew = true;
        for (uint64_t i = range_list::kFirst; grew && i < 1 << 22; i++) {
            size_t before = list.count();
            grew = list.add(i * 10, 5);
            EXPECT_EQ(list.count(), before + grew);
        }
        EXPECT_FALSE(grew);
        uint64_t before = list.total();
        size_t count = list.count();
        EXPECT_FALSE(list.remove(1, 2)) << "it would make one more";
        EXPECT_FALSE(list.set_flags(1, 2, 1, true));
        EXPECT_FALSE(list.add(0, ~uint64_t{0}));
        EXPECT_EQ(list.count(), count);
        EXPECT_EQ(list.total(), before);
        sys::inject_failures(0, 0);
    })));
}

TEST(range_list, agrees_with_a_model) {
    constexpr uint64_t kSpace = 2000;
    random_numbers random(11);
    auto list = std::make_unique<range_list>();
    struct unit {
        bool there = false;
        int nid = 0;
        uint32_t flags = 0;
        bool operator==(const unit &) const = default;
    };
    std::vector<unit> model(kSpace);
    size_t most = 0;
    for (int i = 0; i < 30000; i++) {
        uint64_t base = random.below(kSpace);
        uint64_t size = random.below(std::min(kSpace - base, i % 3000 < 2500 ? 6 : kSpace) + 1);
        unit u = {true, static_cast<int>(random.below(2)), static_cast<uint32_t>(random.below(3))};
        switch (random.below(4)) {
        case 0:
            ASSERT_TRUE(list->remove(base, size));
            for (uint64_t n = base; n < base + size; n++)
                model[n] = {};
            break;
        case 1:
            ASSERT_TRUE(list->set_flags(base, size, u.flags, i % 2 == 0));
            for (uint64_t n = base; n < base + size; n++)
                if (model[n].there)
                    model[n].flags =
                        i % 2 == 0 ? model[n].flags | u.flags : model[n].flags & ~u.flags;
            break;
        default:
            ASSERT_TRUE(list->add(base, size, u.nid, u.flags));
            for (uint64_t n = base; n < base + size; n++)
                if (!model[n].there)
                    model[n] = u;
        }
        size_t runs = 0;
        uint64_t total = 0;
        for (uint64_t n = 0; n < kSpace; n++) {
            runs += model[n].there && (n == 0 || !(model[n] == model[n - 1]));
            total += model[n].there;
        }
        ASSERT_EQ(list->count(), runs) << "operation " << i;
        ASSERT_EQ(list->total(), total);
        most = std::max(most, runs);
        uint64_t from = random.below(kSpace);
        uint64_t length = 1 + random.below(std::min<uint64_t>(kSpace - from, 5));
        bool all = true;
        bool any = false;
        for (uint64_t n = from; n < from + length; n++) {
            all = all && model[n].there;
            any = any || model[n].there;
        }
        ASSERT_EQ(list->covers(from, length), all);
        ASSERT_EQ(list->overlaps(from, length), any);
    }
    EXPECT_GT(most, range_list::kFirst) << "the array doubled";
}

} // namespace
} // namespace pagoda::test
