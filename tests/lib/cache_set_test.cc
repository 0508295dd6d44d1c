#include "lib/cache_set.h"

#include "lib/cache_list.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "tests/unit.h"

#include <pagoda/pagoda.h>

#include <map>
#include <thread>
#include <vector>

using namespace pagoda::test;

namespace {

TEST(Buckets, AreCachesOfTheirOwn) {
    kmem_buckets *b = kmem_buckets_create("msg", 0, 0, 0, nullptr);
    ASSERT_NE(b, nullptr);
    random_numbers random(1);
    std::vector<void *> held;
    for (int i = 0; i < 500; i++) {
        size_t size = 1 + random.below(KMALLOC_MAX_CACHE_SIZE);
        void *p = kmem_buckets_alloc(b, size, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(ksize(p), kmalloc_size_roundup(size));
        void *plain = kmalloc(size, GFP_KERNEL);
        EXPECT_NE(pagoda::cache_of_pointer(p), pagoda::cache_of_pointer(plain));
        kfree(plain);
        memset(p, 1, size);
        held.push_back(p);
    }
    for (void *p : held)
        kfree(p);
    EXPECT_EQ(kmem_buckets_alloc(b, 0, GFP_KERNEL), ZERO_SIZE_PTR);
    void *large = kmem_buckets_alloc(b, 100000, GFP_KERNEL);
    EXPECT_GE(ksize(large), 100000u);
    kfree(large);
    void *without = kmem_buckets_alloc(nullptr, 100, GFP_KERNEL);
    EXPECT_NE(without, nullptr);
    kfree(without);
    EXPECT_EQ(kmem_buckets_create(nullptr, 0, 0, 0, nullptr), nullptr);
    EXPECT_EQ(kmem_buckets_create("a b", 0, 0, 0, nullptr), nullptr);
}

// The slower one of two threads that make the same cache gives his back. He may be inside a
// section.
TEST(CacheSet, KeepsTheFirstOfTwo) {
    child_end end = in_child(
        [] {
            ASSERT_TRUE(pagoda::kernel_api_init());
            static pagoda::cache_set set;
            auto make = [](uint32_t bytes) {
                return pagoda::cache_create("made", bytes, {}, SLAB_NO_MERGE);
            };
            int section = pagoda_rcu_read_lock();
            kfree_rcu_mightsleep(kmalloc(64, GFP_KERNEL));
            pagoda::kmem_cache *first = nullptr;
            pagoda::kmem_cache *slower = nullptr;
            pagoda::kmem_cache *got = set.cache_for(100, GFP_KERNEL, [&](uint32_t bytes) {
                first = set.cache_for(100, GFP_KERNEL, make);
                return slower = make(bytes);
            });
            EXPECT_NE(first, slower);
            EXPECT_EQ(got, first);
            EXPECT_EQ(slower->traits, nullptr) << "it is gone";
            EXPECT_EQ(make(100), slower) << "its value is free again";
            pagoda_rcu_read_unlock(section);
        },
        60);
    EXPECT_TRUE(succeeded(end));
}

TEST(Heap, HoldsWhatAModelHolds) {
    pagoda_heap *h = pagoda_heap_create("model");
    ASSERT_NE(h, nullptr);
    random_numbers random(2);
    std::map<char *, size_t> model;
    for (uint64_t i = 0; i < operations() / 20; i++) {
        if (model.size() < 1000 && random.one_in(2)) {
            size_t size = 1 + random.skewed(20);
            auto *p = static_cast<char *>(pagoda_heap_alloc(h, size, GFP_KERNEL));
            ASSERT_NE(p, nullptr);
            p[0] = p[size - 1] = static_cast<char>(size);
            ASSERT_TRUE(model.emplace(p, size).second);
        } else if (!model.empty()) {
            auto at = model.lower_bound(reinterpret_cast<char *>(random.next()));
            if (at == model.end())
                at = model.begin();
            ASSERT_EQ(at->first[0], static_cast<char>(at->second));
            ASSERT_EQ(at->first[at->second - 1], static_cast<char>(at->second));
            if (random.one_in(2))
                pagoda_heap_free(at->first);
            else
                kfree(at->first);
            model.erase(at);
        }
    }
    struct seen {
        std::map<char *, size_t> *model;
        size_t count;
    } s = {&model, 0};
    pagoda_heap_walk(
        h,
        [](void *block, size_t size, void *arg) {
            auto *w = static_cast<seen *>(arg);
            auto at = w->model->find(static_cast<char *>(block));
            ASSERT_NE(at, w->model->end());
            ASSERT_GE(size, at->second);
            w->count++;
        },
        &s);
    EXPECT_EQ(s.count, model.size());
    pagoda_heap_destroy(h);
    for (auto [p, size] : model)
        ASSERT_EQ(ksize(p), 0u) << "it went with its heap";
    pagoda_heap_destroy(nullptr);
}

TEST(Heap, ManyThreadsShareOne) {
    pagoda_heap *h = pagoda_heap_create("shared");
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([h, t] {
            random_numbers random(t);
            std::vector<uint64_t *> held;
            for (int i = 0; i < 20000; i++) {
                if (random.one_in(2)) {
                    auto *p = static_cast<uint64_t *>(
                        pagoda_heap_alloc(h, 8 + random.skewed(12), GFP_KERNEL));
                    *p = t;
                    held.push_back(p);
                } else if (!held.empty()) {
                    ASSERT_EQ(*held.back(), t);
                    pagoda_heap_free(held.back());
                    held.pop_back();
                }
            }
        });
    }
    for (std::thread &t : threads)
        t.join();
    pagoda_heap_destroy(h); // with what the threads left
}

TEST(Heap, LimitsAndErrors) {
    pagoda_heap *h = pagoda_heap_create("limits");
    EXPECT_EQ(pagoda_heap_alloc(h, 0, GFP_KERNEL), nullptr);
    EXPECT_EQ(pagoda_heap_alloc(h, PAGODA_HEAP_MAX + 1, GFP_KERNEL), nullptr);
    EXPECT_EQ(pagoda_heap_alloc(h, 64, GFP_ATOMIC), nullptr) << "a size's first needs a new cache";
    auto *large = static_cast<char *>(pagoda_heap_alloc(h, PAGODA_HEAP_MAX, GFP_KERNEL));
    ASSERT_NE(large, nullptr);
    large[0] = large[PAGODA_HEAP_MAX - 1] = 1;
    pagoda_heap_free(nullptr);
    pagoda_heap_destroy(h);
    EXPECT_EQ(pagoda_heap_create(""), nullptr);
}

TEST(Heap, ItsMemoryComesBack) {
    uint64_t before = pagoda::heap_get_stats().live_bytes;
    for (int round = 0; round < 20; round++) {
        pagoda_heap *h = pagoda_heap_create("round");
        for (int i = 0; i < 1000; i++)
            ASSERT_NE(pagoda_heap_alloc(h, 5000, GFP_KERNEL), nullptr);
        pagoda_heap_destroy(h);
    }
    EXPECT_LE(pagoda::heap_get_stats().live_bytes, before + 10000);
}

} // namespace
