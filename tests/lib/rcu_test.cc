#include "lib/rcu.h"

#include "lib/heap.h"
#include "lib/percpu.h"
#include "tests/unit.h"

#include <pagoda/slab.h>

#include <atomic>
#include <thread>
#include <vector>

using namespace pagoda::test;
using pagoda::rcu_defer;
using pagoda::rcu_item;
using pagoda::rcu_poll;
using pagoda::rcu_waiting;

namespace {

struct counted {
    rcu_item item;
    std::atomic<int> *done;
};

void count(rcu_item *item) { ++*reinterpret_cast<counted *>(item)->done; }

TEST(Rcu, WhatIsDeferredWaitsForTheSectionsThatWereOpen) {
    pagoda::heap_init();
    std::atomic<int> done{0};
    counted c = {{}, &done};
    int section = pagoda_rcu_read_lock();
    rcu_defer(&c.item, count);
    for (int i = 0; i < 100; i++)
        rcu_poll();
    EXPECT_EQ(done, 0);
    EXPECT_EQ(rcu_waiting(), 1u);
    pagoda_rcu_read_unlock(section);
    pagoda::rcu_barrier();
    EXPECT_EQ(done, 1);
    EXPECT_EQ(rcu_waiting(), 0u);
}

TEST(Rcu, SectionsNestAndLaterOnesDoNotDelay) {
    std::atomic<int> done{0};
    counted c = {{}, &done};
    int outer = pagoda_rcu_read_lock();
    int inner = pagoda_rcu_read_lock();
    rcu_defer(&c.item, count);
    pagoda_rcu_read_unlock(inner);
    for (int i = 0; i < 10; i++)
        rcu_poll();
    EXPECT_EQ(done, 0);
    pagoda_rcu_read_unlock(outer);
    // A reader that always has a section open, but never the same for long.
    std::atomic<bool> stop{false};
    std::thread reader([&] {
        int section = pagoda_rcu_read_lock();
        while (!stop) {
            int next = pagoda_rcu_read_lock();
            pagoda_rcu_read_unlock(section);
            section = next;
        }
        pagoda_rcu_read_unlock(section);
    });
    pagoda::rcu_barrier();
    EXPECT_EQ(done, 1);
    stop = true;
    reader.join();
}

TEST(Rcu, SynchronizeWaits) {
    std::atomic<int> state{0};
    std::thread reader([&] {
        int section = pagoda_rcu_read_lock();
        state = 1;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        state = 2;
        pagoda_rcu_read_unlock(section);
    });
    while (state == 0)
        std::this_thread::yield();
    pagoda_synchronize_rcu();
    EXPECT_EQ(state, 2);
    reader.join();
}

struct blocking {
    rcu_item item;
    std::atomic<int> step; // 1: somebody is at it, 2: who may go on, 3: he has
};

void block(rcu_item *item) {
    auto *b = reinterpret_cast<blocking *>(item);
    b->step = 1;
    while (b->step != 2)
        std::this_thread::yield();
    b->step = 3;
}

// Another thread that deals with `b` until it may go on.
std::thread at_work_on(blocking &b) {
    rcu_defer(&b.item, block);
    std::thread worker(pagoda::rcu_barrier);
    while (b.step != 1)
        std::this_thread::yield();
    return worker;
}

// Defers itself again, so that one grace period follows the other.
struct chain {
    rcu_item item;
    int left;
};

void defer_again(rcu_item *item) {
    auto *c = reinterpret_cast<chain *>(item);
    if (c->left-- > 0)
        rcu_defer(&c->item, defer_again);
}

TEST(Rcu, ABarrierWaitsForWhatAnotherThreadDealsWith) {
    blocking slow = {};
    std::thread worker = at_work_on(slow);
    std::atomic<bool> ended{false};
    chain busy = {{}, 5};
    std::thread waiter([&] {
        rcu_defer(&busy.item, defer_again);
        pagoda::rcu_barrier();
        EXPECT_EQ(slow.step, 3) << "it was deferred before";
        ended = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(ended);
    slow.step = 2;
    worker.join();
    waiter.join();
    pagoda::rcu_barrier();
}

// The child has not got the thread that was dealing with an item.
TEST(Rcu, AChildOfForkWaitsForNoThreadOfItsParents) {
    blocking slow = {};
    std::thread worker = at_work_on(slow);
    pagoda::heap_before_fork();
    child_end end = in_child(
        [] {
            pagoda::heap_after_fork(true);
            EXPECT_EQ(rcu_waiting(), 0u);
            kfree_rcu_mightsleep(kmalloc(64, GFP_KERNEL));
            kvfree_rcu_barrier();
            EXPECT_EQ(rcu_waiting(), 0u);
        },
        60);
    pagoda::heap_after_fork(false);
    EXPECT_TRUE(succeeded(end));
    slow.step = 2;
    worker.join();
}

// What began before fork ends in the child, but is no section of the child's.
TEST(Rcu, ASectionThatWasOpenAtForkIsNotTakenForALaterOne) {
    int before = pagoda_rcu_read_lock();
    pagoda::heap_before_fork();
    child_end end = in_child([=] {
        pagoda::heap_after_fork(true);
        pagoda_rcu_read_unlock(before);
        int section = pagoda_rcu_read_lock();
        std::atomic<int> done{0};
        counted c = {{}, &done};
        rcu_defer(&c.item, count);
        for (int i = 0; i < 10; i++)
            rcu_poll();
        EXPECT_EQ(done, 0);
        pagoda_rcu_read_unlock(section);
        pagoda::rcu_barrier();
        EXPECT_EQ(done, 1);
    });
    pagoda::heap_after_fork(false);
    pagoda_rcu_read_unlock(before);
    EXPECT_TRUE(succeeded(end));
}

struct node {
    long value;
    struct rcu_head rcu;
    char tail[100];
};

TEST(KfreeRcu, ObjectsStayReadableUntilTheSectionEnds) {
    auto *p = static_cast<node *>(kmalloc(sizeof(node), GFP_KERNEL));
    auto *large = static_cast<node *>(kvmalloc(8 << 20, GFP_KERNEL));
    auto *plain = static_cast<long *>(kmalloc(64, GFP_KERNEL));
    p->value = large->value = *plain = 42;
    int section = pagoda_rcu_read_lock();
    kfree_rcu(p, rcu);
    kvfree_rcu(large, rcu);
    kfree_rcu_mightsleep(plain);
    for (int i = 0; i < 1000; i++)
        kfree(kmalloc(sizeof(node), GFP_KERNEL));
    EXPECT_EQ(p->value, 42);
    EXPECT_EQ(large->value, 42);
    EXPECT_EQ(*plain, 42);
    pagoda_rcu_read_unlock(section);
    kvfree_rcu_barrier();
    EXPECT_EQ(rcu_waiting(), 0u);
    EXPECT_EQ(ksize(large), 0u) << "it is free";
    kfree_rcu_mightsleep(nullptr);
    kfree_rcu_mightsleep(ZERO_SIZE_PTR);
}

TEST(KfreeRcu, AHeadFarInsideIsReported) {
    child_end end = in_child([] {
        auto *p = static_cast<char *>(kmalloc(8192, GFP_KERNEL));
        pagoda_kfree_rcu(p, p + 4096);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("kfree_rcu of")) << end.errors;
}

TEST(KfreeRcu, ProgressesByAllocationsAlone) {
    for (int i = 0; i < 100; i++) {
        auto *p = static_cast<node *>(kmalloc(sizeof(node), GFP_KERNEL));
        kfree_rcu(p, rcu);
    }
    std::vector<void *> held;
    while (rcu_waiting() != 0 && held.size() < 1'000'000) // slow paths among them
        held.push_back(kmalloc(sizeof(node), GFP_KERNEL));
    EXPECT_EQ(rcu_waiting(), 0u);
    for (void *p : held)
        kfree(p);
}

// Readers follow a pointer that a writer replaces: what they find must be whole.
TEST(KfreeRcu, ReadersNeverSeeFreedMemory) {
    static std::atomic<node *> shared;
    shared = static_cast<node *>(kzalloc(sizeof(node), GFP_KERNEL));
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    for (int i = 0; i < 2; i++) {
        readers.emplace_back([&] {
            while (!stop) {
                int section = pagoda_rcu_read_lock();
                node *n = shared.load(std::memory_order_acquire);
                long value = n->value;
                for (int k = 0; k < 20; k++)
                    ASSERT_EQ(reinterpret_cast<volatile node *>(n)->value, value);
                ASSERT_GE(value, 0);
                pagoda_rcu_read_unlock(section);
            }
        });
    }
    for (long i = 1; i < 20000; i++) {
        auto *n = static_cast<node *>(kzalloc(sizeof(node), GFP_KERNEL));
        n->value = i;
        node *old = shared.exchange(n, std::memory_order_acq_rel);
        kfree_rcu(old, rcu);
        if (i % 64 == 0)
            rcu_poll();
        auto *dirty = static_cast<node *>(kmalloc(sizeof(node), GFP_KERNEL));
        dirty->value = -1; // what a freed one would turn into
        kfree(dirty);
    }
    stop = true;
    for (std::thread &t : readers)
        t.join();
    kfree(shared.load());
    kvfree_rcu_barrier();
}

TEST(TypesafeByRcu, PagesStayTheCachesUntilTheSectionEnds) {
    child_end end = in_child([] {
        struct kmem_cache *c =
            kmem_cache_create("typesafe", 128, nullptr, SLAB_TYPESAFE_BY_RCU | SLAB_NO_MERGE);
        std::vector<long *> held;
        for (int i = 0; i < 2000; i++) {
            held.push_back(static_cast<long *>(kmem_cache_alloc(c, GFP_KERNEL)));
            *held.back() = 7;
        }
        int section = pagoda_rcu_read_lock();
        for (long *p : held)
            kmem_cache_free(c, p);
        kmem_cache_shrink(c);
        for (long *p : held)
            ASSERT_EQ(*p, 7) << "freed, but nobody else's yet";
        EXPECT_EQ(ksize(held[0]), 128u) << "still this cache's memory";
        pagoda_rcu_read_unlock(section);
        kmem_cache_destroy(c);
        EXPECT_EQ(ksize(held[0]), 0u);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(TypesafeByRcu, ACacheWithEmptySlabsCanBeDestroyed) {
    child_end end = in_child(
        [] {
            struct kmem_cache *c =
                kmem_cache_create("typesafe", 128, nullptr, SLAB_TYPESAFE_BY_RCU);
            long *p = static_cast<long *>(kmem_cache_alloc(c, GFP_KERNEL));
            kmem_cache_free(c, p);
            kmem_cache_destroy(c);
            EXPECT_EQ(ksize(p), 0u);
        },
        20);
    EXPECT_TRUE(succeeded(end));
}

// A handler that comes while its slabs go must see that its thread is inside the allocator.
TEST(TypesafeByRcu, SlabsGoInASlowPath) {
    child_end end = in_child([] {
        static int destructed;
        kmem_cache_args args = {};
        args.dtor = [](void *) {
            destructed++;
            EXPECT_NE(pagoda::t_thread.depth, 0);
        };
        struct kmem_cache *c = kmem_cache_create("typesafe", 128, &args, SLAB_TYPESAFE_BY_RCU);
        kmem_cache_free(c, kmem_cache_alloc(c, GFP_KERNEL));
        kmem_cache_shrink(c);
        pagoda::rcu_barrier();
        EXPECT_GT(destructed, 0);
        kmem_cache_destroy(c);
    });
    EXPECT_TRUE(succeeded(end));
}

int locks = 0;
int synchronizes = 0;
int calls = 0;

TEST(RcuOps, AnotherImplementationIsUsedAndTooLateIsSaid) {
    child_end end = in_child([] {
        pagoda_rcu_ops ops = {};
        EXPECT_FALSE(pagoda_rcu_set_ops(nullptr));
        EXPECT_FALSE(pagoda_rcu_set_ops(&ops));
    });
    EXPECT_TRUE(succeeded(end));
    // A process in which nothing was deferred yet: this one has.
    pagoda_rcu_ops ops = {[] { return ++locks; }, [](int) { locks--; }, [] { synchronizes++; },
                          [](rcu_head *head, void (*fn)(rcu_head *)) {
                              calls++;
                              fn(head);
                          }};
    EXPECT_FALSE(pagoda_rcu_set_ops(&ops));
}

} // namespace

// Before anything else of this program could defer.
int main(int argc, char **argv) {
    ::testing::InitGoogleTest(&argc, argv);
    child_end end = in_child([] {
        pagoda_rcu_ops ops = {[] { return ++locks; }, [](int) { locks--; }, [] { synchronizes++; },
                              [](rcu_head *head, void (*fn)(rcu_head *)) {
                                  calls++;
                                  fn(head);
                              }};
        bool set = pagoda_rcu_set_ops(&ops);
        int section = pagoda_rcu_read_lock();
        bool locked = locks == 1;
        pagoda_rcu_read_unlock(section);
        kfree_rcu_mightsleep(kmalloc(64, GFP_KERNEL));
        kvfree_rcu_barrier();
        pagoda_synchronize_rcu();
        if (!set || !locked || locks != 0 || calls == 0 || synchronizes != 1 || rcu_waiting() != 0)
            _exit(9);
    });
    if (!end.succeeded()) {
        fprintf(stderr, "another implementation was not used: status %d\n%s", end.status,
                end.errors.c_str());
        return 1;
    }
    return RUN_ALL_TESTS();
}
