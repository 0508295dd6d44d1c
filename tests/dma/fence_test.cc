#include "dma/fence.h"

#include "hugepage/options.h"
#include "tests/unit.h"

#include <atomic>
#include <fcntl.h>
#include <pthread.h>
#include <ucontext.h>

namespace pagoda::dma {
namespace {

constexpr size_t kBytes = 4 * kPageSize;

// Four pages, in a mapping that ends nowhere near.
char *pages() {
    void *p = mmap(nullptr, 2 * kPageblockSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    return reinterpret_cast<char *>(
        align_up(reinterpret_cast<uintptr_t>(p) + kPageSize, kPageblockSize));
}

owned_buffer owned(char *p, size_t bytes) { return {"dev", p, bytes, "DMA_FROM_DEVICE", p}; }

// What the kernel says, which no handler hears of.
bool can_read(const char *p) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    bool can = write(ends[1], p, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return can;
}
bool can_write(char *p) {
    int zero = open("/dev/zero", O_RDONLY);
    bool can = read(zero, p, 1) == 1;
    close(zero);
    return can;
}

volatile char *seen(char *p) { return p; }

TEST(Fence, ClosesTheWholePagesAlone) {
    EXPECT_TRUE(test::succeeded(test::in_child([] {
        char *p = pages();
        EXPECT_EQ(fence_make(owned(p + 1, kPageSize), false), nullptr);
        EXPECT_EQ(fence_make(owned(p + 100, 200), false), nullptr);
        fence *f = fence_make(owned(p + 1, kBytes - 2), false);
        ASSERT_NE(f, nullptr);
        EXPECT_TRUE(can_write(p) && can_write(p + kBytes - 1));
        EXPECT_FALSE(can_read(p + kPageSize) || can_read(p + kBytes - kPageSize - 1));
        EXPECT_FALSE(fence_open(f));
        EXPECT_TRUE(can_write(p + kPageSize));
        fence_close(f);
        EXPECT_FALSE(can_read(p + kPageSize));
        fence_remove(f);
        EXPECT_TRUE(can_write(p + kPageSize));
        f = fence_make(owned(p, kBytes), true);
        EXPECT_TRUE(can_read(p) && !can_write(p));
        fences_open(p, 1, false);
        EXPECT_FALSE(can_write(p));
        fences_open(p, 1, true);
        EXPECT_TRUE(can_write(p));
        fence_remove(f);
    })));
}

TEST(Fence, TheLastPageOfAGranuleStaysOpen) {
    EXPECT_TRUE(test::succeeded(test::in_child([] {
        char *p = pages() + kPageblockSize - kBytes;
        fence *f = fence_make(owned(p, kBytes), false);
        EXPECT_FALSE(can_read(p + kBytes - kPageSize - 1));
        EXPECT_TRUE(can_write(p + kBytes - kPageSize));
        fence_remove(f);
        EXPECT_EQ(fence_make(owned(p + kBytes - kPageSize, kPageSize), false), nullptr);
    })));
}

TEST(Fence, IsOpenForTheKernelForAWhile) {
    EXPECT_TRUE(test::succeeded(test::in_child([] {
        char *p = pages();
        fence *f = fence_make(owned(p, kBytes), false);
        {
            fences_paused open(reinterpret_cast<uintptr_t>(p), kPageSize);
            EXPECT_TRUE(can_write(p));
        }
        EXPECT_FALSE(can_read(p));
        {
            fences_paused elsewhere(reinterpret_cast<uintptr_t>(p) + kBytes, kPageSize);
            EXPECT_FALSE(can_read(p));
        }
        fence_open(f);
        { fences_paused open(reinterpret_cast<uintptr_t>(p), kPageSize); }
        EXPECT_TRUE(can_write(p));
        fence_remove(f);
    })));
}

TEST(Fence, WhoTouchesIsReportedOnceAndGoesOn) {
    test::child_end end = test::in_child([] {
        parse_options("on_error=report");
        char *p = pages();
        fence *f = fence_make(owned(p, kBytes), false);
        seen(p)[5] = 1;
        seen(p)[6] = 1;
        EXPECT_TRUE(fence_open(f));
        fence_remove(f);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_TRUE(end.said("dev: the processor writes 0x")) << end.errors;
    EXPECT_TRUE(end.said("byte 5 of the 16384")) << end.errors;
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST(Fence, ManyAreReportedEach) {
    test::child_end end = test::in_child([] {
        parse_options("on_error=report");
        char *p = pages();
        fence *f[400];
        for (int i = 0; i < 400; i++)
            f[i] = fence_make(owned(p + kPageSize * i, kPageSize), i % 2 != 0);
        for (int i = 0; i < 400; i += 100)
            seen(p)[kPageSize * static_cast<size_t>(i)] = 1;
        for (fence *one : f)
            fence_remove(one);
        memset(p, 1, 400 * kPageSize);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 4u) << end.errors;
}

// Threads that come at the same time are one report.
TEST(Fence, ThreadsMeetAtIt) {
    test::child_end end = test::in_child([] {
        parse_options("on_error=report");
        static char *p = pages();
        fence *f = fence_make(owned(p, kBytes), false);
        pthread_t threads[8];
        for (pthread_t &t : threads)
            pthread_create(
                &t, nullptr,
                [](void *) -> void * {
                    seen(p)[9] = 1;
                    return nullptr;
                },
                nullptr);
        for (pthread_t t : threads)
            pthread_join(t, nullptr);
        fence_remove(f);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

// A report that nobody reads for a while, as a pipe that is full.
TEST(Fence, IsOpenForTheKernelOnceATouchIsReported) {
    EXPECT_TRUE(test::in_child([] {
                    parse_options("on_error=report");
                    static char *p = pages();
                    static int ends[2];
                    static char full[kPageSize];
                    ASSERT_EQ(pipe(ends), 0);
                    ASSERT_EQ(fcntl(ends[1], F_SETPIPE_SZ, sizeof full), int{sizeof full});
                    ASSERT_EQ(write(ends[1], full, sizeof full), ssize_t{sizeof full});
                    ASSERT_EQ(dup2(ends[1], 2), 2);
                    fence *f = fence_make(owned(p, kBytes), false);
                    pthread_t touches, reads;
                    pthread_create(
                        &touches, nullptr,
                        [](void *) -> void * {
                            seen(p)[1] = 1;
                            return nullptr;
                        },
                        nullptr);
                    pthread_create(
                        &reads, nullptr,
                        [](void *) -> void * {
                            usleep(300'000);
                            for (int i = 0; i < 2; i++)
                                EXPECT_GT(read(ends[0], full, sizeof full), 0);
                            return nullptr;
                        },
                        nullptr);
                    usleep(100'000);
                    {
                        fences_paused open(reinterpret_cast<uintptr_t>(p), kPageSize);
                        EXPECT_TRUE(can_write(p));
                    }
                    pthread_join(touches, nullptr);
                    pthread_join(reads, nullptr);
                    fence_remove(f);
                    EXPECT_TRUE(can_write(p));
                }).succeeded());
}

// Whoever comes between two changes of the protection leaves nothing closed behind.
TEST(Fence, IsOpenInTheEndWhoeverTouchesMeanwhile) {
    EXPECT_TRUE(test::in_child([] {
                    parse_options("on_error=report");
                    constexpr size_t kTouched = 16;
                    static char *p = pages();
                    static std::atomic<bool> stop;
                    pthread_t threads[4];
                    for (pthread_t &t : threads)
                        pthread_create(
                            &t, nullptr,
                            [](void *) -> void * {
                                for (size_t i = 0; !stop.load(std::memory_order_relaxed); i++)
                                    seen(p)[i % kTouched * kPageSize] = 1;
                                return nullptr;
                            },
                            nullptr);
                    for (int round = 0; round < 40; round++) {
                        fence *f = fence_make(owned(p, kTouched * kPageSize), round % 2 != 0);
                        for (int i = 0; i < 10; i++) {
                            { fences_paused open(reinterpret_cast<uintptr_t>(p), kPageSize); }
                            fence_open(f);
                            fence_close(f);
                        }
                        fence_remove(f);
                        for (size_t i = 0; i < kTouched; i++)
                            ASSERT_TRUE(can_write(p + i * kPageSize)) << round;
                    }
                    stop = true;
                    for (pthread_t t : threads)
                        pthread_join(t, nullptr);
                }).succeeded());
}

char *elsewhere() {
    return static_cast<char *>(
        mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

TEST(Fence, OtherFaultsAreTheProgramsOwn) {
    // By default they end it.
    EXPECT_EQ(test::in_child([] {
                  (void)fence_make(owned(pages(), kBytes), false);
                  seen(elsewhere())[0] = 1;
              }).signal(),
              SIGSEGV);
    EXPECT_EQ(test::in_child([] {
                  (void)fence_make(owned(pages(), kBytes), false);
                  raise(SIGSEGV);
              }).signal(),
              SIGSEGV);
    // Its handlers, of both kinds, have them.
    test::child_end end = test::in_child([] {
        static char *bad = elsewhere();
        struct sigaction theirs = {};
        theirs.sa_sigaction = [](int, siginfo_t *info, void *) {
            _exit(info->si_addr == bad ? 42 : 1);
        };
        theirs.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &theirs, nullptr);
        (void)fence_make(owned(pages(), kBytes), false);
        seen(bad)[0] = 1;
    });
    EXPECT_EQ(WEXITSTATUS(end.status), 42);
    end = test::in_child([] {
        signal(SIGSEGV, [](int) { _exit(43); });
        (void)fence_make(owned(pages(), kBytes), false);
        seen(elsewhere())[0] = 1;
    });
    EXPECT_EQ(WEXITSTATUS(end.status), 43);
    // Sent by somebody and ignored: nothing.
    EXPECT_TRUE(test::succeeded(test::in_child([] {
        signal(SIGSEGV, SIG_IGN);
        (void)fence_make(owned(pages(), kBytes), false);
        raise(SIGSEGV);
    })));
}

TEST(Fence, AHandlerForOnceIsCalledOnce) {
    for (int kind : {0, SA_SIGINFO}) {
        test::child_end end = test::in_child(
            [=] {
                struct sigaction theirs = {};
                if (kind == 0)
                    theirs.sa_handler = [](int) { EXPECT_EQ(write(2, "once\n", 5), 5); };
                else
                    theirs.sa_sigaction = [](int, siginfo_t *, void *) {
                        EXPECT_EQ(write(2, "once\n", 5), 5);
                    };
                theirs.sa_flags = kind | static_cast<int>(SA_RESETHAND);
                sigaction(SIGSEGV, &theirs, nullptr);
                rlimit soon = {1, 1}; // of processor time, if it were called for ever
                setrlimit(RLIMIT_CPU, &soon);
                (void)fence_make(owned(pages(), kBytes), false);
                seen(elsewhere())[0] = 1;
            },
            10);
        EXPECT_EQ(end.signal(), SIGSEGV);
        EXPECT_EQ(end.errors.substr(0, 10), "once\n");
    }
}

// A thread that touched a page before somebody opened it may come to the handler afterwards.
TEST(Fence, WhoComesLateTriesOnceMore) {
    EXPECT_TRUE(test::in_child([] {
                    static int passed_on = 0;
                    signal(SIGSEGV, [](int) { passed_on++; });
                    char *p = pages();
                    fence_remove(fence_make(owned(p, kBytes), false));
                    fence *others[300]; // one of them in its place
                    for (fence *&other : others)
                        other = fence_make(owned(pages(), kBytes), false);
                    struct sigaction guard;
                    sigaction(SIGSEGV, nullptr, &guard);
                    siginfo_t late = {};
                    late.si_code = SEGV_ACCERR;
                    late.si_addr = p;
                    ucontext_t context = {};
                    guard.sa_sigaction(SIGSEGV, &late, &context);
                    EXPECT_EQ(passed_on, 0);
                    // What comes again was no such touch.
                    guard.sa_sigaction(SIGSEGV, &late, &context);
                    EXPECT_EQ(passed_on, 1);
                    for (fence *other : others)
                        fence_remove(other);
                    for (int i = 0; i < 10; i++)
                        guard.sa_sigaction(SIGSEGV, &late, &context);
                    EXPECT_EQ(passed_on, 10);
                }).succeeded());
}

TEST(Fence, AChildOfForkIsInFrontOfNone) {
    EXPECT_TRUE(test::succeeded(test::in_child([] {
        char *p = pages();
        fence *f = fence_make(owned(p, kBytes), false);
        test::child_end child = test::in_child([=] {
            EXPECT_TRUE(can_write(p));
            fence *own = fence_make(owned(p, kBytes), false);
            EXPECT_FALSE(can_write(p));
            fence_remove(own);
        });
        EXPECT_TRUE(test::succeeded(child));
        EXPECT_FALSE(can_read(p));
        fence_remove(f);
    })));
}

} // namespace
} // namespace pagoda::dma
