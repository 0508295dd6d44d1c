#include "dma/interval_tree.h"

#include "tests/unit.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace pagoda::dma {
namespace {

std::vector<const interval *> found(const interval_tree &tree, uint64_t first, uint64_t last) {
    std::vector<const interval *> all;
    for (interval *i = tree.find(first, last); i != nullptr;
         i = interval_tree::next(i, first, last))
        all.push_back(i);
    return all;
}

TEST(IntervalTree, FindsWhatOverlaps) {
    interval_tree tree;
    EXPECT_EQ(tree.any(), nullptr);
    EXPECT_EQ(tree.find(0, ~uint64_t{0}), nullptr);
    interval a{10, 19, 0, 0, nullptr, {}}, b{15, 15, 0, 0, nullptr, {}};
    interval all{0, ~uint64_t{0}, 0, 0, nullptr, {}};
    tree.insert(&a);
    tree.insert(&b);
    tree.insert(&all);
    using list = std::vector<const interval *>;
    EXPECT_EQ(found(tree, 15, 15), (list{&all, &a, &b}));
    EXPECT_EQ(found(tree, 19, 30), (list{&all, &a}));
    EXPECT_EQ(found(tree, 20, 30), (list{&all}));
    tree.remove(&all);
    EXPECT_EQ(found(tree, 20, 30), list{});
    EXPECT_EQ(found(tree, 0, 10), list{&a});
    tree.remove(&a);
    EXPECT_EQ(tree.any(), &b);
    tree.remove(&b);
    EXPECT_EQ(tree.any(), nullptr);
}

// Against a list that is walked.
TEST(IntervalTree, KnowsWhatAListKnows) {
    test::random_numbers random(1);
    interval_tree tree;
    std::vector<std::unique_ptr<interval>> list;
    for (uint64_t n = 0; n < test::operations() / 100; n++) {
        if (list.size() < 40 || (list.size() < 80 && random.one_in(2))) {
            uint64_t first = random.below(1000);
            list.push_back(std::make_unique<interval>());
            list.back()->first = first;
            list.back()->last = first + random.skewed(8);
            tree.insert(list.back().get());
        } else {
            size_t which = random.below(list.size());
            tree.remove(list[which].get());
            list.erase(list.begin() + static_cast<ptrdiff_t>(which));
        }
        uint64_t first = random.below(1100);
        uint64_t last = first + random.skewed(6);
        std::vector<const interval *> all = found(tree, first, last), wanted;
        EXPECT_TRUE(std::is_sorted(all.begin(), all.end(),
                                   [](auto *a, auto *b) { return a->first < b->first; }));
        for (auto &i : list)
            if (i->first <= last && i->last >= first)
                wanted.push_back(i.get());
        std::sort(all.begin(), all.end());
        std::sort(wanted.begin(), wanted.end());
        ASSERT_EQ(all, wanted) << "operation " << n;
    }
}

// As in memory that starts at zero. A tree that is a list would not end.
TEST(IntervalTree, ManyInOrderAreFoundFast) {
    constexpr uint64_t kMany = 300000;
    interval_tree tree;
    memset(static_cast<void *>(&tree), 0, sizeof tree);
    std::vector<interval> all(kMany);
    for (uint64_t i = 0; i < kMany; i++) {
        all[i].first = all[i].last = i;
        tree.insert(&all[i]);
    }
    for (uint64_t i = 0; i < kMany; i++)
        ASSERT_EQ(tree.find(i, i), &all[i]);
    for (interval &i : all)
        tree.remove(&i);
    EXPECT_EQ(tree.any(), nullptr);
}

} // namespace
} // namespace pagoda::dma
