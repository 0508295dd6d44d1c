#include "lib/reclaim.h"

#include "tests/unit.h"

#include "hugepage/zone.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/percpu.h"
#include "lib/shrinker.h"
#include "lib/thread.h"

#include <pagoda/shrinker.h>

#include <atomic>
#include <chrono>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <mutex>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <ucontext.h>

namespace pagoda::test {
namespace {

constexpr gfp_t kQuiet = GFP_KERNEL | __GFP_NOWARN;
constexpr gfp_t kFill = kQuiet | __GFP_NORETRY;

// Blocks that a program could do without, linked through themselves: libc has no memory either.
struct blocks {
    struct block {
        block *next;
    };
    std::mutex lock;
    block *first = nullptr;
    unsigned long count = 0;

    void add(void *p) {
        auto *b = static_cast<block *>(p);
        b->next = first;
        first = b;
        count++;
    }
    void *take() {
        block *b = first;
        if (b == nullptr)
            return nullptr;
        first = b->next;
        count--;
        return b;
    }
    // Until memory is short.
    void fill(size_t size) {
        while (void *p = heap_alloc(size, kFill))
            add(p);
    }
    void free_all() {
        while (void *p = take())
            heap_free(p, GFP_KERNEL);
    }
};

// Shrinks a set of blocks, or nothing: `objects` that it never frees.
struct fixture {
    blocks *keeps = nullptr;
    unsigned long objects = 0;
    unsigned long pretends = 0; // to free
    std::atomic<unsigned> counts{0};
    std::atomic<unsigned> scans{0};
    std::mutex *takes = nullptr; // a lock that the callbacks take

    explicit fixture(unsigned flags = 0) : shrinker_(shrinker_alloc(flags, "reclaim_test")) {
        shrinker_->private_data = this;
        shrinker_->count_objects = count;
        shrinker_->scan_objects = scan;
        shrinker_register(shrinker_);
    }
    ~fixture() { shrinker_free(shrinker_); }
    fixture(const fixture &) = delete;
    fixture &operator=(const fixture &) = delete;

  private:
    static unsigned long count(struct shrinker *s, struct shrink_control *) {
        auto &f = *static_cast<fixture *>(s->private_data);
        f.counts++;
        return f.keeps != nullptr ? f.keeps->count : f.objects;
    }
    static unsigned long scan(struct shrinker *s, struct shrink_control *sc) {
        auto &f = *static_cast<fixture *>(s->private_data);
        f.scans++;
        if (f.takes != nullptr)
            f.takes->lock();
        unsigned long freed = f.pretends;
        for (unsigned long i = 0; f.keeps != nullptr && i < sc->nr_to_scan; i++)
            if (void *p = f.keeps->take()) {
                heap_free(p, GFP_KERNEL);
                freed++;
            }
        if (f.takes != nullptr)
            f.takes->unlock();
        return freed;
    }

    struct shrinker *shrinker_;
};

bool limit_option = false; // in force from the start

// Lets this process have so many bytes more than now.
void allow_more(size_t bytes) {
    if (!limit_option)
        limit(RLIMIT_AS, process_figure("VmSize") + bytes);
}

struct tried {
    unsigned attempts;
    uint64_t rounds;
    bool operator==(const tried &) const = default;
};
std::ostream &operator<<(std::ostream &out, const tried &t) {
    return out << t.attempts << " attempts, " << t.rounds << " rounds";
}

// An allocation that cannot succeed.
tried fail(gfp_t gfp, uint64_t bytes) {
    unsigned attempts = 0;
    uint64_t before = reclaim_get_stats().rounds;
    void *p = with_reclaim(gfp, bytes, [&]() -> void * {
        attempts++;
        return nullptr;
    });
    EXPECT_EQ(p, nullptr);
    return {attempts, reclaim_get_stats().rounds - before};
}

// Sizes of all kinds at a limit: each succeeds once a shrinker frees, and fails only when nothing
// is left to free.
void succeed_while_shrinkers_can_free(size_t size) {
    heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
    static blocks kept;
    fixture f;
    allow_more(size_t{32} << 20);
    kept.fill(20000);
    unsigned long had = kept.count;
    EXPECT_GT(had, 500u);
    f.keeps = &kept;
    static blocks got;
    size_t bytes = 0;
    for (; void *p = heap_alloc(size, kQuiet); bytes += size)
        got.add(p);
    EXPECT_EQ(kept.count, 0u) << "it failed before everything was tried";
    EXPECT_GT(bytes, had * 20000 / 2);
    got.free_all();
    void *again = heap_alloc(size, kQuiet);
    EXPECT_NE(again, nullptr);
    heap_free(again, GFP_KERNEL);
}

constexpr size_t kSizes[] = {64, 5000, 50000, 700000, size_t{3} << 20};

// How a NOFAIL allocation ends when another thread frees. Returns the shortest of several waits
// between the two: what else the machine does only makes them longer.
template <class Free> double shortest_wait(size_t size, Free free_one) {
    heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
    using clock = std::chrono::steady_clock;
    static blocks kept;
    static std::atomic<int> turn{0};
    static clock::time_point freed_at;
    constexpr int kTimes = 10;
    std::thread other([&] {
        for (int i = 0; i < kTimes; i++) {
            while (turn < 2 * i + 1)
                std::this_thread::yield();
            uint64_t waits = reclaim_get_stats().waits;
            while (reclaim_get_stats().waits < waits + 3) // it does wait
                usleep(1000);
            freed_at = clock::now();
            free_one(kept.take());
            while (turn < 2 * i + 2)
                usleep(1000);
        }
    });
    allow_more(size_t{16} << 20);
    kept.fill(size);
    double shortest = 1e9;
    for (int i = 0; i < kTimes; i++) {
        while (void *p = heap_alloc(size, kFill)) // what a free left in the caches
            kept.add(p);
        turn = 2 * i + 1;
        void *p = heap_alloc(size, GFP_KERNEL | __GFP_NOFAIL);
        std::chrono::duration<double, std::milli> took = clock::now() - freed_at;
        EXPECT_NE(p, nullptr);
        kept.add(p);
        shortest = min_of(shortest, took.count());
        turn = 2 * i + 2;
    }
    other.join();
    kept.free_all();
    return shortest;
}

volatile sig_atomic_t trapped = 0;

// Counts the calls of madvise and munmap that give memory back; they fail.
void trap_giving_back() {
    struct sigaction act = {};
    act.sa_handler = [](int) { trapped = trapped + 1; };
    sigaction(SIGSYS, &act, nullptr);
    // MADV_POPULATE_READ and MADV_POPULATE_WRITE belong to growth.
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 22, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    sock_fprog program = {sizeof code / sizeof code[0], code};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

// Everything that would give memory back: frees beyond the bound, areas, a limit that is reached.
void use_and_free(gfp_t gfp) {
    static blocks held;
    for (size_t size : {size_t{200}, size_t{20000}, size_t{300000}, size_t{2} << 20})
        for (int round = 0; round < 2; round++) {
            while (void *p = heap_alloc(size, gfp | __GFP_NOWARN))
                held.add(p);
            held.free_all();
        }
}

void keep_memory_without_io(bool scope) {
    heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
    heap_free(heap_alloc(size_t{4} << 20, GFP_KERNEL), GFP_KERNEL);
    fixture io(SHRINKER_IO);
    fixture plain;
    io.objects = plain.objects = 1000;
    allow_more(size_t{64} << 20);
    trap_giving_back();
    unsigned opened = memalloc_noio_save(); // for the frees
    use_and_free(scope ? GFP_KERNEL : GFP_NOIO);
    memalloc_noio_restore(opened);
    EXPECT_EQ(trapped, 0);
    EXPECT_EQ(io.counts, 0u);
    EXPECT_NE(plain.counts, 0u);
    use_and_free(GFP_KERNEL);
    EXPECT_NE(trapped, 0);
    EXPECT_NE(io.counts, 0u);
}

// At Pagoda's own bound. It is read when the heap starts, so these tests come first.
template <class Body> child_end under_limit_option(const char *options, Body body) {
    return in_child([&] {
        EXPECT_FALSE(heap_ready());
        setenv("PAGODA_OPTIONS", options, 1);
        limit_option = true;
        body();
    });
}

TEST(reclaim_limit_option, allocations_succeed_while_shrinkers_can_free) {
    for (size_t size : kSizes) {
        child_end end =
            under_limit_option("limit=32M", [size] { succeed_while_shrinkers_can_free(size); });
        EXPECT_TRUE(succeeded(end)) << size;
        EXPECT_EQ(end.errors, "") << size;
    }
}

TEST(reclaim_limit_option, nofail_waits_for_another_threads_free) {
    for (size_t size : {size_t{100}, size_t{100000}, size_t{2} << 20}) {
        child_end end = under_limit_option("limit=16M", [size] {
            EXPECT_LE(shortest_wait(size, [](void *p) { heap_free(p, GFP_KERNEL); }), 10);
        });
        EXPECT_TRUE(succeeded(end)) << size;
        EXPECT_EQ(end.errors, "") << size;
    }
}

TEST(reclaim_limit_option, without_io_no_memory_is_given_back_to_the_system) {
    for (bool scope : {false, true})
        EXPECT_TRUE(
            succeeded(under_limit_option("limit=64M", [scope] { keep_memory_without_io(scope); })));
}

class reclaim : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

constexpr uint64_t kSmall = 64;
constexpr uint64_t kAlmostCostly = 32 << 10;
constexpr uint64_t kCostlyBytes = kAlmostCostly + 1;

// The first, one after the caches are taken back, one after each priority and each round but the
// last.
constexpr tried kProgress = {2 + 64 * (kFirstPriority + 1) + 63, 64};

TEST_F(reclaim, what_each_flag_means_for_an_allocation_that_fails) {
    const struct {
        gfp_t gfp;
        uint64_t bytes;
        tried idle;        // where a shrinker has objects and frees none
        tried progress;    // where it says that it frees them
        tried no_shrinker; // where there is none
        bool notifies;     // calls the out-of-memory notifiers
    } table[] = {
        {GFP_ATOMIC, kSmall, {1, 0}, {1, 0}, {1, 0}, false},
        {GFP_NOWAIT, kSmall, {1, 0}, {1, 0}, {1, 0}, false},
        {0, kSmall, {1, 0}, {1, 0}, {1, 0}, false},
        {GFP_KERNEL, kSmall, {17, 16}, kProgress, {2, 1}, true},
        {GFP_KERNEL, kAlmostCostly, {17, 16}, kProgress, {2, 1}, true},
        {GFP_KERNEL, kCostlyBytes, {2, 1}, kProgress, {2, 1}, false},
        {GFP_USER, kSmall, {17, 16}, kProgress, {2, 1}, true},
        {GFP_NOFS, kSmall, {17, 16}, kProgress, {2, 1}, false},
        {GFP_NOIO, kSmall, {17, 16}, kProgress, {2, 1}, false},
        {GFP_KERNEL | __GFP_NORETRY, kSmall, {2, 1}, {15, 1}, {2, 1}, false},
        {GFP_KERNEL | __GFP_NORETRY, kCostlyBytes, {2, 1}, {15, 1}, {2, 1}, false},
        {GFP_KERNEL | __GFP_RETRY_MAYFAIL, kSmall, {17, 16}, kProgress, {17, 16}, false},
        {GFP_KERNEL | __GFP_RETRY_MAYFAIL, kCostlyBytes, {17, 16}, kProgress, {17, 16}, false},
        {GFP_KERNEL | __GFP_NOFAIL, ~uint64_t{0} / 2, {1, 0}, {1, 0}, {1, 0}, false},
    };
    static unsigned notified;
    notifier_block notifier = {[](struct notifier_block *, unsigned long, void *) {
                                   notified++;
                                   return NOTIFY_OK;
                               },
                               nullptr, 0};
    register_oom_notifier(&notifier);
    for (const auto &row : table) {
        SCOPED_TRACE(testing::Message() << std::hex << row.gfp << ", " << row.bytes << " bytes");
        gfp_t gfp = row.gfp | __GFP_NOWARN;
        notified = 0;
        EXPECT_EQ(fail(gfp, row.bytes), row.no_shrinker);
        EXPECT_EQ(notified != 0, row.notifies);
        fixture f;
        f.objects = 1 << 20;
        EXPECT_EQ(fail(gfp, row.bytes), row.idle);
        f.pretends = 128;
        EXPECT_EQ(fail(gfp, row.bytes), row.progress);
    }
    unregister_oom_notifier(&notifier);
}

TEST_F(reclaim, a_round_without_objects_ends_at_once) {
    fixture f;
    EXPECT_EQ(fail(kQuiet | __GFP_NORETRY, kSmall), (tried{2, 1}));
    EXPECT_EQ(f.counts, 1u);
    EXPECT_EQ(f.scans, 0u);
}

TEST_F(reclaim, scopes_count) {
    fixture fs(SHRINKER_FS);
    fixture plain;
    fs.objects = plain.objects = 100;
    unsigned opened = memalloc_nofs_save();
    fail(kQuiet, kSmall);
    EXPECT_EQ(fs.counts, 0u);
    EXPECT_NE(plain.counts, 0u);
    memalloc_nofs_restore(opened);
    fail(kQuiet, kSmall);
    EXPECT_NE(fs.counts, 0u);
    plain.counts = 0;
    opened = memalloc_noreclaim_save();
    EXPECT_EQ(fail(kQuiet, kSmall), (tried{1, 0}));
    memalloc_noreclaim_restore(opened);
    pagoda_atomic_begin();
    if (!kDebug) { // there it is reported
        EXPECT_EQ(fail(kQuiet, kSmall), (tried{1, 0}));
    }
    pagoda_atomic_end();
    EXPECT_EQ(plain.counts, 0u);
}

TEST_F(reclaim, a_handler_that_interrupted_the_allocator_calls_no_shrinker) {
    fixture f;
    f.objects = 100;
    slow_path interrupted;
    reclaim_loop loop(kQuiet, kSmall);
    EXPECT_FALSE(loop.again());
    EXPECT_EQ(f.counts, 0u);
}

// A callback may allocate, and frees; it is not called again for that.
TEST_F(reclaim, shrinkers_do_not_recurse) {
    static unsigned depth;
    static unsigned deepest;
    struct shrinker *s = shrinker_alloc(0, "allocates");
    s->count_objects = [](struct shrinker *, struct shrink_control *) {
        deepest = max_of(deepest, ++depth);
        EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_KERNEL | __GFP_MEMALLOC);
        EXPECT_EQ(fail(kQuiet, kSmall), (tried{1, 0}));
        heap_free(heap_alloc(1000, GFP_KERNEL), GFP_KERNEL);
        errno = EDOM;
        depth--;
        return 1ul;
    };
    s->scan_objects = [](struct shrinker *, struct shrink_control *) { return 0ul; };
    shrinker_register(s);
    errno = 0;
    fail(kQuiet, kSmall);
    EXPECT_EQ(deepest, 1u);
    EXPECT_EQ(errno, 0);
    shrinker_free(s);
}

TEST_F(reclaim, allocations_succeed_while_shrinkers_can_free) {
    for (size_t size : kSizes) {
        child_end end = in_child([size] { succeed_while_shrinkers_can_free(size); });
        EXPECT_TRUE(succeeded(end)) << size;
        EXPECT_EQ(end.errors, "") << size;
    }
}

TEST_F(reclaim, realloc_and_aligned_allocations_reclaim_too) {
    child_end end = in_child([] {
        static blocks kept;
        fixture f;
        void *small = heap_alloc(1000, GFP_KERNEL);
        void *large = heap_alloc(size_t{2} << 20, GFP_KERNEL);
        memset(small, 1, 1000);
        memset(large, 2, size_t{2} << 20);
        allow_more(size_t{32} << 20);
        kept.fill(20000);
        f.keeps = &kept;
        // Shrinking presses nobody.
        large = heap_realloc(large, size_t{3} << 19, kQuiet);
        EXPECT_EQ(f.scans, 0u);
        char *grown = static_cast<char *>(heap_realloc(small, size_t{1} << 20, kQuiet));
        ASSERT_NE(grown, nullptr);
        EXPECT_EQ(grown[999], 1);
        char *longer = static_cast<char *>(heap_realloc(large, size_t{6} << 20, kQuiet));
        ASSERT_NE(longer, nullptr);
        EXPECT_EQ(longer[(size_t{3} << 19) - 1], 2);
        EXPECT_NE(f.scans, 0u);
        unsigned before = f.scans;
        void *aligned[64];
        for (void *&p : aligned) {
            p = heap_alloc_aligned(100000, size_t{1} << 16, kQuiet);
            EXPECT_NE(p, nullptr);
        }
        EXPECT_GT(f.scans, before);
    });
    EXPECT_TRUE(succeeded(end));
}

// The program holds a lock around an allocation, and its shrinker takes that lock.
TEST_F(reclaim, nofs_skips_a_shrinker_that_would_deadlock) {
    child_end end = in_child(
        [] {
            heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
            static blocks kept;
            static std::mutex held;
            fixture f(SHRINKER_FS);
            f.takes = &held;
            allow_more(size_t{16} << 20);
            kept.fill(10000);
            kept.fill(100);
            f.keeps = &kept;
            f.counts = 0;
            {
                std::lock_guard g(held);
                EXPECT_EQ(heap_alloc(100000, GFP_NOFS | __GFP_NOWARN), nullptr);
                unsigned opened = memalloc_nofs_save();
                EXPECT_EQ(heap_alloc(100000, kQuiet), nullptr);
                memalloc_nofs_restore(opened);
                EXPECT_EQ(f.counts, 0u);
            }
            EXPECT_NE(heap_alloc(100000, kQuiet), nullptr);
            EXPECT_NE(f.scans, 0u);
        },
        60);
    EXPECT_TRUE(succeeded(end));
}

TEST_F(reclaim, noretry_runs_the_shrinkers_once) {
    child_end end = in_child([] {
        heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
        static blocks kept;
        static blocks lost;
        fixture f;
        allow_more(size_t{16} << 20);
        lost.fill(100000);
        lost.fill(1000);
        f.objects = 1000;
        f.counts = 0;
        uint64_t rounds = reclaim_get_stats().rounds;
        EXPECT_EQ(heap_alloc(100000, kFill), nullptr);
        EXPECT_EQ(reclaim_get_stats().rounds, rounds + 1);
        EXPECT_EQ(f.counts, static_cast<unsigned>(kFirstPriority) + 1);
        for (int i = 0; i < 40; i++)
            kept.add(lost.take());
        lost.free_all();
        lost.fill(50000);
        f.keeps = &kept;
        rounds = reclaim_get_stats().rounds;
        EXPECT_NE(heap_alloc(1000, kFill), nullptr) << "one round is enough where it frees";
        EXPECT_LE(reclaim_get_stats().rounds, rounds + 1);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(reclaim, the_last_resort_may_save_an_allocation) {
    child_end end = in_child([] {
        heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
        static blocks kept;
        notifier_block notifier = {[](struct notifier_block *, unsigned long, void *freed) {
                                       *static_cast<unsigned long *>(freed) += kept.count;
                                       kept.free_all();
                                       return NOTIFY_OK;
                                   },
                                   nullptr, 0};
        allow_more(size_t{16} << 20);
        kept.fill(10000);
        kept.fill(100);
        EXPECT_EQ(register_oom_notifier(&notifier), 0);
        EXPECT_EQ(heap_alloc(1000, kQuiet | __GFP_RETRY_MAYFAIL), nullptr);
        EXPECT_EQ(heap_alloc(1000, GFP_NOFS | __GFP_NOWARN), nullptr);
        EXPECT_NE(kept.count, 0u);
        EXPECT_NE(heap_alloc(1000, kQuiet), nullptr);
        EXPECT_EQ(kept.count, 0u);
    });
    EXPECT_TRUE(succeeded(end));
}

// What other CPUs' caches keep is taken back before anybody is pressed.
TEST_F(reclaim, other_cpus_caches_come_first) {
    if (!percpu::has_rseq())
        GTEST_SKIP() << "nobody can take what another thread caches";
    child_end end = in_child([] {
        heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
        static blocks kept;
        fixture f;
        f.objects = 1;
        // As a free on another CPU would leave them.
        std::thread other([] {
            cpu_set_t last;
            CPU_ZERO(&last);
            CPU_SET(static_cast<unsigned>(sysconf(_SC_NPROCESSORS_ONLN) - 1), &last);
            sched_setaffinity(0, sizeof last, &last);
            allow_more(size_t{16} << 20);
            kept.fill(1000);
            for (int i = 0; i < 500; i++)
                heap_free(kept.take(), GFP_KERNEL);
        });
        other.join();
        f.counts = 0;
        static blocks mine;
        for (int i = 0; i < 400; i++) {
            void *p = heap_alloc(1000, kQuiet);
            ASSERT_NE(p, nullptr) << i;
            mine.add(p);
        }
        EXPECT_EQ(f.counts, 0u);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(reclaim, nofail_waits_for_another_threads_free) {
    child_end end = in_child([] {
        double ms = shortest_wait(100000, [](void *p) { heap_free(p, GFP_KERNEL); });
        EXPECT_LE(ms, 10);
        printf("%.2f ms\n", ms);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

// A free on the hot path wakes nobody, as one that may make no system call.
TEST_F(reclaim, nofail_finds_what_was_freed_without_a_word) {
    if (!percpu::has_rseq())
        GTEST_SKIP() << "nobody can take what another thread caches";
    child_end end = in_child([] {
        double ms = shortest_wait(1000, [](void *p) { heap_free(p, GFP_ATOMIC); });
        EXPECT_LE(ms, 10);
        printf("%.2f ms\n", ms);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(reclaim, nofail_inside_a_shrinker_waits_and_does_not_recurse) {
    child_end end = in_child([] {
        std::atomic<bool> release{false};
        fixture f;
        f.objects = 100;
        unsigned opened = memalloc_noreclaim_save();
        std::thread other([&] {
            uint64_t waits = reclaim_get_stats().waits;
            while (reclaim_get_stats().waits < waits + 20)
                usleep(1000);
            release = true;
        });
        int dummy = 0;
        void *p = with_reclaim(kQuiet | __GFP_NOFAIL, kSmall,
                               [&]() -> void * { return release ? &dummy : nullptr; });
        EXPECT_EQ(p, &dummy);
        memalloc_noreclaim_restore(opened);
        other.join();
        EXPECT_EQ(f.counts, 0u);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(reclaim, without_io_no_memory_is_given_back_to_the_system) {
    for (bool scope : {false, true})
        EXPECT_TRUE(succeeded(in_child([scope] { keep_memory_without_io(scope); })));
}

// A signal stack, or a fiber's: 8 KiB, and a page below that must not be touched.
void on_small_stack(void (*body)()) {
    constexpr size_t kStack = 8192;
    auto *at = static_cast<char *>(mmap(nullptr, kPageSize + kStack, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(at, MAP_FAILED);
    ASSERT_EQ(mprotect(at, kPageSize, PROT_NONE), 0);
    ucontext_t back;
    ucontext_t there;
    getcontext(&there);
    there.uc_stack.ss_sp = at + kPageSize;
    there.uc_stack.ss_size = kStack;
    there.uc_link = &back;
    makecontext(&there, body, 0);
    swapcontext(&back, &there);
    munmap(at, kPageSize + kStack);
}

TEST_F(reclaim, needs_little_stack) {
    child_end end = in_child([] {
        heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
        std::thread([] {}).join(); // other CPUs' caches matter then
        static blocks kept;
        static notifier_block notifier = {
            [](struct notifier_block *, unsigned long, void *) { return NOTIFY_OK; }, nullptr, 0};
        static struct shrinker *s;
        on_small_stack([] {
            s = shrinker_alloc(0, "%s-%d", "small", 1);
            s->count_objects = [](struct shrinker *, struct shrink_control *) {
                return kept.count;
            };
            s->scan_objects = [](struct shrinker *, struct shrink_control *) {
                heap_free(kept.take(), GFP_KERNEL);
                return 1ul;
            };
            register_oom_notifier(&notifier);
        });
        allow_more(size_t{16} << 20);
        on_small_stack([] {
            while (void *p = heap_alloc(20000, kFill))
                kept.add(p);
            shrinker_register(s);
            for (size_t size : {size_t{50}, size_t{200000}, size_t{3} << 20, size_t{64} << 20})
                heap_free(heap_alloc(size, GFP_KERNEL), GFP_KERNEL);
            shrinker_free(s);
        });
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("order:14, 67108864 bytes, mode:0xcc0(GFP_KERNEL)")) << end.errors;
}

TEST_F(reclaim, failures_are_reported_unless_nowarn) {
    child_end end = in_child([] {
        fail(GFP_KERNEL, kSmall);
        fail(GFP_KERNEL | __GFP_NOWARN, kSmall);
        fail(GFP_KERNEL | __GFP_NORETRY, kCostlyBytes);
        fail(GFP_KERNEL, ~uint64_t{0});
        EXPECT_EQ(heap_alloc(~size_t{0}, GFP_KERNEL), nullptr);
        EXPECT_EQ(fail(GFP_NOWAIT | __GFP_NOFAIL, kSmall), (tried{1, 0}));
        fputs("until here\n", stderr);
        {
            slow_path interrupted;
            fail(GFP_ATOMIC, kSmall);
        }
        heap_free(heap_alloc(10, GFP_KERNEL), GFP_KERNEL);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 6u) << end.errors;
    EXPECT_TRUE(
        end.said("until here\npagoda: lib_reclaim_test: page allocation failure: order:0, 64 "
                 "bytes, mode:0xa800(GFP_NOWAIT|__GFP_NOFAIL): __GFP_NOFAIL needs "
                 "__GFP_DIRECT_RECLAIM"))
        << end.errors;
    EXPECT_TRUE(end.said("order:52, 18446744073709551615 bytes")) << end.errors;
    EXPECT_TRUE(end.said("order:0, 64 bytes, mode:0xcc0(GFP_KERNEL)")) << end.errors;
    EXPECT_TRUE(end.said("order:4, 32769 bytes, mode:0x10cc0(GFP_KERNEL|__GFP_NORETRY)"))
        << end.errors;
}

} // namespace
} // namespace pagoda::test
