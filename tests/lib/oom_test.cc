#include "lib/oom.h"

#include "tests/unit.h"

#include "lib/heap.h"

#include <pagoda/shrinker.h>

#include <atomic>
#include <errno.h>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

struct noting : notifier_block {
    explicit noting(int order, unsigned long frees = 0, int answer = NOTIFY_OK)
        : notifier_block{call, nullptr, order}, freed(frees), result(answer) {}
    unsigned long freed;
    int result;
    static inline std::vector<int> calls; // priorities in the order of calls

    static int call(struct notifier_block *block, unsigned long action, void *data) {
        auto *self = static_cast<noting *>(block);
        EXPECT_EQ(action, 0u);
        calls.push_back(self->priority);
        *static_cast<unsigned long *>(data) += self->freed;
        return self->result;
    }
};

class oom : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(heap_init());
        noting::calls.clear();
    }
};

TEST_F(oom, notifiers_are_called_by_priority_and_add_up) {
    noting low(-1, 3);
    noting middle(0, 0);
    noting middle_too(0, 1);
    noting high(5, 10);
    for (noting *n : {&middle, &low, &high, &middle_too})
        EXPECT_EQ(register_oom_notifier(n), 0);
    EXPECT_EQ(register_oom_notifier(&low), -EEXIST);
    EXPECT_EQ(call_oom_notifiers(), 14u);
    EXPECT_EQ(noting::calls, std::vector<int>({5, 0, 0, -1}));
    EXPECT_EQ(middle.next, &middle_too) << "first come, first called";
    for (noting *n : {&middle, &low, &high, &middle_too})
        EXPECT_EQ(unregister_oom_notifier(n), 0);
    EXPECT_EQ(unregister_oom_notifier(&low), -ENOENT);
    EXPECT_EQ(call_oom_notifiers(), 0u);
}

TEST_F(oom, one_may_stop_the_chain) {
    noting high(2, 1, NOTIFY_STOP);
    noting low(1, 1);
    register_oom_notifier(&high);
    register_oom_notifier(&low);
    EXPECT_EQ(call_oom_notifiers(), 1u);
    EXPECT_EQ(noting::calls, std::vector<int>({2}));
    unregister_oom_notifier(&high);
    unregister_oom_notifier(&low);
}

TEST_F(oom, one_may_unregister_itself_and_the_next) {
    static noting third(1);
    static noting second(2);
    notifier_block first = {[](struct notifier_block *self, unsigned long, void *) {
                                EXPECT_EQ(unregister_oom_notifier(&second), 0);
                                EXPECT_EQ(unregister_oom_notifier(self), 0);
                                return NOTIFY_OK;
                            },
                            nullptr, 3};
    register_oom_notifier(&first);
    register_oom_notifier(&second);
    register_oom_notifier(&third);
    call_oom_notifiers();
    EXPECT_EQ(noting::calls, std::vector<int>({1}));
    unregister_oom_notifier(&third);
}

// Unregistering waits for a call under way; a second caller waits for the first one's walk.
TEST_F(oom, others_wait_for_a_walk) {
    struct slow : notifier_block {
        std::atomic<bool> inside{false};
        std::atomic<bool> go_on{false};
        std::atomic<unsigned> calls{0};
    };
    static slow block;
    block.notifier_call = [](struct notifier_block *, unsigned long, void *data) {
        block.calls++;
        block.inside = true;
        while (!block.go_on)
            std::this_thread::yield();
        block.inside = false;
        *static_cast<unsigned long *>(data) += 5;
        return NOTIFY_OK;
    };
    register_oom_notifier(&block);
    std::atomic<uint64_t> second_freed{0};
    std::atomic<bool> asked{false};
    std::thread walker([] { EXPECT_EQ(call_oom_notifiers(), 5u); });
    while (!block.inside)
        std::this_thread::yield();
    std::thread second([&] {
        asked = true;
        second_freed = call_oom_notifiers();
    });
    std::thread leaver([&] {
        EXPECT_EQ(unregister_oom_notifier(&block), 0);
        EXPECT_FALSE(block.inside);
    });
    while (!asked)
        std::this_thread::yield();
    usleep(10000); // most likely it waits now; if not, it finds the chain empty
    block.go_on = true;
    walker.join();
    second.join();
    leaver.join();
    EXPECT_EQ(block.calls, 1u);
    EXPECT_LE(second_freed, 1u);
}

TEST_F(oom, a_fork_child_does_not_wait_for_its_parents_walk) {
    struct slow : notifier_block {
        std::atomic<bool> inside{false};
        std::atomic<bool> go_on{false};
    };
    static slow block;
    block.notifier_call = [](struct notifier_block *, unsigned long, void *) {
        block.inside = true;
        while (!block.go_on)
            std::this_thread::yield();
        return NOTIFY_OK;
    };
    register_oom_notifier(&block);
    std::thread walker([] { call_oom_notifiers(); });
    while (!block.inside)
        std::this_thread::yield();
    heap_before_fork();
    child_end end = in_child(
        [] {
            heap_after_fork(true);
            block.go_on = true;
            EXPECT_EQ(call_oom_notifiers(), 0u);
            EXPECT_EQ(unregister_oom_notifier(&block), 0);
        },
        60);
    heap_after_fork(false);
    EXPECT_TRUE(succeeded(end));
    block.go_on = true;
    walker.join();
    unregister_oom_notifier(&block);
}

} // namespace
} // namespace pagoda::test
