#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/kmem_cache.h"
#include "lib/thread.h"
#include "tests/contents.h"

#include <vector>

namespace pagoda::test {
namespace {

// A handler where there is no rseq reaches no sheaf: its frees are bits that the next holder of the
// lock collects.
template <class F> child_end in_a_handler(F body) {
    return in_child([&] {
        mutable_options().percpu = percpu_policy::off;
        mutable_options().on_error = error_policy::report;
        ASSERT_TRUE(heap_init());
        slow_path interrupted;
        body();
    });
}

// First of all: the others start the heap of this process.
TEST(late_frees, are_collected_by_the_next_holder) {
    EXPECT_TRUE(succeeded(in_a_handler([] {
        kmem_cache &c = g_caches[20];
        void *held[10];
        for (void *&p : held)
            p = cache_alloc(20, GFP_KERNEL);
        uint64_t before = c.in_use;
        {
            slow_path handler;
            ASSERT_EQ(percpu::current_slot(), nullptr);
            for (void *p : held)
                cache_free(20, p, GFP_ATOMIC);
            EXPECT_NE(c.late.load(), nullptr);
            EXPECT_EQ(c.in_use, before);
            c.lock.lock();
            EXPECT_EQ(cache_alloc(20, GFP_ATOMIC), nullptr) << "it does not wait";
            c.lock.unlock();
            void *p = cache_alloc(20, GFP_ATOMIC);
            EXPECT_NE(p, nullptr);
            EXPECT_EQ(c.in_use, before - 9);
            cache_free(20, p, GFP_ATOMIC);
        }
        caches_release_empty();
        EXPECT_EQ(c.late.load(), nullptr);
        EXPECT_EQ(c.in_use, before - 10);
    })));
}

TEST(late_frees, twice_or_inside_are_reported) {
    child_end end = in_a_handler([] {
        char *p = static_cast<char *>(cache_alloc(20, GFP_KERNEL));
        slow_path handler;
        cache_free(20, p + 8, GFP_ATOMIC);
        EXPECT_EQ(misuse_count(), 1u);
        cache_free(20, p, GFP_ATOMIC);
        EXPECT_EQ(misuse_count(), 1u);
        cache_free(20, p, GFP_ATOMIC);
        EXPECT_EQ(misuse_count(), 2u);
        cache_free(20, cache_alloc(20, GFP_ATOMIC), GFP_ATOMIC); // collects
        cache_free(20, p, GFP_ATOMIC);
        cache_free(20, cache_alloc(20, GFP_ATOMIC), GFP_ATOMIC);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("inside an object")) << end.errors;
    EXPECT_TRUE(end.said("double free")) << end.errors;
}

TEST(late_frees, keep_their_slab_alive) {
    EXPECT_TRUE(succeeded(in_a_handler([] {
        kmem_cache &c = g_caches[kSmallClasses];
        std::vector<void *> held;
        for (int i = 0; i < 200; i++)
            held.push_back(cache_alloc(kSmallClasses, GFP_KERNEL));
        for (size_t i = 0; i < held.size(); i++) {
            if (i % 2 == 0) {
                slow_path handler;
                cache_free(kSmallClasses, held[i], GFP_ATOMIC);
            } else {
                cache_free(kSmallClasses, held[i], GFP_KERNEL);
            }
        }
        caches_drain();
        EXPECT_EQ(c.in_use, 0u);
        EXPECT_EQ(c.slabs, 0u);
    })));
}

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

// What the barn holds must not be what keeps the slabs of a heap that is gone.
TEST_F(caches, slabs_go_back_in_whatever_order_objects_do) {
    constexpr unsigned kClass = class_for_size(5000);
    slow_path scope;
    std::vector<void *> objects(16'000);
    for (void *&object : objects)
        ASSERT_NE(object = cache_alloc(kClass, GFP_KERNEL), nullptr);
    uint64_t slabs = g_caches[kClass].slabs;
    random_numbers random(1);
    for (void *&object : objects)
        std::swap(object, objects[random.below(objects.size())]);
    for (void *object : objects)
        cache_free(kClass, object, GFP_KERNEL);
    EXPECT_LT(g_caches[kClass].slabs, slabs / 8);
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

TEST_F(caches, do_without_sheaves_where_there_are_none) {
    EXPECT_TRUE(succeeded(in_child([] {
        std::vector<void *> held;
        held.reserve(3000);
        for (int i = 0; i < 3000; i++)
            held.push_back(heap_alloc(class_size(22), GFP_KERNEL)); // slabs for what follows
        while (sheaf_alloc(16, false) != 0) // none is left, and none can be made
            continue;
        sys::inject_failures(0, 1 << 30);
        slow_path scope;
        for (int round = 0; round < 3; round++) {
            for (void *&p : held) {
                fill(p, class_size(22), 1);
                cache_free(22, p, GFP_KERNEL);
                p = nullptr;
            }
            for (void *&p : held) {
                p = cache_alloc(22, GFP_KERNEL);
                ASSERT_NE(p, nullptr);
            }
        }
        sys::inject_failures(0, 0);
        EXPECT_EQ(g_caches[22].in_use - cache_cached(g_caches[22]), held.size());
    })));
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
