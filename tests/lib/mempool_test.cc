#include "tests/unit.h"

#include "lib/heap.h"
#include "lib/mempool.h"
#include "lib/thread.h"

#include <errno.h>
#include <mutex>
#include <signal.h>
#include <sys/time.h>
#include <thread>
#include <unordered_set>
#include <vector>

namespace pagoda::test {
namespace {

constexpr size_t kBytes = 64;

// Where a pool's elements come from: libc's heap, with a bound, counts and the flags of each call.
struct source {
    std::atomic<int> bound{1 << 30};
    std::atomic<int> out{0};
    std::atomic<int> calls{0};
    gfp_t flags[8] = {};
    bool only_when_blocking = false;

    static void *alloc(gfp_t gfp, void *data) {
        source &s = *static_cast<source *>(data);
        int call = s.calls.fetch_add(1);
        if (call < 8)
            s.flags[call] = gfp;
        if (s.only_when_blocking && !gfpflags_allow_blocking(gfp))
            return nullptr;
        if (s.out.fetch_add(1) >= s.bound.load()) {
            s.out.fetch_sub(1);
            return nullptr;
        }
        return malloc(kBytes);
    }
    static void free(void *element, void *data) {
        static_cast<source *>(data)->out.fetch_sub(1);
        ::free(element);
    }
};

mempool_t *make(source &s, int min_nr) {
    return pagoda_mempool_create(min_nr, source::alloc, source::free, &s, kBytes, GFP_KERNEL,
                                 NUMA_NO_NODE);
}

constexpr gfp_t kAdded = __GFP_NOMEMALLOC | __GFP_NORETRY | __GFP_NOWARN;

TEST(mempool, has_its_reserve_from_the_start_and_gives_it_back) {
    source s;
    mempool_t *pool = make(s, 5);
    ASSERT_NE(pool, nullptr);
    EXPECT_EQ(s.out, 5);
    EXPECT_EQ(s.flags[0], GFP_KERNEL);
    mempool_destroy(pool);
    EXPECT_EQ(s.out, 0);
    mempool_destroy(nullptr);
}

TEST(mempool, that_cannot_be_filled_is_not_there) {
    source s;
    s.bound = 3;
    EXPECT_EQ(make(s, 4), nullptr);
    EXPECT_EQ(s.out, 0);
    mempool_t pool;
    EXPECT_EQ(mempool_init(&pool, 4, source::alloc, source::free, &s), -ENOMEM);
    EXPECT_FALSE(mempool_initialized(&pool));
    EXPECT_EQ(mempool_init(&pool, -1, source::alloc, source::free, &s), -EINVAL);
    EXPECT_EQ(mempool_init(&pool, 1, nullptr, source::free, &s), -EINVAL);
    EXPECT_EQ(mempool_init(&pool, 1, source::alloc, nullptr, &s), -EINVAL);
    EXPECT_EQ(s.out, 0);
    EXPECT_EQ(make(s, -1), nullptr);
}

TEST(mempool, embedded_in_a_structure_of_the_callers) {
    source s;
    mempool_t pool = {};
    mempool_exit(&pool); // zeroed and never initialised
    ASSERT_EQ(mempool_init_node(&pool, 2, source::alloc, source::free, &s, GFP_NOWAIT, 0), 0);
    EXPECT_TRUE(mempool_initialized(&pool));
    EXPECT_EQ(s.flags[0], GFP_NOWAIT);
    void *a = mempool_alloc(&pool, GFP_KERNEL);
    mempool_free(a, &pool);
    mempool_free(nullptr, &pool);
    mempool_exit(&pool);
    EXPECT_FALSE(mempool_initialized(&pool));
    EXPECT_EQ(s.out, 0);
    mempool_exit(&pool);
}

TEST(mempool, asks_the_allocator_without_waiting_before_it_takes_from_the_reserve) {
    source s;
    mempool_t *pool = make(s, 2);
    s.calls = 0;
    void *a = mempool_alloc(pool, GFP_KERNEL);
    EXPECT_EQ(s.calls, 1);
    EXPECT_EQ(s.flags[0], (GFP_KERNEL | kAdded) & ~(__GFP_DIRECT_RECLAIM | __GFP_IO));
    EXPECT_EQ(s.out, 3) << "the reserve is as it was";

    s.bound = 0;
    s.calls = 0;
    void *b = mempool_alloc(pool, GFP_KERNEL);
    EXPECT_EQ(s.calls, 1) << "the reserve comes before an allocation that may wait";
    void *c = mempool_alloc(pool, GFP_KERNEL);
    EXPECT_EQ(s.calls, 2);
    EXPECT_EQ(s.out, 3);

    s.bound = 1 << 30;
    s.only_when_blocking = true;
    s.calls = 0;
    void *d = mempool_alloc(pool, GFP_KERNEL);
    EXPECT_EQ(s.calls, 2);
    EXPECT_EQ(s.flags[1], GFP_KERNEL | kAdded);
    for (void *element : {a, b, c, d}) {
        EXPECT_NE(element, nullptr);
        mempool_free(element, pool);
    }
    EXPECT_EQ(s.out, 2) << "the first two freed refilled the reserve, the others left";
    mempool_destroy(pool);
    EXPECT_EQ(s.out, 0);
}

TEST(mempool, returns_null_only_to_who_may_not_wait) {
    source s;
    mempool_t *pool = make(s, 2);
    s.bound = 0;
    void *a = mempool_alloc(pool, GFP_ATOMIC);
    void *b = mempool_alloc(pool, GFP_NOWAIT);
    EXPECT_NE(a, nullptr);
    EXPECT_NE(b, nullptr);
    s.calls = 0;
    EXPECT_EQ(mempool_alloc(pool, GFP_ATOMIC), nullptr);
    EXPECT_EQ(mempool_alloc(pool, GFP_NOWAIT), nullptr);
    EXPECT_EQ(s.flags[0], GFP_ATOMIC | kAdded);
    EXPECT_EQ(s.calls, 2) << "one attempt each: nothing else could be tried";
    mempool_free(a, pool);
    EXPECT_EQ(mempool_alloc(pool, GFP_ATOMIC), a);
    mempool_free(a, pool);
    mempool_free(b, pool);
    mempool_destroy(pool);
}

TEST(mempool, preallocated_elements_alone) {
    source s;
    mempool_t *pool = make(s, 1);
    s.calls = 0;
    void *a = mempool_alloc_preallocated(pool);
    EXPECT_NE(a, nullptr);
    EXPECT_EQ(mempool_alloc_preallocated(pool), nullptr);
    EXPECT_EQ(s.calls, 0);
    mempool_free(a, pool);
    mempool_destroy(pool);
}

TEST(mempool, a_blocking_allocation_waits_for_an_element) {
    source s;
    mempool_t *pool = make(s, 1);
    s.bound = 0;
    void *only = mempool_alloc(pool, GFP_KERNEL);
    std::atomic<void *> got{nullptr};
    std::thread waiter([&] { got = mempool_alloc(pool, GFP_NOIO); });
    auto &state = *reinterpret_cast<mempool_state *>(pool);
    while (state.waiters.load() == 0)
        std::this_thread::yield();
    EXPECT_EQ(got, nullptr);
    mempool_free(only, pool);
    waiter.join();
    EXPECT_EQ(got, only);
    EXPECT_EQ(state.waiters.load(), 0u);
    mempool_free(got, pool);
    mempool_destroy(pool);
}

TEST(mempool, one_resize_wakes_every_waiter_it_has_an_element_for) {
    source s;
    mempool_t *pool = make(s, 1);
    s.bound = 0;
    void *only = mempool_alloc(pool, GFP_KERNEL);
    void *got[3] = {};
    std::vector<std::thread> waiters;
    waiters.reserve(3);
    for (void *&element : got)
        waiters.emplace_back([&] { element = mempool_alloc(pool, GFP_KERNEL); });
    auto &state = *reinterpret_cast<mempool_state *>(pool);
    while (state.waiters.load() != 3)
        std::this_thread::yield();
    s.bound = 1 << 30;
    EXPECT_EQ(mempool_resize(pool, 4), 0);
    for (std::thread &t : waiters)
        t.join();
    for (void *element : got)
        mempool_free(element, pool);
    mempool_free(only, pool);
    mempool_destroy(pool);
    EXPECT_EQ(s.out, 0);
}

TEST(mempool, a_waiter_asks_the_allocator_again_by_itself) {
    source s;
    mempool_t *pool = make(s, 0);
    s.bound = 0;
    g_mempool_patience_ms = 5;
    std::atomic<void *> got{nullptr};
    std::thread waiter([&] { got = mempool_alloc(pool, GFP_KERNEL); });
    while (s.calls < 5)
        std::this_thread::yield();
    EXPECT_EQ(got, nullptr);
    s.bound = 1; // and nothing is freed
    waiter.join();
    g_mempool_patience_ms = 5000;
    EXPECT_NE(got, nullptr);
    mempool_free(got, pool);
    EXPECT_EQ(s.out, 0) << "a pool without a reserve keeps nothing";
    mempool_destroy(pool);
}

TEST(mempool, does_not_wait_in_a_handler_that_interrupted_the_allocator) {
    source s;
    mempool_t *pool = make(s, 1);
    s.bound = 0;
    void *only = mempool_alloc(pool, GFP_KERNEL);
    {
        slow_path interrupted;
        EXPECT_EQ(mempool_alloc(pool, GFP_KERNEL), nullptr);
    }
    mempool_free(only, pool);
    mempool_destroy(pool);
}

TEST(mempool, refuses_to_zero) {
    child_end end = in_child([] {
        source s;
        mempool_t *pool = make(s, 1);
        EXPECT_EQ(mempool_alloc(pool, GFP_KERNEL | __GFP_ZERO), nullptr);
        EXPECT_EQ(mempool_alloc(pool, GFP_KERNEL | __GFP_ZERO), nullptr);
        mempool_destroy(pool);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("__GFP_ZERO is refused")) << end.errors;
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST(mempool, resizes) {
    source s;
    mempool_t *pool = make(s, 2);
    EXPECT_EQ(mempool_resize(pool, -1), -EINVAL);
    EXPECT_EQ(mempool_resize(pool, 10), 0);
    EXPECT_EQ(s.out, 10);
    EXPECT_EQ(mempool_resize(pool, 3), 0);
    EXPECT_EQ(s.out, 3);
    s.bound = 5;
    EXPECT_EQ(mempool_resize(pool, 8), -ENOMEM);
    EXPECT_EQ(s.out, 3) << "as it was";
    s.bound = 0;
    void *taken[3];
    for (void *&element : taken)
        EXPECT_NE(element = mempool_alloc(pool, GFP_ATOMIC), nullptr);
    EXPECT_EQ(mempool_alloc(pool, GFP_ATOMIC), nullptr);
    EXPECT_EQ(mempool_resize(pool, 1), 0) << "while all are out";
    for (void *element : taken)
        mempool_free(element, pool);
    EXPECT_EQ(s.out, 1);
    EXPECT_EQ(mempool_resize(pool, 0), 0);
    EXPECT_EQ(s.out, 0);
    mempool_destroy(pool);
}

TEST(mempool, elements_written_in_reserve_are_reported_in_debug_builds) {
    child_end end = in_child([] {
        source s;
        mempool_t *pool = make(s, 1);
        s.bound = 0;
        char *element = static_cast<char *>(mempool_alloc(pool, GFP_ATOMIC));
        memset(element, 7, kBytes);
        mempool_free(element, pool);
        EXPECT_EQ(element[10], kDebug ? 0x6b : 7);
        element[10] = 1; // after it was freed
        EXPECT_EQ(mempool_alloc(pool, GFP_ATOMIC), element);
    });
    if (kDebug) {
        EXPECT_EQ(end.signal(), SIGABRT);
        EXPECT_TRUE(end.said("of 64 bytes was written at offset 10 while it was in reserve"))
            << end.errors;
    } else {
        EXPECT_TRUE(succeeded(end));
    }
}

TEST(mempool, over_a_cache_and_over_kmalloc) {
    kmem_cache *cache = kmem_cache_create("mempool_test", 200, nullptr, 0);
    mempool_t *pools[] = {mempool_create_slab_pool(4, cache), mempool_create_kmalloc_pool(4, 3000),
                          mempool_create_kvmalloc_pool(2, 10 << 20)};
    mempool_t embedded[3];
    EXPECT_EQ(mempool_init_slab_pool(&embedded[0], 4, cache), 0);
    EXPECT_EQ(mempool_init_kmalloc_pool(&embedded[1], 4, 3000), 0);
    EXPECT_EQ(mempool_init_kvmalloc_pool(&embedded[2], 2, 10 << 20), 0);
    constexpr size_t kSizes[] = {200, 3000, 10 << 20};
    for (int i = 0; i < 3; i++) {
        ASSERT_NE(pools[i], nullptr);
        void *got[6];
        for (void *&p : got) {
            ASSERT_NE(p = mempool_alloc(pools[i], GFP_KERNEL), nullptr);
            memset(p, 1, kSizes[i]);
        }
        void *reserved = mempool_alloc_preallocated(&embedded[i]);
        ASSERT_NE(reserved, nullptr);
        memset(reserved, 1, kSizes[i]);
        for (void *p : got)
            mempool_free(p, pools[i]);
        mempool_free(reserved, &embedded[i]);
        mempool_destroy(pools[i]);
        mempool_exit(&embedded[i]);
    }
    kmem_cache_destroy(cache);
}

TEST(mempool, over_blocks_of_pages) {
    mempool_t *pool = mempool_create_page_pool(3, 2);
    mempool_t embedded;
    EXPECT_EQ(mempool_init_page_pool(&embedded, 1, 0), 0);
    ASSERT_NE(pool, nullptr);
    ::page *got[3];
    for (::page *&block : got) {
        block = static_cast<::page *>(mempool_alloc_preallocated(pool));
        ASSERT_NE(block, nullptr);
        memset(page_address(block), 1, 4 * PAGE_SIZE);
    }
    EXPECT_EQ(mempool_alloc_preallocated(pool), nullptr);
    for (::page *block : got)
        mempool_free(block, pool);
    void *one = mempool_alloc(&embedded, GFP_KERNEL);
    EXPECT_NE(one, nullptr);
    mempool_free(one, &embedded);
    mempool_exit(&embedded);
    mempool_destroy(pool);
}

TEST(mempool, knows_how_large_the_ready_made_elements_are) {
    child_end end = in_child([] {
        mempool_t *pool = mempool_create(1, mempool_kmalloc, mempool_kfree,
                                         reinterpret_cast<void *>(size_t{100}));
        char *element = static_cast<char *>(mempool_alloc_preallocated(pool));
        mempool_free(element, pool);
        element[99] = 0;
        mempool_destroy(pool);
    });
    EXPECT_EQ(end.signal(), kDebug ? SIGABRT : 0);
    EXPECT_EQ(end.said("of 100 bytes was written at offset 99"), kDebug) << end.errors;
}

// Against the contract in numbers: what is out, what is in reserve, what the source holds.
TEST(mempool, agrees_with_a_model) {
    random_numbers random(4);
    source s;
    constexpr int kStart = 7;
    mempool_t *pool = make(s, kStart);
    int min = kStart;
    int reserve = kStart;
    std::unordered_set<void *> out;
    for (uint64_t i = 0; i < operations() / 5; i++) {
        switch (random.below(8)) {
        default: {
            s.bound = random.one_in(2) ? 0 : 1 << 30;
            void *element = mempool_alloc(pool, GFP_NOWAIT);
            if (element == nullptr) {
                ASSERT_EQ(reserve, 0);
                ASSERT_EQ(s.bound, 0);
                break;
            }
            reserve -= s.bound == 0;
            ASSERT_TRUE(out.insert(element).second) << "handed out twice";
            memset(element, 1, kBytes);
            break;
        }
        case 3:
        case 4:
        case 5:
        case 6:
            if (!out.empty()) {
                mempool_free(*out.begin(), pool);
                out.erase(out.begin());
                reserve += reserve < min;
            }
            break;
        case 7:
            if (random.one_in(50)) {
                s.bound = 1 << 30;
                int before = min;
                min = static_cast<int>(random.below(20));
                ASSERT_EQ(mempool_resize(pool, min), 0);
                reserve = std::min(min, reserve + std::max(min - before, 0));
            }
        }
        ASSERT_EQ(s.out, reserve + static_cast<int>(out.size()));
    }
    for (void *element : out)
        mempool_free(element, pool);
    mempool_destroy(pool);
    EXPECT_EQ(s.out, 0);
}

TEST(mempool, many_threads_share_a_small_reserve_and_none_starves) {
    source s;
    mempool_t *pool = make(s, 3);
    s.bound = 0; // the reserve is all there is, for four threads
    std::mutex lock;
    std::unordered_set<void *> out;
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; seed++)
        threads.emplace_back([&, seed] {
            random_numbers random(seed);
            for (int i = 0; i < 20000; i++) {
                void *element = mempool_alloc(pool, random.one_in(3) ? GFP_ATOMIC : GFP_KERNEL);
                if (element == nullptr)
                    continue;
                {
                    std::lock_guard g(lock);
                    EXPECT_TRUE(out.insert(element).second);
                }
                memset(element, static_cast<int>(seed), kBytes);
                if (random.one_in(100))
                    std::this_thread::yield();
                {
                    std::lock_guard g(lock);
                    out.erase(element);
                }
                mempool_free(element, pool);
            }
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(s.out, 3);
    mempool_destroy(pool);
    EXPECT_EQ(s.out, 0);
}

mempool_t *signal_pool;
std::atomic<uint64_t> handled{0};

void allocate_in_handler(int) {
    int kept = errno;
    void *a = mempool_alloc(signal_pool, GFP_ATOMIC);
    void *b = mempool_alloc_preallocated(signal_pool);
    mempool_free(a, signal_pool);
    mempool_free(b, signal_pool);
    handled++;
    errno = kept;
}

TEST(mempool, a_handler_may_interrupt_any_of_it) {
    EXPECT_TRUE(succeeded(in_child([] {
        source s;
        signal_pool = make(s, 2);
        s.bound = 0;
        struct sigaction action = {};
        action.sa_handler = allocate_in_handler;
        sigaction(SIGALRM, &action, nullptr);
        itimerval timer = {{0, 200}, {0, 200}};
        setitimer(ITIMER_REAL, &timer, nullptr);
        while (handled < 1000) {
            void *a = mempool_alloc(signal_pool, GFP_ATOMIC);
            void *b = mempool_alloc(signal_pool, GFP_KERNEL); // nobody else keeps one
            mempool_free(a, signal_pool);
            mempool_free(b, signal_pool);
        }
        timer = {};
        setitimer(ITIMER_REAL, &timer, nullptr);
        EXPECT_EQ(s.out, 2);
        mempool_destroy(signal_pool);
        EXPECT_EQ(s.out, 0);
    })));
}

TEST(mempool, a_child_of_fork_can_use_it) {
    source s;
    mempool_t *pool = make(s, 2);
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        while (!stop) {
            void *element = mempool_alloc(pool, GFP_KERNEL);
            mempool_free(element, pool);
        }
    });
    for (int i = 0; i < 20; i++)
        EXPECT_TRUE(succeeded(in_child([&] {
            void *element = mempool_alloc(pool, GFP_ATOMIC);
            EXPECT_NE(element, nullptr);
            mempool_free(element, pool);
        })));
    stop = true;
    busy.join();
    mempool_destroy(pool);
}

} // namespace
} // namespace pagoda::test
