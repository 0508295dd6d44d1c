#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/percpu.h"
#include "lib/sheaf.h"
#include "lib/thread.h"

#include <atomic>
#include <memory>
#include <sched.h>
#include <sys/syscall.h>
#include <thread>
#include <time.h>
#include <vector>

extern "C" { // glibc >= 2.35
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
}

namespace pagoda::test {
namespace {

using percpu::stack_kind;

// No allocation of this test goes through the class, so its words are the test's alone.
constexpr unsigned kClass = 30;
constexpr uint16_t kCapacity = kClassTable.info[kClass].capacity;

uint32_t main_half(uint64_t word) { return static_cast<uint32_t>(word); }
uint32_t spare_half(uint64_t word) { return static_cast<uint32_t>(word >> 32); }
uint64_t word_of(uint32_t main, uint32_t spare) { return uint64_t{spare} << 32 | main; }
bool is_full(uint32_t top) { return top % kSheafSize == 0; }
bool is_empty(uint32_t top) { return top == 0 || top == sheaf_empty_top(sheaf_id(top), kCapacity); }

// An operation that was restarted says the same as one that found nothing: these ask again until it
// is certain which it was. Only for a thread that stays on its CPU.
void *pop() {
    for (;;) {
        if (void *object = percpu::pop(kClass))
            return object;
        if (is_empty(main_half(percpu::word(kClass))))
            return nullptr;
    }
}
bool push(void *object) {
    while (!percpu::push(kClass, object))
        if (is_full(main_half(percpu::word(kClass))))
            return false;
    return true;
}
bool replace(uint64_t expected, uint64_t desired) {
    while (!percpu::replace(kClass, expected, desired))
        if (percpu::word(kClass) != expected)
            return false;
    return true;
}
uint32_t stack_head(stack_kind kind) {
    const char *at = percpu::current_slot() + kStacksAt + kClass * 8 + static_cast<size_t>(kind);
    return *reinterpret_cast<const volatile uint32_t *>(at);
}
uint32_t stack_pop(stack_kind kind) {
    for (;;) {
        if (uint32_t id = percpu::stack_pop(kClass, kind))
            return id;
        if ((stack_head(kind) & kSheafIdMask) == 0)
            return 0;
    }
}
bool stack_push(stack_kind kind, uint32_t id, uint32_t limit) {
    while (!percpu::stack_push(kClass, kind, id, limit))
        if (stack_head(kind) >> 20 >= limit)
            return false;
    return true;
}

// On one CPU, so that a migration does not change what the words say.
template <class F> child_end on_one_cpu(percpu_policy policy, F body) {
    return in_child([&] {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof one, &one);
        mutable_options().percpu = policy;
        ASSERT_TRUE(heap_init());
        ASSERT_TRUE(policy != percpu_policy::off || !percpu::has_rseq());
        slow_path scope;
        body();
    });
}

class percpu_words : public ::testing::TestWithParam<percpu_policy> {};

INSTANTIATE_TEST_SUITE_P(every_index, percpu_words,
                         ::testing::Values(percpu_policy::mm_cid, percpu_policy::cpu_id,
                                           percpu_policy::off));

TEST_P(percpu_words, objects_come_back_in_order) {
    EXPECT_TRUE(succeeded(on_one_cpu(GetParam(), [] {
        EXPECT_EQ(pop(), nullptr);
        static char objects[kCapacity + 1];
        EXPECT_FALSE(push(objects)) << "there is no sheaf yet";
        uint32_t id = sheaf_alloc(kCapacity, true);
        ASSERT_NE(id, 0u);
        ASSERT_TRUE(replace(0, sheaf_empty_top(id, kCapacity)));
        EXPECT_EQ(percpu::word(kClass), sheaf_empty_top(id, kCapacity));
        for (int i = 0; i < kCapacity; i++)
            EXPECT_TRUE(push(objects + i));
        EXPECT_FALSE(push(objects + kCapacity)) << "the sheaf is full";
        EXPECT_EQ(percpu::word(kClass), sheaf_full_top(id));
        for (int i = kCapacity; i-- > 0;)
            EXPECT_EQ(pop(), objects + i);
        EXPECT_EQ(pop(), nullptr);
        EXPECT_FALSE(percpu::replace(kClass, 1, 0)) << "another word is there";
        EXPECT_TRUE(replace(sheaf_empty_top(id, kCapacity), 0));
        sheaf_free(id);
    })));
}

TEST_P(percpu_words, the_newest_object_is_not_taken_again) {
    EXPECT_TRUE(succeeded(on_one_cpu(GetParam(), [] {
        static char objects[2];
        uint32_t id = sheaf_alloc(kCapacity, true);
        ASSERT_TRUE(replace(0, sheaf_empty_top(id, kCapacity)));
        EXPECT_TRUE(push(objects));
        uint64_t before = percpu::word(kClass);
        for (int i = 0; i < 100; i++)
            EXPECT_FALSE(percpu::push(kClass, objects));
        EXPECT_EQ(percpu::word(kClass), before);
        EXPECT_TRUE(push(objects + 1));
    })));
}

TEST_P(percpu_words, agree_with_a_stack_of_objects) {
    EXPECT_TRUE(succeeded(on_one_cpu(GetParam(), [] {
        static char objects[kCapacity];
        std::vector<void *> model;
        std::vector<void *> out;
        for (char &object : objects)
            out.push_back(&object);
        random_numbers random(11);
        uint32_t id = sheaf_alloc(kCapacity, true);
        ASSERT_TRUE(replace(0, sheaf_empty_top(id, kCapacity)));
        for (int i = 0; i < 300'000 && !::testing::Test::HasFailure(); i++) {
            if (random.below(100) < (i / 10'000 % 2 == 0 ? 60u : 40u)) {
                if (out.empty())
                    continue;
                ASSERT_TRUE(push(out.back()));
                model.push_back(out.back());
                out.pop_back();
            } else {
                void *expected = model.empty() ? nullptr : model.back();
                ASSERT_EQ(pop(), expected);
                if (expected != nullptr) {
                    model.pop_back();
                    out.push_back(expected);
                }
            }
            ASSERT_EQ(main_half(percpu::word(kClass)),
                      sheaf_empty_top(id, kCapacity) + 8 * model.size());
        }
    })));
}

TEST_P(percpu_words, stacks_of_sheaves_keep_their_limit) {
    EXPECT_TRUE(succeeded(on_one_cpu(GetParam(), [] {
        uint32_t a = sheaf_alloc(kCapacity, true);
        uint32_t b = sheaf_alloc(kCapacity, true);
        for (auto kind : {stack_kind::full, stack_kind::empty}) {
            EXPECT_EQ(stack_pop(kind), 0u);
            EXPECT_FALSE(stack_push(kind, a, 0));
            EXPECT_TRUE(stack_push(kind, a, 2));
            EXPECT_FALSE(stack_push(kind, b, 1));
            EXPECT_TRUE(stack_push(kind, b, 2));
            EXPECT_EQ(stack_pop(kind), b);
            EXPECT_EQ(stack_pop(kind), a);
            EXPECT_EQ(stack_pop(kind), 0u);
        }
    })));
}

#if defined(__x86_64__)

volatile int steps;

// Runs body as a debugger would that steps through it: a signal after each instruction.
template <class F> void single_stepped(F body) {
    struct sigaction act = {};
    act.sa_handler = [](int) { steps = steps + 1; };
    sigaction(SIGTRAP, &act, nullptr);
    asm volatile("lea -128(%%rsp), %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n"
                 "lea 128(%%rsp), %%rsp" ::
                     : "memory", "cc");
    body();
    asm volatile("lea -128(%%rsp), %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n"
                 "lea 128(%%rsp), %%rsp" ::
                     : "memory", "cc");
}

template <class F> void with_rseq(F body) {
    for (percpu_policy policy : {percpu_policy::mm_cid, percpu_policy::cpu_id})
        EXPECT_TRUE(succeeded(on_one_cpu(policy, [&] {
            if (percpu::has_rseq())
                body();
        })));
}

TEST(percpu, an_interrupted_operation_has_done_nothing) {
    with_rseq([] {
        static char objects[4];
        uint32_t id = sheaf_alloc(kCapacity, true);
        uint32_t other = sheaf_alloc(kCapacity, true);
        ASSERT_TRUE(replace(0, sheaf_empty_top(id, kCapacity)));
        ASSERT_TRUE(push(objects) && push(objects + 1));
        ASSERT_TRUE(stack_push(stack_kind::full, id, 3));
        uint64_t word = percpu::word(kClass);
        uint32_t head = stack_head(stack_kind::full);
        void *popped = objects;
        bool pushed = true;
        bool replaced = true;
        bool stacked = true;
        uint32_t sheaf = 1;
        single_stepped([&] {
            popped = percpu::pop(kClass);
            pushed = percpu::push(kClass, objects + 2);
            replaced = percpu::replace(kClass, word, 0);
            stacked = percpu::stack_push(kClass, stack_kind::full, other, 3);
            sheaf = percpu::stack_pop(kClass, stack_kind::full);
        });
        EXPECT_GT(steps, 50);
        EXPECT_EQ(popped, nullptr);
        EXPECT_FALSE(pushed);
        EXPECT_FALSE(replaced);
        EXPECT_FALSE(stacked);
        EXPECT_EQ(sheaf, 0u);
        EXPECT_EQ(percpu::word(kClass), word);
        EXPECT_EQ(stack_head(stack_kind::full), head);
        EXPECT_EQ(pop(), objects + 1) << "and goes on when it is left alone";
    });
}

TEST(percpu, the_slabs_serve_a_thread_that_is_always_interrupted) {
    constexpr unsigned kLarge = kSmallClasses; // sheaves of few objects: steps are slow
    with_rseq([] {
        void *objects[2] = {};
        single_stepped([&] {
            for (void *&object : objects)
                object = cache_alloc(kLarge, GFP_KERNEL);
        });
        ASSERT_NE(objects[0], nullptr);
        ASSERT_NE(objects[1], nullptr);
        EXPECT_NE(objects[0], objects[1]);
        EXPECT_EQ(g_caches[kLarge].in_use, 2u) << "past the sheaves";
        single_stepped([&] {
            for (void *object : objects)
                cache_free(kLarge, object, GFP_KERNEL);
        });
        EXPECT_EQ(g_caches[kLarge].in_use, 0u);
    });
}

#endif

// Objects and sheaves have one holder at any time: a thread's number, or kCached. Threads push, pop
// and exchange whole words on whatever CPU they are, while signals interrupt them (and do the same)
// and another thread moves them about.
class crowd {
  public:
    static constexpr int kThreads = 3;
    static constexpr int kObjects = 600;
    static constexpr uint8_t kCached = 0xff;

    void run() {
        self = this;
        start_signals();
        std::vector<std::thread> threads;
        for (int t = 0; t < kThreads; t++)
            threads.emplace_back([this, t] { work(t); });
        for (random_numbers random(5); finished_ < kThreads;) {
            for (std::atomic<int> &tid : tids_)
                move_about(tid, static_cast<int>(random.below(CPU_SETSIZE)));
            sched_yield();
        }
        for (std::thread &t : threads)
            t.join();
        timer_delete(timer_);
        block_signals();
        int held = stash.exchange(nullptr) != nullptr ? 1 : 0;
        for (uint32_t cpu = 0; cpu < percpu::slots(); cpu++)
            held += count_left(reinterpret_cast<char *>(g_percpu.base) + cpu * kSlotSize);
        for (const auto &mine : left_)
            held += static_cast<int>(mine.size());
        EXPECT_EQ(wrong_, 0) << "two holders";
        EXPECT_EQ(held, kObjects) << "lost, or twice in the sheaves";
        EXPECT_GT(signals_, 0);
    }

  private:
    static inline crowd *self = nullptr;
    static inline thread_local std::atomic<void *> stash; // what a handler could not put back

    int number_of(void *object) const {
        return static_cast<int>(static_cast<char *>(object) - objects_);
    }
    void take(void *object, uint8_t who) {
        wrong_ += holders_[number_of(object)].exchange(who) != kCached;
    }
    void give(void *object, uint8_t who) {
        wrong_ += holders_[number_of(object)].exchange(kCached) != who;
    }

    void start_signals() {
        struct sigaction act = {};
        act.sa_handler = [](int) { self->interrupt(); };
        act.sa_flags = SA_RESTART;
        sigaction(SIGRTMIN, &act, nullptr);
        sigevent event = {};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGRTMIN;
        ASSERT_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer_), 0);
        itimerspec period = {{0, 100'000}, {0, 100'000}};
        timer_settime(timer_, 0, &period, nullptr);
    }

    static void block_signals() {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        pthread_sigmask(SIG_BLOCK, &set, nullptr);
    }

    void interrupt() {
        signals_++;
        slow_path scope;
        if (stash.load() != nullptr)
            return;
        void *object = percpu::pop(kClass);
        if (object == nullptr)
            return;
        take(object, kThreads);
        give(object, kThreads);
        if (!percpu::push(kClass, object)) {
            take(object, kThreads);
            stash.store(object);
        }
    }

    static void move_about(std::atomic<int> &tid, int cpu) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu % sysconf(_SC_NPROCESSORS_ONLN), &set);
        if (tid != 0)
            sched_setaffinity(tid, sizeof set, &set); // one that ended meanwhile is none
    }

    void work(int number) {
        random_numbers random(static_cast<uint64_t>(number) + 1);
        auto who = static_cast<uint8_t>(number);
        std::vector<void *> mine;
        for (int i = number; i < kObjects; i += kThreads) {
            holders_[i] = who;
            mine.push_back(objects_ + i);
        }
        tids_[number] = gettid();
        for (int i = 0; i < 2'000'000; i++) {
            slow_path scope;
            if (void *object = stash.exchange(nullptr)) {
                give(object, kThreads);
                take(object, who);
                mine.push_back(object);
            }
            if (random.one_in(64))
                exchange(random, mine, who);
            else if (random.one_in(2))
                push_one(mine, who);
            else if (void *object = percpu::pop(kClass)) {
                take(object, who);
                mine.push_back(object);
            }
        }
        tids_[number] = 0;
        block_signals();
        if (void *object = stash.exchange(nullptr))
            mine.push_back(object);
        left_[number] = mine;
        finished_++;
    }

    void push_one(std::vector<void *> &mine, uint8_t who) {
        if (mine.empty())
            return;
        void *object = mine.back();
        give(object, who);
        if (percpu::push(kClass, object))
            mine.pop_back();
        else
            take(object, who);
    }

    // Swaps the halves, brings a new sheaf, or takes both sheaves home.
    void exchange(random_numbers &random, std::vector<void *> &mine, uint8_t who) {
        uint64_t seen = percpu::word(kClass);
        if (random.one_in(3)) {
            percpu::replace(kClass, seen, word_of(spare_half(seen), main_half(seen)));
        } else if (main_half(seen) == 0 || spare_half(seen) == 0) {
            uint32_t id = sheaf_alloc(kCapacity, true);
            uint32_t other = main_half(seen) != 0 ? main_half(seen) : spare_half(seen);
            if (!percpu::replace(kClass, seen, word_of(sheaf_empty_top(id, kCapacity), other)))
                sheaf_free(id);
        } else if (percpu::replace(kClass, seen, 0)) {
            for (uint32_t top : {main_half(seen), spare_half(seen)}) {
                for (uint32_t at = sheaf_empty_top(sheaf_id(top), kCapacity) + 8; at <= top;
                     at += 8) {
                    take(*sheaf_slot(at), who);
                    mine.push_back(*sheaf_slot(at));
                }
                sheaf_free(sheaf_id(top));
            }
        }
    }

    static int count_left(char *slot) {
        uint64_t word = *reinterpret_cast<uint64_t *>(slot + kWordsAt + kClass * 8);
        return static_cast<int>(sheaf_count(main_half(word), kCapacity) +
                                sheaf_count(spare_half(word), kCapacity));
    }

    char objects_[kObjects];
    std::atomic<uint8_t> holders_[kObjects] = {};
    std::atomic<int> tids_[kThreads] = {};
    std::vector<void *> left_[kThreads];
    std::atomic<int> wrong_{0};
    std::atomic<int> signals_{0};
    std::atomic<int> finished_{0};
    timer_t timer_ = {};
};

TEST(percpu, objects_have_one_holder_whatever_interrupts) {
    for (percpu_policy policy : {percpu_policy::mm_cid, percpu_policy::cpu_id})
        EXPECT_TRUE(succeeded(in_child([policy] {
            mutable_options().percpu = policy;
            ASSERT_TRUE(heap_init());
            if (percpu::has_rseq())
                std::make_unique<crowd>()->run();
        })));
}

// A thread that gives up its rseq area has cpu_id -1 from then on, where the slot is empty for
// ever.
TEST(percpu, by_cpu_id_unregistered_threads_use_no_cpus_caches) {
    EXPECT_TRUE(succeeded(in_child([] {
        mutable_options().percpu = percpu_policy::cpu_id;
        ASSERT_TRUE(heap_init());
        if (!percpu::has_rseq())
            return;
        std::thread([] {
            char *area = static_cast<char *>(__builtin_thread_pointer()) + __rseq_offset;
            size_t size = __rseq_size < 32 ? 32 : __rseq_size;
            ASSERT_EQ(syscall(SYS_rseq, area, size, 1 /* unregister */, 0x53053053), 0);
            std::vector<void *> held;
            for (int round = 0; round < 3; round++) {
                for (size_t bytes = 1; bytes < 2000; bytes++)
                    held.push_back(heap_alloc(bytes, GFP_KERNEL));
                for (void *p : held)
                    heap_free(p, GFP_KERNEL);
                held.clear();
            }
            EXPECT_EQ(percpu::current_slot(), nullptr);
            EXPECT_EQ(percpu::pop(kClass), nullptr);
            EXPECT_FALSE(percpu::push(kClass, area));
        }).join();
        const char *slot = reinterpret_cast<const char *>(g_percpu.base) - 2 * kSlotSize;
        for (size_t i = 0; i < 2 * kSlotSize; i++)
            ASSERT_EQ(slot[i], 0) << i;
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

} // namespace
} // namespace pagoda::test
