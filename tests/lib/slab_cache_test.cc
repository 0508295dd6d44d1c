#include "lib/slab_cache.h"

#include "lib/cache_list.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "tests/unit.h"

#include <set>
#include <thread>
#include <vector>

using namespace pagoda;
using namespace pagoda::test;

namespace {

class SlabCache : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(kernel_api_init());
        cache_ = cache_create_private("slabs", 100, 4);
        ASSERT_NE(cache_, nullptr);
    }
    void TearDown() override { cache_drop(cache_); }
    pagoda::kmem_cache *cache_ = nullptr;
};

TEST_F(SlabCache, GivesObjectsOutInAscendingOrderAndTakesThemBack) {
    void *objects[500];
    uint32_t got = take_from_slabs(*cache_, objects, 500, GFP_KERNEL);
    ASSERT_GT(got, 100u);
    for (uint32_t i = 1; i < got; i++)
        EXPECT_LT(objects[i - 1], objects[i]);
    EXPECT_EQ(cache_->in_use, got);
    give_to_slabs(*cache_, objects, got, GFP_KERNEL);
    EXPECT_EQ(cache_->in_use, 0u);
    EXPECT_EQ(cache_->empty_slabs, cache_->slabs);
    slabs_release(*cache_, 0);
    EXPECT_EQ(cache_->slabs, 0u);
    EXPECT_EQ(cache_->all, nullptr);
}

TEST_F(SlabCache, AFreeWaitsForNobodyAndIsMergedByTheNextHolder) {
    void *objects[200];
    uint32_t got = take_from_slabs(*cache_, objects, 200, GFP_KERNEL);
    cache_->lock.lock(); // a holder that does not come back
    std::thread([&] { give_to_slabs(*cache_, objects, got, GFP_KERNEL); }).join();
    EXPECT_EQ(cache_->in_use, got) << "not merged yet";
    slab_position at = slab_find(cache_->info, objects[0]);
    ASSERT_NE(at.slab, nullptr);
    EXPECT_TRUE(slab_is_free(at));
    void *one = nullptr;
    std::thread([&] {
        EXPECT_EQ(take_from_slabs(*cache_, &one, 1, GFP_ATOMIC), 0u) << "nor does an allocation";
    }).join();
    cache_->lock.unlock();
    EXPECT_EQ(take_from_slabs(*cache_, &one, 1, GFP_KERNEL), 1u);
    EXPECT_EQ(cache_->in_use, 1u);
    give_to_slabs(*cache_, &one, 1, GFP_KERNEL);
}

TEST_F(SlabCache, WalksWhatIsInUse) {
    void *objects[300];
    uint32_t got = take_from_slabs(*cache_, objects, 300, GFP_KERNEL);
    give_to_slabs(*cache_, objects, got / 2, GFP_KERNEL);
    std::set<void *> seen;
    slabs_walk(
        *cache_,
        [](void *object, size_t size, void *set) {
            EXPECT_EQ(size, 100u);
            static_cast<std::set<void *> *>(set)->insert(object);
        },
        &seen);
    EXPECT_EQ(seen, std::set<void *>(objects + got / 2, objects + got));
    // The rest goes with the cache.
}

TEST_F(SlabCache, KeepsAFewEmptySlabs) {
    std::vector<void *> objects(20000);
    uint32_t got = 0;
    while (got < objects.size())
        got += take_from_slabs(*cache_, &objects[got], 20000 - got, GFP_KERNEL);
    uint64_t slabs = cache_->slabs;
    give_to_slabs(*cache_, objects.data(), got, GFP_KERNEL);
    EXPECT_GE(cache_->slabs, 1u);
    EXPECT_LE(cache_->slabs, slabs / 4);
}

} // namespace
