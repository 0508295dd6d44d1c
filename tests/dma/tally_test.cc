#include "dma/tally.h"

#include "tests/unit.h"

#include <thread>
#include <vector>

namespace pagoda::dma {
namespace {

TEST(Tally, CountsUpAndDown) {
    tally *t = tally::create();
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->sum(), 0);
    t->add(5);
    t->add(-7);
    EXPECT_EQ(t->sum(), -2);
    tally *other = tally::create();
    other->add(1);
    EXPECT_EQ(t->sum(), -2);
    EXPECT_EQ(other->sum(), 1);
    tally::destroy(other);
    tally::destroy(t);
}

// More threads at once than have a line, several times: lines are given to the next ones.
TEST(Tally, LosesNothingOfManyThreads) {
    tally *t = tally::create();
    for (int round = 0; round < 3; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 100; i++)
            threads.emplace_back([t] {
                for (int k = 0; k < 2000; k++) {
                    t->add(3);
                    t->add(-1);
                }
            });
        for (std::thread &thread : threads)
            thread.join();
        EXPECT_EQ(t->sum(), (round + 1) * 100 * 2000 * 2);
    }
    tally::destroy(t);
}

tally *in_handler;
volatile int handled;
TEST(Tally, LosesNothingOfASignalHandler) {
    in_handler = tally::create();
    struct sigaction before, action = {};
    action.sa_handler = [](int) {
        in_handler->add(1);
        handled = handled + 1;
    };
    sigaction(SIGALRM, &action, &before);
    itimerval often = {{0, 50}, {0, 50}}, never = {};
    setitimer(ITIMER_REAL, &often, nullptr);
    for (int i = 0; i < 3'000'000; i++)
        in_handler->add(2);
    setitimer(ITIMER_REAL, &never, nullptr);
    sigaction(SIGALRM, &before, nullptr);
    EXPECT_EQ(in_handler->sum(), 6'000'000 + handled);
    tally::destroy(in_handler);
}

} // namespace
} // namespace pagoda::dma
