#include "tests/unit.h"

#include "lib/drain.h"
#include "lib/heap.h"

#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr unsigned kClass = 20;

class drain : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

std::vector<void *> take(unsigned cls, size_t n) {
    std::vector<void *> objects;
    for (size_t i = 0; i < n; i++)
        objects.push_back(cache_alloc(cls, GFP_KERNEL));
    return objects;
}

void give(unsigned cls, const std::vector<void *> &objects) {
    for (void *p : objects)
        cache_free(cls, p, GFP_KERNEL);
}

TEST_F(drain, takes_everything_out_of_the_sheaves) {
    give(kClass, take(kClass, 5000));
    EXPECT_GT(cache_cached(g_caches[kClass]), 0u);
    heap_trim(0);
    EXPECT_EQ(cache_cached(g_caches[kClass]), 0u);
    EXPECT_EQ(g_caches[kClass].in_use, 0u);
    EXPECT_EQ(g_caches[kClass].empty_slabs, 0u);
}

TEST_F(drain, leaves_objects_in_use_alone) {
    std::vector<void *> held = take(kClass, 300);
    for (size_t i = 0; i < held.size(); i++)
        memset(held[i], static_cast<int>(i), class_size(kClass));
    heap_trim(0);
    EXPECT_EQ(g_caches[kClass].in_use, held.size());
    for (size_t i = 0; i < held.size(); i++)
        EXPECT_EQ(static_cast<unsigned char *>(held[i])[class_size(kClass) - 1], i % 256);
    give(kClass, held);
}

TEST_F(drain, an_audit_of_sound_caches_finds_nothing) {
    give(kClass, take(kClass, 2000));
    EXPECT_EQ(caches_audit(), 0u);
}

TEST_F(drain, takes_what_other_threads_left_behind) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([] { give(kClass, take(kClass, 3000)); });
    for (std::thread &t : threads)
        t.join();
    EXPECT_TRUE(maybe_multithreaded());
    heap_trim(0);
    EXPECT_EQ(cache_cached(g_caches[kClass]), 0u);
    EXPECT_EQ(g_caches[kClass].in_use, 0u);
}

} // namespace
} // namespace pagoda::test
