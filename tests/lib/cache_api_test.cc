#include "lib/cache_api.h"

#include "hugepage/options.h"
#include "lib/heap.h"
#include "tests/unit.h"

#include <errno.h>
#include <set>
#include <thread>
#include <vector>

using namespace pagoda::test;
using pagoda::cache_alloc_object;
using pagoda::cache_free_object;

namespace {

class CacheApi : public ::testing::Test {
  protected:
    struct kmem_cache *cache_ = kmem_cache_create("api", 64, nullptr, SLAB_NO_MERGE);
    pagoda::kmem_cache &inside() { return *reinterpret_cast<pagoda::kmem_cache *>(cache_); }
    void TearDown() override {
        kmem_cache_destroy(cache_);
        EXPECT_EQ(inside().info.size, 0u) << "nothing was lost";
    }
};

TEST_F(CacheApi, TheSlowPathServesAllThatTheHitPathDoes) {
    void *p = cache_alloc_object(inside(), GFP_KERNEL, nullptr);
    ASSERT_NE(p, nullptr);
    cache_free_object(inside(), p, nullptr);
    EXPECT_EQ(kmem_cache_alloc(cache_, GFP_KERNEL), p) << "the newest first";
    kmem_cache_free(cache_, p);
    kmem_cache_free(cache_, nullptr);
}

TEST_F(CacheApi, ASecondCacheOfANameIsMadeAndMentionedOnce) {
    child_end end = in_child([] {
        struct kmem_cache *other = kmem_cache_create("other", 64, nullptr, SLAB_NO_MERGE);
        for (int i = 0; i < 2; i++) {
            struct kmem_cache *same = kmem_cache_create("api", 96, nullptr, 0);
            EXPECT_NE(same, nullptr);
            kmem_cache_destroy(same);
        }
        kmem_cache_destroy(other);
        kmem_cache_destroy(kmem_cache_create("other", 64, nullptr, 0)); // there is none any more
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("kmem_cache_create api: there is a cache of this name"));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST_F(CacheApi, ZeroedObjectsAreZeroWhateverTheyHeld) {
    for (int i = 0; i < 300; i++) {
        auto *p = static_cast<char *>(kmem_cache_zalloc(cache_, GFP_KERNEL));
        for (int at = 0; at < 64; at++)
            ASSERT_EQ(p[at], 0);
        memset(p, 0xff, 64);
        kmem_cache_free(cache_, p);
    }
}

TEST_F(CacheApi, BulkIsAllOrNothingAndEachObjectOnce) {
    random_numbers random(5);
    std::multiset<void *> held;
    for (int round = 0; round < 3000; round++) {
        void *objects[300];
        size_t n = 1 + random.below(300);
        ASSERT_EQ(kmem_cache_alloc_bulk(cache_, GFP_KERNEL, n, objects), static_cast<int>(n));
        for (size_t i = 0; i < n; i++) {
            ASSERT_EQ(held.count(objects[i]), 0u);
            held.insert(objects[i]);
            memset(objects[i], 1, 64);
        }
        size_t back = random.below(n + 1);
        for (size_t i = 0; i < back; i++)
            held.erase(objects[i]);
        if (random.one_in(2))
            kmem_cache_free_bulk(cache_, back, objects);
        else
            kfree_bulk(back, objects);
        while (held.size() > 2000) {
            void *p = *held.begin();
            held.erase(held.begin());
            kmem_cache_free(cache_, p);
        }
    }
    for (void *p : held)
        kmem_cache_free(cache_, p);
    EXPECT_EQ(kmem_cache_alloc_bulk(cache_, GFP_KERNEL, 0, nullptr), 0);
    EXPECT_EQ(kmem_cache_alloc_bulk(cache_, GFP_KERNEL, size_t{INT_MAX} + 1, nullptr), 0);
}

TEST_F(CacheApi, ABulkThatCannotBeServedTakesNothing) {
    child_end end = in_child([&] {
        limit(RLIMIT_AS, process_figure("VmSize") + (24 << 20));
        constexpr size_t kTooMany = 1 << 20;
        std::vector<void *> objects(kTooMany);
        EXPECT_EQ(
            kmem_cache_alloc_bulk(cache_, GFP_KERNEL | __GFP_NOWARN, kTooMany, objects.data()), 0);
        void *p = kmem_cache_alloc(cache_, GFP_KERNEL);
        EXPECT_NE(p, nullptr) << "what was taken is back";
        kmem_cache_free(cache_, p);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(CacheApi, ABulkWithAForeignObjectLeaksOnlyThat) {
    child_end end = in_child([&] {
        pagoda::mutable_options().on_error = pagoda::error_policy::report;
        void *objects[3];
        kmem_cache_alloc_bulk(cache_, GFP_KERNEL, 3, objects);
        void *mine = objects[1];
        objects[1] = kmalloc(64, GFP_KERNEL);
        kmem_cache_free_bulk(cache_, 3, objects);
        kmem_cache_free(cache_, mine);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    EXPECT_TRUE(end.said("kmem_cache_free api")) << end.errors;
}

TEST_F(CacheApi, APrefilledSheafCannotFailUntilItIsEmpty) {
    for (unsigned count : {1u, 50u, 1000u}) {
        struct slab_sheaf *sheaf = kmem_cache_prefill_sheaf(cache_, GFP_KERNEL, count);
        ASSERT_NE(sheaf, nullptr);
        EXPECT_GE(kmem_cache_sheaf_size(sheaf), count);
        std::vector<void *> held;
        for (unsigned i = 0; i < count; i++) {
            held.push_back(kmem_cache_alloc_from_sheaf(cache_, GFP_NOWAIT | __GFP_ZERO, sheaf));
            ASSERT_NE(held.back(), nullptr);
            EXPECT_EQ(*static_cast<char *>(held.back()), 0);
            memset(held.back(), 1, 64);
        }
        while (void *p = kmem_cache_alloc_from_sheaf(cache_, GFP_NOWAIT, sheaf))
            held.push_back(p);
        EXPECT_EQ(kmem_cache_sheaf_size(sheaf), 0u);
        EXPECT_EQ(kmem_cache_refill_sheaf(cache_, GFP_KERNEL, &sheaf, 2 * count), 0);
        EXPECT_GE(kmem_cache_sheaf_size(sheaf), 2 * count);
        for (void *p : held)
            kmem_cache_free(cache_, p);
        kmem_cache_return_sheaf(cache_, GFP_KERNEL, sheaf);
    }
    kmem_cache_return_sheaf(cache_, GFP_KERNEL, nullptr);
}

TEST_F(CacheApi, ASheafThatCannotBeRefilledStaysAsItWas) {
    child_end end = in_child([&] {
        struct slab_sheaf *sheaf = kmem_cache_prefill_sheaf(cache_, GFP_KERNEL, 10);
        limit(RLIMIT_AS, process_figure("VmSize") + (8 << 20));
        unsigned before = kmem_cache_sheaf_size(sheaf);
        struct slab_sheaf *same = sheaf;
        EXPECT_EQ(kmem_cache_refill_sheaf(cache_, GFP_KERNEL | __GFP_NOWARN, &sheaf, 400000),
                  -ENOMEM);
        EXPECT_EQ(sheaf, same);
        EXPECT_EQ(kmem_cache_sheaf_size(sheaf), before);
        EXPECT_EQ(kmem_cache_prefill_sheaf(cache_, GFP_KERNEL | __GFP_NOWARN, 400000), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(CacheApi, ManyThreadsHaveEachObjectOnce) {
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            random_numbers random(t + 10);
            std::vector<uint64_t *> held;
            for (int i = 0; i < 100000; i++) {
                if (held.size() < 500 && random.one_in(2)) {
                    auto *p = static_cast<uint64_t *>(kmem_cache_alloc(cache_, GFP_KERNEL));
                    p[0] = p[7] = t << 32 | static_cast<uint64_t>(i);
                    held.push_back(p);
                } else if (!held.empty()) {
                    uint64_t *p = held.back();
                    ASSERT_EQ(p[0], p[7]);
                    ASSERT_EQ(p[0] >> 32, t);
                    p[0] = 0;
                    held.pop_back();
                    kmem_cache_free(cache_, p);
                }
            }
            for (uint64_t *p : held)
                kmem_cache_free(cache_, p);
        });
    }
    for (std::thread &t : threads)
        t.join();
}

TEST_F(CacheApi, OtherNodesAreRefusedOnlyWithThisnode) {
    void *p = kmem_cache_alloc_node(cache_, GFP_KERNEL, 3);
    EXPECT_NE(p, nullptr);
    kmem_cache_free(cache_, p);
    EXPECT_EQ(kmem_cache_alloc_node(cache_, GFP_KERNEL | __GFP_THISNODE, 3), nullptr);
}

} // namespace
