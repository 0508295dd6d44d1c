#include "dma/windows.h"

#include "tests/unit.h"

#include <errno.h>
#include <vector>

namespace pagoda::test {
namespace {

using dma::iova_window;
using dma::window_list;

struct fixed : dma::iommu {
    explicit fixed(std::vector<iova_window> w, int failure = 0)
        : dma::iommu{&kOps, 4096}, all(std::move(w)), error(failure) {}

    static int tell(dma::iommu &i, iova_window *out, int capacity) {
        auto &self = static_cast<fixed &>(i);
        for (size_t k = 0; k < self.all.size() && k < static_cast<size_t>(capacity); k++)
            out[k] = self.all[k];
        return self.error != 0 ? self.error : static_cast<int>(self.all.size());
    }
    static constexpr dma::iommu_ops kOps = {"fixed", true,    nullptr, nullptr,
                                            tell,    nullptr, nullptr, nullptr};

    std::vector<iova_window> all;
    int error;
};

using pairs = std::vector<std::pair<uint64_t, uint64_t>>;

pairs holes(const window_list &w) {
    pairs all;
    EXPECT_TRUE(w.each_hole(
        [](void *list, uint64_t first, uint64_t last) {
            static_cast<pairs *>(list)->emplace_back(first, last);
            return true;
        },
        &all));
    return all;
}

TEST(windows, are_cut_to_whole_granules_and_48_bits) {
    fixed i({{0x800, 0x2fff}, {0x3400, 0x3fff}, {0x5000, 0x57ff}, {0x10000, UINT64_MAX}});
    window_list w;
    ASSERT_EQ(w.read(i), 0);
    ASSERT_EQ(w.count, 2);
    EXPECT_EQ(w.window[0].first, 0x1000u);
    EXPECT_EQ(w.window[0].last, 0x2fffu);
    EXPECT_EQ(w.window[1].last, 0xffffffffffffu);
    EXPECT_TRUE(w.contains(0x1000, 0x2fff));
    EXPECT_FALSE(w.contains(0x1000, 0x3000));
    EXPECT_FALSE(w.contains(0x2fff, 0x10000)) << "over a hole";
    EXPECT_EQ(holes(w), (pairs{{0, 0xfff}, {0x3000, 0xffff}, {0x1000000000000, UINT64_MAX}}));
}

TEST(windows, none_is_an_error) {
    window_list w;
    fixed none({});
    EXPECT_EQ(w.read(none), -ENOSPC);
    fixed small({{100, 4000}});
    EXPECT_EQ(w.read(small), -ENOSPC);
    fixed broken({}, -ENOTTY);
    EXPECT_EQ(w.read(broken), -ENOTTY);
}

TEST(windows, more_than_there_is_room_for_are_left_out) {
    std::vector<iova_window> many;
    for (uint64_t k = 0; k < 40; k++)
        many.push_back({k << 20, (k << 20) + 0xfff});
    fixed i(many);
    window_list w;
    ASSERT_EQ(w.read(i), 0);
    EXPECT_EQ(w.count, dma::kMaxSpaceWindows);
    EXPECT_EQ(holes(w).back().first, (31u << 20) + 0x1000);
}

TEST(windows, the_largest_is_above_4_gib_where_one_is) {
    window_list w;
    bool high = false;
    fixed usual({{0, 0xfedfffff}, {0xfef00000, (uint64_t{1} << 39) - 1}});
    ASSERT_EQ(w.read(usual), 0);
    EXPECT_EQ(w.largest(&high).first, uint64_t{1} << 32);
    EXPECT_EQ(w.largest(&high).last, (uint64_t{1} << 39) - 1);
    EXPECT_TRUE(high);
    fixed narrow({{0, 0xffff}, {0x100000, 0xffffff}, {0x2000000, 0x2000fff}});
    ASSERT_EQ(w.read(narrow), 0);
    EXPECT_EQ(w.largest(&high).first, 0x100000u);
    EXPECT_FALSE(high);
    fixed just({{0, 0x100000fff}, {0x200000000, 0x20fffffff}});
    ASSERT_EQ(w.read(just), 0);
    EXPECT_EQ(w.largest(&high).first, 0x200000000u);
}

} // namespace
} // namespace pagoda::test
