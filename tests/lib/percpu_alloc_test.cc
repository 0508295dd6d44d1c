#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/percpu.h"
#include "lib/percpu_alloc.h"

#include <pagoda/shrinker.h>

#include <map>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <thread>
#include <vector>

extern "C" {
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
}

namespace pagoda::test {
namespace {

template <class T> T sum(T *counter) {
    T total = 0;
    unsigned cpu = 0;
    for_each_possible_cpu(cpu) total = static_cast<T>(total + *per_cpu_ptr(counter, cpu));
    return total;
}

// A test in a process of its own, whose heap is not there yet. All tests are: the index is chosen
// once.
#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(percpu_alloc, name) { EXPECT_TRUE(succeeded(in_child(name))); }                           \
    void name()

struct statistics {
    uint64_t packets;
    int32_t balance;
    uint16_t small;
    uint8_t tiny;
    void *last;
};

TEST_IN_CHILD(has_a_zeroed_copy_for_each_cpu) {
    auto *s = alloc_percpu(statistics);
    ASSERT_NE(s, nullptr);
    EXPECT_GE(num_possible_cpus(), static_cast<unsigned>(sysconf(_SC_NPROCESSORS_CONF)));
    EXPECT_EQ(nr_cpu_ids, num_possible_cpus());
    unsigned cpu = 0;
    for (int round = 0; round < 2; round++) { // the second time where the first one wrote
        for_each_possible_cpu(cpu) {
            statistics *copy = per_cpu_ptr(s, cpu);
            EXPECT_EQ(copy->packets, 0u);
            EXPECT_EQ(copy->last, nullptr);
            memset(copy, 0xff, sizeof *copy);
        }
        free_percpu(s);
        s = alloc_percpu(statistics);
    }
    free_percpu(s);
    free_percpu(nullptr);
}

TEST_IN_CHILD(presses_shrinkers_for_a_chunk) {
    static void *hoard = heap_alloc(32 << 20, GFP_KERNEL);
    struct shrinker *s = shrinker_alloc(0, "hoard");
    ASSERT_NE(s, nullptr);
    s->count_objects = [](struct shrinker *, struct shrink_control *) {
        return hoard != nullptr ? 1ul : SHRINK_EMPTY;
    };
    s->scan_objects = [](struct shrinker *, struct shrink_control *) {
        heap_free(hoard, GFP_KERNEL);
        hoard = nullptr;
        return 1ul;
    };
    shrinker_register(s);
    for (int i = 0; i < 2; i++) // the first chunk is full
        ASSERT_NE(__alloc_percpu(PCPU_MIN_UNIT_SIZE, 16), nullptr);
    heap_trim(0);
    mutable_options().limit_bytes = zone_normal().committed() + (100 << 10);
    EXPECT_EQ(__alloc_percpu_gfp(16, 16, GFP_ATOMIC), nullptr);
    EXPECT_NE(hoard, nullptr);
    EXPECT_NE(__alloc_percpu(16, 16), nullptr);
    EXPECT_EQ(hoard, nullptr);
    EXPECT_NE(__alloc_percpu_gfp(16, 16, GFP_ATOMIC), nullptr) << "from the same chunk";
}

TEST(percpu_alloc, refuses_sizes_and_alignments_out_of_range) {
    child_end end = in_child([] {
        EXPECT_EQ(__alloc_percpu(0, 8), nullptr);
        EXPECT_EQ(__alloc_percpu(PCPU_MIN_UNIT_SIZE + 1, 8), nullptr);
        EXPECT_EQ(__alloc_percpu(8, 8192), nullptr);
        EXPECT_EQ(__alloc_percpu(8, 24), nullptr);
        void *most = __alloc_percpu(PCPU_MIN_UNIT_SIZE, 4096);
        EXPECT_NE(most, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(most) % 4096, 0u);
        free_percpu(most);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("alloc_percpu of 0 bytes")) << end.errors;
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST_IN_CHILD(without_waiting_has_what_is_backed_already) {
    ASSERT_TRUE(heap_init());
    EXPECT_EQ(alloc_percpu_gfp(int, GFP_ATOMIC), nullptr) << "there is no chunk yet";
    void *page = __alloc_percpu(4096, 4096);
    free_percpu(page);
    int *few = alloc_percpu_gfp(int, GFP_ATOMIC);
    EXPECT_EQ(few, page);
    EXPECT_EQ(__alloc_percpu_gfp(8192, 8, GFP_ATOMIC), nullptr) << "it would fault";
    free_percpu(few);
}

// A handler may ask at any time: nobody's work is done on the way.
TEST_IN_CHILD(cpu_numbers_are_had_without_waiting) {
    ASSERT_NE(pagoda_alloc_percpu(8, 8, GFP_KERNEL), nullptr);
    while (heap_alloc(kPageSize, GFP_ATOMIC) != nullptr)
        continue;
    uint64_t reserve = heap_get_stats().reserve_bytes;
    EXPECT_LT(pagoda_cpu_number(), pagoda_cpu_count());
    EXPECT_EQ(heap_get_stats().reserve_bytes, reserve) << "left to those who may wait";
}

TEST_IN_CHILD(that_cannot_be_had_is_null) {
    ASSERT_TRUE(heap_init());
    for (int works = 0; works < 40; works++) {
        sys::inject_failures(works, 1 << 30);
        std::vector<void *> got;
        while (void *p = __alloc_percpu(PCPU_MIN_UNIT_SIZE, 8))
            got.push_back(p);
        sys::inject_failures(0, 0);
        for (void *p : got)
            free_percpu(p);
    }
}

TEST(percpu_alloc, wrong_frees_are_reported) {
    for (int what = 0; what < 3; what++) {
        child_end end = in_child([&] {
            char *p = static_cast<char *>(__alloc_percpu(64, 8));
            if (what == 2)
                free_percpu(p);
            int local = 0;
            free_percpu(what == 0 ? static_cast<void *>(&local) : p + (what == 1 ? 16 : 0));
        });
        EXPECT_EQ(end.signal(), SIGABRT);
        EXPECT_TRUE(end.said("not what alloc_percpu returned")) << end.errors;
    }
}

TEST_IN_CHILD(agrees_with_a_model) {
    random_numbers random(6);
    struct block {
        size_t bytes;
        unsigned char fill;
    };
    std::map<char *, block> out;
    unsigned cpus = num_possible_cpus();
    for (int i = 0; i < 3000; i++) {
        if (out.size() < 30 && random.one_in(2)) {
            size_t bytes = 1 + random.skewed(14);
            size_t align = size_t{1} << random.below(13);
            auto *p = static_cast<char *>(__alloc_percpu(bytes, align));
            ASSERT_NE(p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            auto next = out.lower_bound(p);
            ASSERT_TRUE(next == out.end() || p + bytes <= next->first);
            ASSERT_TRUE(next == out.begin() ||
                        std::prev(next)->first + std::prev(next)->second.bytes <= p);
            block b = {bytes, static_cast<unsigned char>(random.next())};
            for (unsigned cpu = 0; cpu < cpus; cpu++)
                for (size_t n = 0; n < bytes; n++) {
                    ASSERT_EQ(per_cpu_ptr(p, cpu)[n], 0);
                    per_cpu_ptr(p, cpu)[n] = static_cast<char>(b.fill + cpu);
                }
            out[p] = b;
        } else if (!out.empty()) {
            auto it = std::next(out.begin(), static_cast<long>(random.below(out.size())));
            for (unsigned cpu = 0; cpu < cpus; cpu++)
                for (size_t n = 0; n < it->second.bytes; n++)
                    ASSERT_EQ(per_cpu_ptr(it->first, cpu)[n],
                              static_cast<char>(it->second.fill + cpu));
            free_percpu(it->first);
            out.erase(it);
        }
    }
    for (auto &[p, b] : out)
        free_percpu(p);
}

// Where the thread stays on one CPU, whatever the index is.
template <class F> child_end pinned(percpu_policy policy, F body) {
    return in_child([&] {
        mutable_options().percpu = policy;
        cpu_set_t all;
        sched_getaffinity(0, sizeof all, &all);
        cpu_set_t one;
        CPU_ZERO(&one);
        for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
            if (CPU_ISSET(cpu, &all))
                CPU_SET(cpu, &one);
        EXPECT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
        ASSERT_TRUE(heap_init());
        ASSERT_TRUE(policy != percpu_policy::off || !percpu::has_rseq());
        body();
    });
}

template <class T> void check_operations() {
    T *v = alloc_percpu(T);
    random_numbers random(5);
    T model = 0;
    for (int i = 0; i < 20000; i++) {
        T x = static_cast<T>(random.next());
        switch (random.below(9)) {
        case 0:
            this_cpu_write(*v, x);
            model = x;
            break;
        case 1:
            this_cpu_add(*v, x);
            model = static_cast<T>(model + x);
            break;
        case 2:
            model = static_cast<T>(model - x);
            ASSERT_EQ(this_cpu_sub_return(*v, x), model);
            break;
        case 3:
            this_cpu_inc(*v);
            model++;
            break;
        case 4:
            ASSERT_EQ(this_cpu_dec_return(*v), --model);
            break;
        case 5:
            this_cpu_and(*v, x);
            model &= x;
            break;
        case 6:
            this_cpu_or(*v, x);
            model |= x;
            break;
        case 7:
            ASSERT_EQ(this_cpu_xchg(*v, x), model);
            model = x;
            break;
        default: {
            bool right = random.one_in(2);
            T expected = right ? model : static_cast<T>(model + 1);
            ASSERT_EQ(this_cpu_cmpxchg(*v, expected, x), model);
            if (right)
                model = x;
        }
        }
        ASSERT_EQ(this_cpu_read(*v), model);
        ASSERT_EQ(*this_cpu_ptr(v), model);
        ASSERT_EQ(*per_cpu_ptr(v, smp_processor_id()), model);
    }
    ASSERT_EQ(sum(v), model) << "no other copy was touched";
    free_percpu(v);
}

void check_all_operations() {
    check_operations<uint8_t>();
    check_operations<int8_t>();
    check_operations<uint16_t>();
    check_operations<int32_t>();
    check_operations<uint32_t>();
    check_operations<int64_t>();
    check_operations<unsigned long>();
    auto *s = alloc_percpu(statistics);
    int here = 0;
    this_cpu_write(s->last, &here);
    EXPECT_EQ(this_cpu_read(s->last), &here);
    EXPECT_EQ(this_cpu_cmpxchg(s->last, &here, nullptr), &here);
    this_cpu_inc(s->tiny);
    this_cpu_sub(s->balance, 5);
    EXPECT_EQ(get_cpu_ptr(s)->balance, -5);
    put_cpu_ptr(s);
    EXPECT_EQ(this_cpu_ptr(s)->tiny, 1);
    EXPECT_EQ(this_cpu_ptr(s)->small, 0);
    free_percpu(s);
}

TEST(percpu_alloc, operations_agree_with_a_model) {
    EXPECT_TRUE(succeeded(pinned(percpu_policy::cpu_id, check_all_operations)));
}

TEST(percpu_alloc, operations_without_rseq_agree_with_a_model) {
    EXPECT_TRUE(succeeded(pinned(percpu_policy::off, check_all_operations)));
}

uint64_t *signal_counter;

void count_in_handler(int) { this_cpu_inc(*signal_counter); }

// Nothing is lost between threads, signal handlers and CPUs.
void check_sums(bool handlers) {
    constexpr uint64_t kEach = 300'000;
    uint64_t *by_threads = alloc_percpu(uint64_t);
    signal_counter = alloc_percpu(uint64_t);
    static std::atomic<uint64_t> handled;
    handled = 0;
    if (handlers) {
        struct sigaction action = {};
        action.sa_handler = [](int) {
            count_in_handler(0);
            handled++;
        };
        sigaction(SIGALRM, &action, nullptr);
        itimerval timer = {{0, 100}, {0, 100}};
        setitimer(ITIMER_REAL, &timer, nullptr);
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&] {
            for (uint64_t i = 0; i < kEach; i++) {
                this_cpu_inc(*by_threads);
                if (handlers)
                    this_cpu_add(*signal_counter, 2);
            }
        });
    for (std::thread &t : threads)
        t.join();
    itimerval off = {};
    setitimer(ITIMER_REAL, &off, nullptr);
    EXPECT_EQ(sum(by_threads), 4 * kEach);
    if (handlers) {
        EXPECT_GT(handled, 0u);
        EXPECT_EQ(sum(signal_counter), 8 * kEach + handled);
    }
    free_percpu(by_threads);
    free_percpu(signal_counter);
}

TEST(percpu_alloc, counters_lose_nothing) {
    EXPECT_TRUE(succeeded(in_child([] { check_sums(true); })));
}

TEST(percpu_alloc, counters_lose_nothing_without_rseq) {
    EXPECT_TRUE(succeeded(in_child([] {
        mutable_options().percpu = percpu_policy::off;
        check_sums(true);
    })));
}

TEST_IN_CHILD(a_thread_without_rseq_has_a_number_of_its_own) {
    uint64_t *counter = alloc_percpu(uint64_t);
    if (!percpu::has_rseq())
        GTEST_SKIP() << "no thread has rseq here";
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> counted{0};
    std::thread other([&] {
        while (!stop) {
            this_cpu_inc(*counter);
            counted++;
        }
    });
    std::thread([&] {
        char *area = static_cast<char *>(__builtin_thread_pointer()) + __rseq_offset;
        size_t size = __rseq_size < 32 ? 32 : __rseq_size;
        ASSERT_EQ(syscall(SYS_rseq, area, size, 1 /* unregister */, 0x53053053), 0);
        EXPECT_EQ(smp_processor_id(), num_possible_cpus() - 1);
        for (int i = 0; i < 100'000; i++)
            this_cpu_inc(*counter);
        EXPECT_EQ(this_cpu_read(*counter), 100'000u);
    }).join();
    stop = true;
    other.join();
    EXPECT_EQ(sum(counter), 100'000 + counted);
    free_percpu(counter);
}

TEST(percpu_alloc, threads_that_need_a_chunk_at_once_each_get_their_memory) {
    for (int round = 0; round < 10; round++)
        EXPECT_TRUE(succeeded(in_child([] {
            void *got[4][6] = {};
            std::vector<std::thread> threads;
            for (auto &mine : got)
                threads.emplace_back([&mine] {
                    for (void *&p : mine)
                        p = __alloc_percpu(PCPU_MIN_UNIT_SIZE / 2, 8);
                });
            for (std::thread &t : threads)
                t.join();
            std::map<void *, int> seen;
            for (auto &mine : got)
                for (void *p : mine) {
                    EXPECT_NE(p, nullptr);
                    EXPECT_EQ(seen[p]++, 0);
                    free_percpu(p);
                }
        })));
}

} // namespace
} // namespace pagoda::test
