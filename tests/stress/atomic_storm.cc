// atomic_storm: what no other allocator offers, under load. A timer's handler interrupts four
// allocating threads 10,000 times a second, wherever they are, and allocates and frees objects of
// all sizes with GFP_ATOMIC, with plain malloc and with kmalloc_nolock. Nothing may deadlock, no
// object may be handed out twice, and when it is over the reserve must be full again.
//
//   atomic_storm 60        the long run, seconds
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "tests/stress/blocks.h"

#include <pagoda/mm.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

namespace {

using pagoda::stress::random_numbers;

constexpr int kThreads = 4;
constexpr size_t kHeld = 64; // by a handler, from one signal to the next
constexpr long kPeriodNs = 100'000;

std::atomic<bool> stopping{false};
std::atomic<uint64_t> handled{0};
std::atomic<uint64_t> served{0};
std::atomic<uint64_t> refused{0};
struct kmem_cache *cache;

void fail(const char *what) {
    fprintf(stderr, "atomic_storm: %s\n", what);
    abort();
}

// An object that says at both ends whose it is.
struct object {
    unsigned char *at;
    size_t size;
    unsigned char mark;

    void fill(unsigned char with) {
        mark = with;
        at[0] = at[size - 1] = mark;
    }
    void check() const {
        if (at[0] != mark || at[size - 1] != mark)
            fail("an object was written to by somebody else");
    }
};

enum kind { plain, atomic, nolock, cached, page, kinds };

unsigned char *take(kind k, size_t &size) {
    switch (k) {
    case plain:
        return static_cast<unsigned char *>(malloc(size));
    case atomic:
        return static_cast<unsigned char *>(kmalloc(size, GFP_ATOMIC | __GFP_NOWARN));
    case nolock:
        return static_cast<unsigned char *>(kmalloc_nolock(size, 0, NUMA_NO_NODE));
    case cached:
        size = 200;
        return static_cast<unsigned char *>(kmem_cache_alloc(cache, GFP_ATOMIC | __GFP_NOWARN));
    default:
        size = 4096;
        return reinterpret_cast<unsigned char *>(__get_free_page(GFP_ATOMIC | __GFP_NOWARN));
    }
}

void give(kind k, unsigned char *p) {
    switch (k) {
    case plain:
        free(p);
        break;
    case nolock:
        kfree_nolock(p);
        break;
    case cached:
        kmem_cache_free(cache, p);
        break;
    case page:
        free_page(reinterpret_cast<unsigned long>(p));
        break;
    default:
        kfree(p);
    }
}

// What one thread's handlers hold; they do not interrupt one another.
struct handler_state {
    random_numbers numbers{1};
    object held[kHeld] = {};
    kind kinds_[kHeld] = {};
    uint64_t count = 0;

    void step() {
        size_t slot = numbers.below(kHeld);
        if (held[slot].at != nullptr) {
            held[slot].check();
            give(kinds_[slot], held[slot].at);
            held[slot].at = nullptr;
            return;
        }
        kind k = static_cast<kind>(numbers.below(kinds));
        // All sizes: mostly small, some that are page runs, a few that are vmalloc's to a malloc.
        size_t size = 1 + numbers.below(uint64_t{1} << (1 + numbers.below(k == plain ? 21 : 17)));
        held[slot].at = take(k, size);
        if (held[slot].at == nullptr) {
            refused.fetch_add(1, std::memory_order_relaxed);
            return;
        }
        held[slot].size = size;
        held[slot].fill(static_cast<unsigned char>(numbers.below(256)));
        kinds_[slot] = k;
        served.fetch_add(1, std::memory_order_relaxed);
    }
};

thread_local handler_state *state;

void on_signal(int) {
    int saved = errno;
    if (state != nullptr) {
        handled.fetch_add(1, std::memory_order_relaxed);
        state->step();
    }
    errno = saved;
}

void *work(void *seed) {
    static handler_state states[kThreads];
    auto number = reinterpret_cast<uintptr_t>(seed);
    states[number].numbers = random_numbers(number + 100);
    state = &states[number];
    random_numbers numbers(number);
    object held[256] = {};
    kind kinds_of[256] = {};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    while (!stopping.load(std::memory_order_relaxed)) {
        size_t slot = numbers.below(256);
        object &o = held[slot];
        if (o.at != nullptr) {
            o.check();
            give(kinds_of[slot], o.at);
            o.at = nullptr;
            continue;
        }
        kind k = static_cast<kind>(numbers.below(kinds));
        size_t size = 1 + numbers.below(uint64_t{1} << (1 + numbers.below(16)));
        if (k == nolock || k == atomic)
            o.at = static_cast<unsigned char *>(kmalloc(size, GFP_KERNEL));
        else
            o.at = take(k, size);
        if (k == nolock)
            k = atomic;
        if (o.at == nullptr && k != cached && k != page)
            fail("a blocking allocation failed");
        if (o.at == nullptr)
            continue;
        o.size = size;
        o.fill(static_cast<unsigned char>(numbers.below(256)));
        kinds_of[slot] = k;
    }
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    for (size_t i = 0; i < 256; i++) {
        if (held[i].at != nullptr) {
            held[i].check();
            give(kinds_of[i], held[i].at);
        }
    }
    for (size_t i = 0; i < kHeld; i++)
        if (state->held[i].at != nullptr)
            give(state->kinds_[i], state->held[i].at);
    return nullptr;
}

} // namespace

int main(int argc, char **argv) {
    unsigned seconds = argc > 1 ? static_cast<unsigned>(atoi(argv[1])) : 60;
    alarm(seconds + 60); // a deadlock ends the test
    cache = kmem_cache_create("storm", 200, nullptr, SLAB_NO_MERGE);
    kfree(kmalloc(64, GFP_KERNEL)); // the first use stocks the reserve
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGRTMIN, &action, nullptr);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &set, nullptr); // for the threads alone
    pthread_t threads[kThreads];
    for (uintptr_t i = 0; i < kThreads; i++)
        if (pthread_create(&threads[i], nullptr, work, reinterpret_cast<void *>(i)) != 0)
            fail("pthread_create");
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN;
    timer_t timer;
    itimerspec period = {{0, kPeriodNs}, {0, kPeriodNs}};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        timer_settime(timer, 0, &period, nullptr) != 0)
        fail("timer");
    timespec until = {static_cast<time_t>(seconds), 0};
    while (nanosleep(&until, &until) != 0) {
    }
    timer_delete(timer);
    stopping = true;
    for (pthread_t t : threads)
        pthread_join(t, nullptr);
    kmem_cache_destroy(cache);
    kfree(kmalloc(100000, GFP_KERNEL)); // the next blocking calls refill the reserve
    void *fresh[64];
    for (void *&p : fresh)
        p = kmalloc(200000, GFP_KERNEL);
    for (void *p : fresh)
        kfree(p);
    printf("%llu signals, %llu objects served in handlers, %llu refused\n",
           static_cast<unsigned long long>(handled.load()),
           static_cast<unsigned long long>(served.load()),
           static_cast<unsigned long long>(refused.load()));
    if (handled == 0 || served == 0)
        fail("the handlers did nothing");
    pagoda::zone_stats zone = pagoda::zone_normal().stats();
    if (zone.reserved < pagoda::zone_normal().watermark_pages(pagoda::watermark::min))
        fail("the reserve was not refilled");
    malloc_trim(0);
    return 0;
}
