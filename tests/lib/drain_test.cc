#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/page_run.h"
#include "lib/thread.h"

#include <atomic>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr unsigned kClass = 20;

class drain : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

std::vector<void *> take(unsigned cls, size_t n) {
    std::vector<void *> objects;
    for (size_t i = 0; i < n; i++)
        objects.push_back(cache_alloc(cls, GFP_KERNEL));
    return objects;
}

void give(unsigned cls, const std::vector<void *> &objects) {
    for (void *p : objects)
        cache_free(cls, p, GFP_KERNEL);
}

TEST_F(drain, takes_everything_out_of_the_sheaves) {
    give(kClass, take(kClass, 5000));
    EXPECT_GT(cache_cached(g_caches[kClass]), 0u);
    heap_trim(0);
    EXPECT_EQ(cache_cached(g_caches[kClass]), 0u);
    EXPECT_EQ(g_caches[kClass].in_use, 0u);
    EXPECT_EQ(g_caches[kClass].empty_slabs, 0u);
}

TEST_F(drain, leaves_objects_in_use_alone) {
    std::vector<void *> held = take(kClass, 300);
    for (size_t i = 0; i < held.size(); i++)
        memset(held[i], static_cast<int>(i), class_size(kClass));
    heap_trim(0);
    EXPECT_EQ(g_caches[kClass].in_use, held.size());
    for (size_t i = 0; i < held.size(); i++)
        EXPECT_EQ(static_cast<unsigned char *>(held[i])[class_size(kClass) - 1], i % 256);
    give(kClass, held);
}

TEST_F(drain, an_audit_of_sound_caches_finds_nothing) {
    give(kClass, take(kClass, 2000));
    EXPECT_EQ(caches_audit(), 0u);
}

TEST_F(drain, takes_what_other_threads_left_behind) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([] { give(kClass, take(kClass, 3000)); });
    for (std::thread &t : threads)
        t.join();
    EXPECT_TRUE(maybe_multithreaded());
    heap_trim(0);
    EXPECT_EQ(cache_cached(g_caches[kClass]), 0u);
    EXPECT_EQ(g_caches[kClass].in_use, 0u);
}

// Marks in the words and stacks of all CPUs.
size_t marks() {
    size_t n = 0;
    for (uint32_t cpu = 0; cpu < percpu::slots(); cpu++) {
        uintptr_t slot = g_percpu.base + (uintptr_t{cpu} << kSlotShift);
        for (unsigned cls = 1; cls <= kLastClass; cls++) {
            auto *word = reinterpret_cast<uint32_t *>(slot + kWordsAt + cls * 8);
            auto *stacks = reinterpret_cast<uint32_t *>(slot + kStacksAt + cls * 8);
            n += word[1] == percpu::kDrain;
            n += (stacks[0] == percpu::kStackDrain) + (stacks[1] == percpu::kStackDrain);
        }
    }
    return n;
}

// A word or a stack that ran empty between a drain's look and its mark carries the mark and nothing
// else.
TEST_F(drain, takes_a_mark_for_an_empty_word) {
    if (!percpu::has_rseq())
        GTEST_SKIP() << "nothing is drained from outside";
    uintptr_t slot = g_percpu.base + (uintptr_t{percpu::slots() - 1} << kSlotShift);
    *reinterpret_cast<uint64_t *>(slot + kWordsAt + kClass * 8) = uint64_t{percpu::kDrain} << 32;
    auto *stacks = reinterpret_cast<uint32_t *>(slot + kStacksAt + kClass * 8);
    stacks[0] = stacks[1] = percpu::kStackDrain;
    heap_trim(0);
    EXPECT_EQ(marks(), 0u);
}

// From here on the kernel does not know membarrier.
void forget_membarrier() {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program = {sizeof code / sizeof code[0], code};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST_F(drain, leaves_other_cpus_alone_where_it_cannot_stop_them) {
    EXPECT_TRUE(succeeded(in_child([] {
        forget_membarrier();
        std::thread([] { give(kClass, take(kClass, 3000)); }).join();
        give(kClass, take(kClass, 3000));
        heap_trim(0);
        EXPECT_EQ(g_caches[kClass].in_use, cache_cached(g_caches[kClass])) << "none is lost";
        EXPECT_EQ(caches_audit(), 0u);
        give(kClass, take(kClass, 3000));
    })));
}

TEST_F(drain, an_audit_without_memory_ends_quietly) {
    EXPECT_TRUE(succeeded(in_child([] {
        give(kClass, take(kClass, 5000));
        while (run_alloc(1, 0, GFP_NOWAIT | kGfpMayFault, nullptr) != nullptr)
            continue;
        sys::inject_failures(0, 1 << 30);
        EXPECT_EQ(caches_audit(), 0u);
    })));
}

TEST_F(drain, an_audit_names_what_is_free_twice_or_inside) {
    if (kDebug)
        GTEST_SKIP() << "debug builds report it at once";
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        uint64_t expected = 0;
        for (unsigned cls : {kClass, class_for_size(50000)}) {
            std::vector<void *> objects = take(cls, 3);
            cache_free(cls, objects[0], GFP_KERNEL);
            cache_free(cls, objects[1], GFP_KERNEL);
            cache_free(cls, objects[0], GFP_KERNEL);
            cache_free(cls, static_cast<char *>(objects[2]) + 16, GFP_KERNEL);
            EXPECT_EQ(caches_audit(), expected += 2) << "class " << cls;
        }
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 6u) << end.errors;
}

// While an object is held its first word names its holder; a free one says nothing.
constexpr uint64_t kHolder = 0xfeed'0000'0000'0000;

class holders {
  public:
    void run() {
        std::vector<std::thread> threads;
        for (uint64_t number = 1; number <= 3; number++)
            threads.emplace_back([this, number] { work(number); });
        for (int drains = 0; drains < 8000; drains++) {
            slow_path scope;
            caches_drain();
        }
        done_ = true;
        for (std::thread &t : threads)
            t.join();
        EXPECT_EQ(twice_, 0) << "an object had two owners";
        EXPECT_EQ(refused_, 0);
    }

  private:
    // Tiny, small and large sheaves, and one for page runs: the fewer objects a sheaf holds the
    // more often whole sheaves are exchanged.
    static constexpr unsigned kClasses[] = {class_for_size(16), class_for_size(1500),
                                            class_for_size(20000), class_for_size(50000)};

    void work(uint64_t number) {
        random_numbers random(number);
        std::vector<uint64_t *> held[4];
        while (!done_) {
            if (random.one_in(20))
                migrate(random);
            size_t which = random.below(4);
            auto &mine = held[which];
            unsigned cls = kClasses[which];
            slow_path scope;
            // Once more than before, now and then; mostly to and fro over a sheaf's end, where
            // words are exchanged.
            hold(which, random.below(3 * kClassTable.info[cls].capacity + 1), number, mine);
            size_t few = random.below(min_of<size_t>(kClassTable.info[cls].capacity, 12) + 1);
            for (int i = 0; i < 20; i++) {
                hold(which, mine.size() + few, number, mine);
                hold(which, mine.size() - min_of(few, mine.size()), number, mine);
            }
        }
        for (size_t which = 0; which < 4; which++) {
            slow_path scope;
            while (!held[which].empty())
                give(kClasses[which], number, held[which]);
        }
    }

    void hold(size_t which, size_t wanted, uint64_t number, std::vector<uint64_t *> &mine) {
        while (mine.size() < wanted && refused_ == 0)
            take(kClasses[which], number, mine);
        while (mine.size() > wanted)
            give(kClasses[which], number, mine);
    }

    static void migrate(random_numbers &random) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(random.below(static_cast<uint64_t>(sysconf(_SC_NPROCESSORS_ONLN))), &set);
        sched_setaffinity(0, sizeof set, &set); // a CPU we may not have: stay where we are
    }

    void take(unsigned cls, uint64_t number, std::vector<uint64_t *> &mine) {
        auto *p = static_cast<uint64_t *>(cache_alloc(cls, GFP_KERNEL));
        if (p == nullptr) {
            refused_++;
            return;
        }
        mine.push_back(p);
        uint64_t before = std::atomic_ref<uint64_t>(*p).exchange(kHolder | number);
        twice_ += (before >> 48) == (kHolder >> 48);
    }

    void give(unsigned cls, uint64_t number, std::vector<uint64_t *> &mine) {
        twice_ += std::atomic_ref<uint64_t>(*mine.back()).exchange(0) != (kHolder | number);
        cache_free(cls, mine.back(), GFP_KERNEL);
        mine.pop_back();
    }

    std::atomic<bool> done_{false};
    std::atomic<int> twice_{0};
    std::atomic<int> refused_{0};
};

TEST_F(drain, gives_no_object_two_owners_and_loses_none) {
    holders().run();
    heap_trim(0);
    EXPECT_EQ(caches_audit(), 0u);
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        EXPECT_EQ(g_caches[cls].in_use, 0u) << "class " << cls;
        EXPECT_EQ(cache_cached(g_caches[cls]), 0u) << "class " << cls;
    }
    EXPECT_EQ(sheaves_in_use(), 0u);
}

} // namespace
} // namespace pagoda::test
