#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/kmem_cache.h"
#include "lib/thread.h"

#include <chrono>
#include <thread>

namespace pagoda::test {
namespace {

// Where there is no rseq, which one process decides once.
template <class F> child_end without_rseq(F body) {
    return in_child([&] {
        mutable_options().percpu = percpu_policy::off;
        ASSERT_TRUE(heap_init());
        ASSERT_FALSE(percpu::has_rseq());
        body();
    });
}

int count_slots() {
    int n = 0;
    for_each_thread_slot([](char *, void *count) { ++*static_cast<int *>(count); }, &n);
    return n;
}

TEST(thread_slot, belongs_to_a_slow_path_that_interrupted_none) {
    EXPECT_TRUE(succeeded(without_rseq([] {
        EXPECT_EQ(thread_slot(), nullptr);
        slow_path outer;
        EXPECT_FALSE(outer.nested());
        char *mine = thread_slot();
        EXPECT_NE(mine, nullptr);
        {
            slow_path inner;
            EXPECT_TRUE(inner.nested());
            EXPECT_EQ(thread_slot(), nullptr);
            EXPECT_EQ(gfpflags_allow_blocking(inner.limit(GFP_KERNEL)), 0);
        }
        EXPECT_EQ(thread_slot(), mine);
    })));
}

TEST(thread_slot, that_cannot_be_had_is_done_without) {
    EXPECT_TRUE(succeeded(without_rseq([] {
        bool had_slot = true;
        void *p = nullptr;
        {
            sys::inject_failures(0, 1 << 30);
            slow_path scope;
            had_slot = thread_slot() != nullptr;
            p = cache_alloc(20, GFP_KERNEL);
            cache_free(20, p, GFP_KERNEL);
            sys::inject_failures(0, 0);
        }
        EXPECT_FALSE(had_slot);
        EXPECT_NE(p, nullptr) << "the slabs serve";
        EXPECT_EQ(g_caches[20].in_use, 0u);
        std::this_thread::sleep_for(std::chrono::milliseconds(20)); // a refusal holds for a tick
        slow_path scope;
        EXPECT_NE(thread_slot(), nullptr) << "and later there is one";
    })));
}

TEST(thread_slot, is_used_again_when_its_thread_has_ended) {
    EXPECT_TRUE(succeeded(without_rseq([] {
        for (int i = 0; i < 50; i++)
            std::thread([] {
                void *p[100];
                for (void *&q : p)
                    q = heap_alloc(200, GFP_KERNEL);
                for (void *q : p)
                    heap_free(q, GFP_KERNEL);
            }).join();
        EXPECT_LE(count_slots(), 2);
        EXPECT_EQ(heap_get_stats().live_objects, 0u);
        EXPECT_EQ(heap_get_stats().cached_objects, 0u) << "a thread empties its slot when it ends";
    })));
}

} // namespace
} // namespace pagoda::test
