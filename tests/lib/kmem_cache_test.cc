#include "tests/unit.h"

#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/kmem_cache.h"
#include "lib/thread.h"
#include "tests/contents.h"

#include <vector>

namespace pagoda::test {
namespace {

class caches : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(caches, every_class_serves_its_size_and_alignment) {
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        slow_path scope;
        size_t size = class_size(cls);
        void *p = cache_alloc(cls, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % min_of(size & (~size + 1), kPageSize), 0u);
        memset(p, 1, size);
        cache_free(cls, p, GFP_KERNEL);
    }
    EXPECT_EQ(heap_get_stats().live_objects, 0u);
}

TEST_F(caches, what_was_freed_last_comes_first) {
    slow_path scope;
    void *p = cache_alloc(20, GFP_KERNEL);
    cache_free(20, p, GFP_KERNEL);
    void *q = cache_alloc(20, GFP_KERNEL);
    EXPECT_EQ(q, p);
    cache_free(20, q, GFP_KERNEL);
}

TEST_F(caches, empty_slabs_go_back) {
    {
        slow_path scope;
        std::vector<void *> held;
        for (int i = 0; i < 10000; i++)
            held.push_back(cache_alloc(25, GFP_KERNEL));
        EXPECT_GE(g_caches[25].slabs * g_caches[25].info.objects, held.size());
        for (void *p : held)
            cache_free(25, p, GFP_KERNEL);
    }
    heap_trim(0);
    EXPECT_EQ(g_caches[25].slabs, 0u);
}

TEST_F(caches, a_second_free_in_a_row_is_reported) {
    child_end end = in_child([] {
        slow_path scope;
        void *p = cache_alloc(20, GFP_KERNEL);
        cache_free(20, p, GFP_KERNEL);
        for (int i = 0; i < 3; i++)
            cache_free(20, p, GFP_KERNEL);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("double free")) << end.errors;
}

TEST_F(caches, behave_like_a_table_of_objects) {
    struct entry {
        void *p;
        unsigned cls;
        uint64_t tag;
    };
    random_numbers random(1);
    std::vector<entry> table(4096);
    uint64_t before = heap_get_stats().live_objects;
    auto check_and_free = [](entry &e) {
        ASSERT_TRUE(intact(e.p, class_size(e.cls), e.tag));
        cache_free(e.cls, e.p, GFP_KERNEL);
        e.p = nullptr;
    };
    for (uint64_t op = operations(); op-- > 0;) {
        slow_path scope;
        entry &e = table[random.below(table.size())];
        if (e.p != nullptr) {
            check_and_free(e);
            if (HasFatalFailure())
                return;
            continue;
        }
        e.cls = random.one_in(50) ? 1 + static_cast<unsigned>(random.below(kLastClass))
                                  : 1 + static_cast<unsigned>(random.below(30));
        e.p = cache_alloc(e.cls, GFP_KERNEL);
        ASSERT_NE(e.p, nullptr);
        e.tag = random.next();
        fill(e.p, class_size(e.cls), e.tag);
    }
    for (entry &e : table)
        if (e.p != nullptr)
            check_and_free(e);
    EXPECT_EQ(heap_get_stats().live_objects, before);
    EXPECT_EQ(caches_audit(), 0u);
}

} // namespace
} // namespace pagoda::test
