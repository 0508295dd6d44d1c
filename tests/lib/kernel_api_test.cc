#include "lib/kernel_api.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/kmem_cache.h"
#include "tests/unit.h"

#include <atomic>
#include <chrono>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <time.h>

namespace pagoda::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// From here on any system call but those that look at the faults, say what failed and end the
// process is its end.
void forbid_system_calls() {
#define ALLOW(nr)                                                                                  \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        ALLOW(SYS_getrusage),
        ALLOW(SYS_write),
        ALLOW(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
#undef ALLOW
    sock_fprog program = {sizeof code / sizeof code[0], code};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

long faults() {
    rusage use = {};
    getrusage(RUSAGE_SELF, &use);
    return use.ru_minflt + use.ru_majflt;
}

// Allocates and frees at random, objects and pages of all sizes, some hundred KiB at a time, and
// writes to every page of what it gets.
class workload {
  public:
    explicit workload(uint64_t seed) : random_(seed) {}

    void run(uint64_t operations) {
        for (uint64_t i = 0; i < operations; i++) {
            block &b = blocks_[random_.below(kBlocks)];
            if (b.at != nullptr)
                give_back(b);
            else
                take(b);
        }
    }
    void stop() {
        for (block &b : blocks_)
            if (b.at != nullptr)
                give_back(b);
    }
    uint64_t taken() const { return taken_; }
    uint64_t refused() const { return refused_; }

  private:
    static constexpr size_t kBlocks = 24;
    static constexpr size_t kBudget = 512 << 10;
    struct block {
        char *at;
        size_t bytes;
        uint32_t pages; // of the zone; 0: an object
    };

    void take(block &b) {
        b.pages = random_.one_in(8) ? 1u << random_.below(5) : 0;
        b.bytes = b.pages != 0 ? b.pages * kPageSize : random_.skewed(18);
        if (held_ + b.bytes > kBudget)
            return;
        if (b.pages != 0) {
            page_state state;
            uint32_t first = zone_normal().alloc(b.pages, order_of(b.pages), GFP_ATOMIC, &state);
            b.at = first != kNoPage ? static_cast<char *>(page_address(first)) : nullptr;
        } else {
            b.at = static_cast<char *>(heap_alloc(b.bytes, GFP_ATOMIC));
        }
        if (b.at == nullptr) {
            refused_++;
            return;
        }
        taken_++;
        held_ += b.bytes;
        for (size_t i = 0; i < b.bytes; i += kPageSize)
            b.at[i] = 1;
    }
    void give_back(block &b) {
        if (b.pages != 0)
            zone_normal().free(static_cast<uint32_t>(page_index(b.at)), b.pages, true, GFP_ATOMIC);
        else
            heap_free(b.at, GFP_ATOMIC);
        b.at = nullptr;
        held_ -= b.bytes;
    }

    random_numbers random_;
    block blocks_[kBlocks] = {};
    size_t held_ = 0;
    uint64_t taken_ = 0;
    uint64_t refused_ = 0;
};

TEST(kernel_api, is_not_paid_for_by_programs_that_do_not_use_it) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(heap_init());
        heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
        EXPECT_FALSE(kernel_api_ready());
        EXPECT_EQ(g_kernel_api.small_limit, 0u);
        EXPECT_EQ(heap_get_stats().reserve_bytes, 0u);
        EXPECT_TRUE(kernel_api_enter(GFP_ATOMIC)) << "with what is there";
        EXPECT_FALSE(kernel_api_ready());
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_TRUE(kernel_api_ready());
        EXPECT_EQ(heap_get_stats().reserve_bytes, kDefaultReserve);
        EXPECT_EQ(g_kernel_api.small_limit != 0, !kDebug);
    })));
}

TEST(kernel_api, is_not_begun_in_an_atomic_scope) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(heap_init());
        pagoda_atomic_begin();
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_FALSE(kernel_api_ready());
        pagoda_atomic_end();
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_TRUE(kernel_api_ready());
    })));
}

TEST(kernel_api, has_no_heap_before_somebody_may_block) {
    EXPECT_TRUE(succeeded(in_child([] {
        EXPECT_FALSE(kernel_api_enter(GFP_ATOMIC));
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_TRUE(kernel_api_enter(GFP_ATOMIC));
    })));
}

TEST(kernel_api, is_begun_again_where_fork_came_between) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(heap_init());
        heap_before_fork();
        std::thread first([] { kernel_api_init(); }); // waits for what is locked around fork
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        child_end end = in_child([] {
            heap_after_fork(true);
            EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
            EXPECT_TRUE(kernel_api_ready());
            EXPECT_EQ(heap_get_stats().reserve_bytes, kDefaultReserve);
        });
        heap_after_fork(false);
        first.join();
        EXPECT_TRUE(kernel_api_ready());
        EXPECT_TRUE(succeeded(end));
    })));
}

TEST(kernel_api, stocks_the_reserve_at_once_where_it_is_an_option) {
    EXPECT_TRUE(succeeded(in_child([] {
        setenv("PAGODA_OPTIONS", "reserve=5M", 1);
        ASSERT_TRUE(heap_init());
        EXPECT_EQ(heap_get_stats().reserve_bytes, 6 * kMiB);
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_EQ(heap_get_stats().reserve_bytes, 6 * kMiB);
    })));
}

TEST(kernel_api, refills_the_reserve_in_any_blocking_slow_path) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(kernel_api_enter(GFP_KERNEL));
        while (heap_alloc(kPageSize, GFP_ATOMIC) != nullptr)
            continue;
        EXPECT_LT(heap_get_stats().reserve_bytes, kDefaultReserve);
        EXPECT_TRUE(kernel_api_enter(GFP_ATOMIC));
        EXPECT_LT(heap_get_stats().reserve_bytes, kDefaultReserve);
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_GE(heap_get_stats().reserve_bytes, kDefaultReserve);
    })));
}

// What refilling takes, waiting and system calls, is not for who is in a scope without them.
TEST(kernel_api, refills_no_reserve_where_a_scope_forbids_it) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(kernel_api_enter(GFP_KERNEL));
        while (heap_alloc(kPageSize, GFP_ATOMIC) != nullptr)
            continue;
        uint64_t left = heap_get_stats().reserve_bytes;
        ASSERT_LT(left, kDefaultReserve);
        pagoda_atomic_begin();
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        pagoda_atomic_end();
        unsigned noio = memalloc_noio_save();
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        memalloc_noio_restore(noio);
        EXPECT_TRUE(kernel_api_enter(GFP_NOIO));
        EXPECT_EQ(heap_get_stats().reserve_bytes, left);
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL));
        EXPECT_GE(heap_get_stats().reserve_bytes, kDefaultReserve);
    })));
}

// The promise of GFP_ATOMIC: a million operations without a system call and without a page fault.
TEST(kernel_api, atomic_needs_no_system_call_and_faults_nothing) {
    struct figures {
        long faulted;
        uint64_t taken;
        uint64_t refused;
    };
    auto *seen = static_cast<figures *>(
        mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    EXPECT_TRUE(succeeded(in_child([&] {
        // A heap with a past: objects that were never touched, slabs that are partly used, pages
        // that came back.
        static void *used[3000];
        ASSERT_TRUE(heap_init());
        for (size_t i = 0; i < 3000; i++)
            used[i] = heap_alloc(16 + i * 37 % 100'000, GFP_KERNEL);
        for (size_t i = 0; i < 3000; i += 2)
            heap_free(used[i], GFP_KERNEL);
        ASSERT_TRUE(kernel_api_enter(GFP_KERNEL));
        workload warm(1);
        warm.run(1000);
        warm.stop();
        workload atomic(2);
        seen->faulted = faults();
        forbid_system_calls();
        long before = faults();
        atomic.run(1'000'000);
        atomic.stop();
        *seen = {faults() - before, atomic.taken(), atomic.refused()};
    })));
    EXPECT_EQ(seen->faulted, 0);
    EXPECT_GT(seen->taken, 300'000u);
    EXPECT_LT(seen->refused, seen->taken / 20) << "for want of a long enough run";
    munmap(seen, kPageSize);
}

// Nothing left anywhere: it says so, and soon.
TEST(kernel_api, atomic_fails_in_bounded_time_when_the_reserve_is_used_up) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(kernel_api_enter(GFP_KERNEL));
        forbid_system_calls();
        for (size_t size : {32 * kPageSize, kPageSize, size_t{64}})
            while (heap_alloc(size, GFP_ATOMIC) != nullptr)
                continue;
        for (int i = 0; i < 100'000; i++) {
            EXPECT_EQ(heap_alloc(64 + static_cast<size_t>(i) % 4000, GFP_ATOMIC), nullptr);
            EXPECT_EQ(heap_alloc(kPageSize, GFP_NOWAIT), nullptr);
            EXPECT_EQ(heap_alloc(4 * kMiB, GFP_ATOMIC), nullptr);
        }
    })));
}

// A thread that is stopped while it holds a lock stops no atomic caller, and no free.
TEST(kernel_api, others_go_on_when_a_thread_stops_with_a_lock) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(kernel_api_enter(GFP_KERNEL));
        void *run = heap_alloc(300 * kPageSize / 2, GFP_KERNEL);
        void *page_sized = heap_alloc(2 * kPageSize, GFP_KERNEL);
        std::atomic<int> step{0};
        std::thread stopped([&] {
            lock_guard g(zone_normal().lock());
            step = 1;
            while (step != 2)
                std::this_thread::yield();
        });
        while (step != 1)
            std::this_thread::yield();
        workload atomic(3);
        atomic.run(100'000);
        EXPECT_GT(atomic.taken(), 1000u) << "from the reserve";
        atomic.stop();
        heap_free(run, GFP_KERNEL);
        heap_free(page_sized, GFP_KERNEL);
        step = 2;
        stopped.join();
        EXPECT_TRUE(kernel_api_enter(GFP_KERNEL)); // refills
        void *p = heap_alloc(kMiB / 2, GFP_ATOMIC);
        EXPECT_NE(p, nullptr);
        heap_free(p, GFP_ATOMIC);
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

// The same for a thread stopped at random points, in the allocator or not.
TEST(kernel_api, others_go_on_wherever_a_thread_stops) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(kernel_api_enter(GFP_KERNEL));
        static std::atomic<int> stopped{0}; // rounds
        static std::atomic<int> released{0};
        signal(SIGUSR1, [](int) {
            int round = ++stopped;
            while (released < round)
                continue;
        });
        std::atomic<bool> done{false};
        std::thread busy([&] {
            random_numbers random(5);
            while (!done) {
                void *p = heap_alloc(random.skewed(20), GFP_KERNEL);
                heap_free(p, GFP_KERNEL);
                void *q = heap_alloc(40 * kPageSize + random.below(kMiB), GFP_KERNEL);
                heap_free(q, GFP_KERNEL);
            }
        });
        workload atomic(6);
        for (int round = 0; round < 100; round++) {
            pthread_kill(busy.native_handle(), SIGUSR1);
            while (stopped == round)
                std::this_thread::yield();
            atomic.run(200);
            released++;
            std::this_thread::yield();
        }
        done = true;
        busy.join();
        atomic.stop();
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

} // namespace
} // namespace pagoda::test
