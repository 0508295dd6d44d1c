#include "hugepage/lock.h"

#include "tests/unit.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::succeeded;

TEST(LockTest, IsHeldBetweenLockAndUnlock) {
    mutex m{lock_rank::zone};
    EXPECT_FALSE(m.is_locked());
    m.lock();
    EXPECT_TRUE(m.is_locked());
    m.unlock();
    EXPECT_FALSE(m.is_locked());
    {
        lock_guard g(m);
        EXPECT_TRUE(m.is_locked());
    }
    EXPECT_FALSE(m.is_locked());
}

TEST(LockTest, TryLockBrieflyGivesUp) {
    mutex m{lock_rank::zone};
    EXPECT_TRUE(m.try_lock_briefly());
    bool got = true;
    std::thread([&] { got = m.try_lock_briefly(); }).join();
    EXPECT_FALSE(got);
    m.unlock();
    EXPECT_TRUE(m.try_lock_briefly());
    m.unlock();
}

TEST(LockTest, TryLockNeverWaits) {
    mutex m{lock_rank::zone};
    EXPECT_TRUE(m.try_lock());
    bool got = true;
    std::thread([&] { got = m.try_lock(); }).join();
    EXPECT_FALSE(got);
    m.unlock();
    EXPECT_TRUE(m.try_lock());
    m.unlock();
}

TEST(LockTest, OneThreadAtATime) {
    constexpr int kThreads = 4;
    constexpr int kTurns = 50'000;
    mutex m{lock_rank::cache};
    uint64_t plain = 0; // no atomic: only the lock keeps the sum right
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; i++)
        threads.emplace_back([&] {
            for (int turn = 0; turn < kTurns; turn++) {
                lock_guard g(m);
                plain++;
            }
        });
    for (auto &t : threads)
        t.join();
    EXPECT_EQ(plain, uint64_t{kThreads} * kTurns);
    EXPECT_FALSE(m.is_locked());
}

TEST(LockTest, TryLockExcludesLikeLock) {
    mutex m{lock_rank::cache};
    uint64_t plain = 0;
    std::atomic<uint64_t> got{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&] {
            for (int turn = 0; turn < 50'000; turn++) {
                if (!m.try_lock())
                    continue;
                plain++;
                got++;
                m.unlock();
            }
        });
    for (auto &t : threads)
        t.join();
    EXPECT_GT(plain, 0u);
    EXPECT_EQ(plain, got.load());
}

TEST(LockTest, WakesEveryoneWhoSleeps) {
    mutex m{lock_rank::vmalloc};
    std::atomic<int> through{0};
    m.lock();
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++)
        threads.emplace_back([&] {
            lock_guard g(m);
            through++;
        });
    std::this_thread::sleep_for(std::chrono::milliseconds(50)); // far longer than anyone spins
    EXPECT_EQ(through.load(), 0);
    m.unlock();
    for (auto &t : threads)
        t.join();
    EXPECT_EQ(through.load(), 3);
    EXPECT_FALSE(m.is_locked());
}

TEST(LockTest, AscendingRanksAreFine) {
    auto end = in_child([] {
        mutex low{lock_rank::init};
        mutex middle{lock_rank::zone};
        mutex high{lock_rank::report};
        for (int i = 0; i < 2; i++) {
            lock_guard a(low);
            lock_guard b(middle);
            lock_guard c(high);
        }
    });
    EXPECT_TRUE(succeeded(end));
}

// Debug builds die of what release builds do not look at.
void expect_debug_death(const test::child_end &end) {
    if (!kDebug) {
        EXPECT_TRUE(succeeded(end));
        return;
    }
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("pagoda: internal invariant broken: ")) << end.errors;
    EXPECT_TRUE(end.said("lock.cc:")) << end.errors;
    EXPECT_EQ(end.lines(), 1u);
}

TEST(LockTest, DescendingRanksDieInDebug) {
    expect_debug_death(in_child([] {
        mutex low{lock_rank::cache};
        mutex high{lock_rank::zone};
        lock_guard a(high);
        lock_guard b(low);
    }));
}

TEST(LockTest, TwoLocksOfOneRankDieInDebug) {
    expect_debug_death(in_child([] {
        mutex one{lock_rank::cache};
        mutex other{lock_rank::cache};
        lock_guard a(one);
        lock_guard b(other);
    }));
}

TEST(LockTest, UnlockingWhatIsNotHeldDiesInDebug) {
    expect_debug_death(in_child([] {
        mutex m{lock_rank::cache};
        m.unlock();
    }));
}

TEST(LockTest, TryLockMayGoAgainstTheOrder) {
    auto end = in_child([] {
        mutex low{lock_rank::cache};
        mutex high{lock_rank::zone};
        lock_guard a(high);
        EXPECT_TRUE(low.try_lock()); // it cannot deadlock
        low.unlock();
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(LockTest, ForkHoldsSeveralOfOneRank) {
    mutex one{lock_rank::cache};
    mutex other{lock_rank::cache};
    one.lock_for_fork();
    other.lock_for_fork();
    auto end = in_child([&] {
        one.reset_in_child();
        other.reset_in_child();
        EXPECT_FALSE(one.is_locked());
        lock_guard g(one);
        EXPECT_TRUE(one.is_locked());
        EXPECT_FALSE(other.is_locked());
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(one.is_locked());
    std::atomic<bool> through{false};
    std::thread waiter([&] {
        lock_guard g(one);
        through = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(through);
    one.unlock_after_fork();
    waiter.join();
    EXPECT_TRUE(through);
    other.unlock_after_fork();
    EXPECT_FALSE(other.is_locked());
}

TEST(LockTest, ForkWaitsForWhoeverHoldsIt) {
    mutex m{lock_rank::zone};
    m.lock();
    std::atomic<bool> through{false};
    std::thread forker([&] {
        m.lock_for_fork();
        through = true;
        m.unlock_after_fork();
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(through);
    m.unlock();
    forker.join();
    EXPECT_TRUE(through);
}

} // namespace
} // namespace pagoda
