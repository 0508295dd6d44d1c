// The adapter with liburcu itself.
#include <urcu-bp.h>

#include <pagoda/slab.h>
#include <pagoda/urcu.h>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/unit.h"

namespace {

using pagoda::test::in_child;
using pagoda::test::succeeded;

struct node {
    int value;
    rcu_head rcu;
};

// Readers of liburcu that know nothing of Pagoda hold up what kfree_rcu frees.
void readers_are_waited_for() {
    if (!pagoda_urcu_bind())
        std::_Exit(2);
    auto *shared = kmalloc_obj(node, GFP_KERNEL);
    shared->value = 42;
    std::atomic<int> step = 0;
    std::thread reader([&] {
        urcu_bp_read_lock();
        step = 1;
        while (step != 2)
            std::this_thread::yield();
        if (shared->value != 42)
            std::_Exit(3);
        urcu_bp_read_unlock();
    });
    while (step != 1)
        std::this_thread::yield();
    kfree_rcu(shared, rcu);
    std::atomic<bool> ended = false;
    std::thread waiter([&] {
        kvfree_rcu_barrier();
        ended = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (ended)
        std::_Exit(4);
    step = 2;
    reader.join();
    waiter.join();
    if (!ended)
        std::_Exit(5);
}

TEST(Urcu, ReadersAreWaitedFor) { EXPECT_TRUE(succeeded(in_child(readers_are_waited_for))); }

TEST(Urcu, SectionsOfPagodaAreLiburcus) {
    EXPECT_TRUE(succeeded(in_child([] {
        if (!pagoda_urcu_bind() || urcu_bp_read_ongoing())
            std::_Exit(2);
        const int outer = pagoda_rcu_read_lock();
        const int inner = pagoda_rcu_read_lock();
        if (!urcu_bp_read_ongoing())
            std::_Exit(3);
        pagoda_rcu_read_unlock(inner);
        if (!urcu_bp_read_ongoing())
            std::_Exit(4);
        pagoda_rcu_read_unlock(outer);
        if (urcu_bp_read_ongoing())
            std::_Exit(5);
        pagoda_synchronize_rcu();
    })));
}

TEST(Urcu, TooLateIsSaid) {
    EXPECT_TRUE(succeeded(in_child([] {
        kfree_rcu_mightsleep(kmalloc(64, GFP_KERNEL));
        if (pagoda_urcu_bind())
            std::_Exit(2);
    })));
}

} // namespace
