#include "dma/iova_cache.h"

#include "tests/unit.h"

#include <memory>
#include <set>

namespace pagoda::test {
namespace {

using namespace dma;

struct destroyer {
    void operator()(pagoda_iova_caches *c) const { iova_caches_destroy(c); }
};
using caches = std::unique_ptr<pagoda_iova_caches, destroyer>;

std::set<unsigned long> flush(const caches &c) {
    std::set<unsigned long> all;
    iova_caches_flush(
        c.get(),
        [](void *set, unsigned long pfn) {
            EXPECT_TRUE(static_cast<std::set<unsigned long> *>(set)->insert(pfn).second);
        },
        &all);
    return all;
}

TEST(iova_cache, gives_back_the_newest_within_the_limit) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(stays_on_one_cpu());
        caches c(iova_caches_create());
        EXPECT_EQ(iova_caches_get(c.get(), 2, ~0ul), 0u);
        for (unsigned long pfn : {40ul, 80ul, 60ul})
            EXPECT_TRUE(iova_caches_put(c.get(), 2, pfn));
        EXPECT_EQ(iova_caches_get(c.get(), 1, ~0ul), 0u) << "of another size";
        EXPECT_EQ(iova_caches_get(c.get(), 2, 62), 40u) << "60 to 63 do not end at 62";
        EXPECT_EQ(iova_caches_get(c.get(), 2, 63), 60u);
        EXPECT_EQ(iova_caches_get(c.get(), 2, 63), 0u);
        EXPECT_EQ(iova_caches_get(c.get(), 2, 3), 0u);
        EXPECT_EQ(iova_caches_get(c.get(), 2, ~0ul), 80u);
    })));
}

TEST(iova_cache, the_depot_is_bounded_and_nothing_is_lost) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(stays_on_one_cpu());
        caches c(iova_caches_create());
        unsigned long put = 0;
        while (put < 100'000 && iova_caches_put(c.get(), 0, put + 1))
            put++;
        EXPECT_EQ(put, kMagazine * (kDepot + 2));
        std::set<unsigned long> got;
        while (unsigned long pfn = iova_caches_get(c.get(), 0, ~0ul))
            EXPECT_TRUE(got.insert(pfn).second);
        EXPECT_EQ(got.size(), put);
        EXPECT_TRUE(flush(c).empty());
    })));
}

TEST(iova_cache, a_flush_hands_out_everything_once) {
    caches c(iova_caches_create());
    for (unsigned order = 0; order < kCachedOrders; order++)
        for (unsigned long i = 0; i < 1000; i++)
            EXPECT_TRUE(iova_caches_put(c.get(), order, order * 1000 + i + 1));
    EXPECT_EQ(flush(c).size(), kCachedOrders * 1000);
    EXPECT_TRUE(flush(c).empty());
    EXPECT_EQ(iova_caches_get(c.get(), 0, ~0ul), 0u);
}

// What is handed out is freed, and that may have other addresses given back.
TEST(iova_cache, a_flush_calls_without_a_lock) {
    test::child_end end = in_child(
        [] {
            ASSERT_TRUE(stays_on_one_cpu());
            static caches c;
            c.reset(iova_caches_create());
            for (unsigned long i = 0; i < 1000; i++)
                ASSERT_TRUE(iova_caches_put(c.get(), 0, i + 1));
            unsigned long handed_out = 0;
            iova_caches_flush(
                c.get(),
                [](void *count, unsigned long) {
                    if (++*static_cast<unsigned long *>(count) <= 1000) {
                        EXPECT_TRUE(iova_caches_put(c.get(), kCachedOrders - 1, 5000));
                        EXPECT_EQ(iova_caches_get(c.get(), kCachedOrders - 1, ~0ul), 5000u);
                    }
                },
                &handed_out);
            EXPECT_EQ(handed_out, 1000u);
            c.reset();
        },
        20);
    EXPECT_TRUE(succeeded(end));
}

} // namespace
} // namespace pagoda::test
