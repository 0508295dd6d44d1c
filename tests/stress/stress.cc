// stress: Pagoda under threads, signals, forks. Linked with its malloc symbols, so that its own
// count of live objects can be asked for at the end: whatever happened, it must be where it began,
// and all free memory must be given back.
//
//   stress threads --seconds=3600 --signal=allocate   a long run: 1, 2, 4 … 64 threads in turn
//   stress churn --count=2000000 --signal=return      short-lived threads, eight at a time
//   stress forks --count=100000 --signal=return       children of a process with four busy threads
//
// --seed=N repeats a run's choices (not its timing); --signal sends 10,000 signals a second, to
// handlers that return at once, or that allocate and free themselves.
#include "hugepage/report.h"
#include "lib/heap.h"
#include "tests/stress/blocks.h"

#include <CLI/CLI.hpp>

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

using namespace pagoda::stress;

namespace {

constexpr int kMaxThreads = 64;
constexpr size_t kStack =
    256 << 10; // all of them fit glibc's cache of stacks, whose count is then steady
constexpr long kSignalPeriodNs = 100'000;

std::atomic<bool> stopping{false};
std::atomic<uint64_t> operations{0};
std::atomic<uint64_t> signals{0};
std::atomic<uint64_t> served_in_handlers{0};
uint64_t seed = 1;
pthread_attr_t thread_attributes;

thread_local random_numbers handler_numbers(0);

void on_signal(int) { signals.fetch_add(1, std::memory_order_relaxed); }

void on_signal_allocate(int) {
    int saved = errno;
    random_numbers &r = handler_numbers;
    if (r.below(4) != 0)
        r.mix(signals.fetch_add(1, std::memory_order_relaxed) + 1);
    // May be refused: a handler does not wait.
    if (block *b = make_block(r, r.below(64) == 0 ? 24 : 12)) {
        served_in_handlers.fetch_add(1, std::memory_order_relaxed);
        drop_block(r.below(2) == 0 ? exchange_block(r, b) : b);
    }
    errno = saved;
}

// A timer of the whole process whose signals the main thread leaves to the others.
class signal_storm {
  public:
    explicit signal_storm(const std::string &mode) {
        if (mode == "none")
            return;
        struct sigaction act = {};
        act.sa_handler = mode == "return" ? on_signal : on_signal_allocate;
        act.sa_flags = SA_RESTART;
        sigaction(SIGRTMIN, &act, nullptr);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        pthread_sigmask(SIG_BLOCK, &set, nullptr);
        sigevent event = {};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGRTMIN;
        on_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
        require(on_, "timer_create");
        itimerspec period = {{0, kSignalPeriodNs}, {0, kSignalPeriodNs}};
        timer_settime(timer_, 0, &period, nullptr);
    }
    ~signal_storm() {
        if (on_)
            timer_delete(timer_);
    }
    signal_storm(const signal_storm &) = delete;
    signal_storm &operator=(const signal_storm &) = delete;
    bool on() const { return on_; }

  private:
    timer_t timer_ = {};
    bool on_ = false;
};

void accept_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

// Before a thread ends: without rseq a handler that allocates after the last destructor of thread
// data leaves its thread's slot behind, see docs/limits.md.
void refuse_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void migrate(random_numbers &r) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(r.below(static_cast<uint64_t>(sysconf(_SC_NPROCESSORS_ONLN))), &set);
    sched_setaffinity(0, sizeof set, &set); // a CPU we may not have: stay where we are
}

// Allocates in every size and way, frees own blocks and those of others.
void work(random_numbers &r, uint64_t rounds) {
    block *mine[64] = {};
    for (uint64_t i = 0; i < rounds && !stopping.load(std::memory_order_relaxed); i++) {
        block *&slot = mine[r.below(64)];
        switch (r.below(8)) {
        case 0:
            slot = exchange_block(r, slot);
            break;
        case 1:
            slot = resize_block(r, slot);
            break;
        case 2: // a batch, last in first out: whole sheaves fill and empty
            for (block *&b : mine) {
                drop_block(b);
                b = make_block(r, 9);
            }
            break;
        default:
            drop_block(slot);
            slot = make_block(r, r.below(1000) == 0 ? 23 : r.below(16) == 0 ? 17 : 12);
        }
    }
    for (block *b : mine)
        drop_block(b);
    operations.fetch_add(rounds, std::memory_order_relaxed);
}

void *worker(void *argument) {
    random_numbers r(seed * 1000 + reinterpret_cast<uintptr_t>(argument));
    handler_numbers.mix(r.next());
    accept_signals();
    while (!stopping.load(std::memory_order_relaxed)) {
        migrate(r);
        work(r, 2000);
    }
    refuse_signals();
    return nullptr;
}

void *short_life(void *argument) {
    random_numbers r(seed * 1000 + reinterpret_cast<uintptr_t>(argument));
    handler_numbers.mix(r.next());
    accept_signals();
    for (int i = 0; i < 20; i++)
        drop_block(exchange_block(r, make_block(r, 12)));
    refuse_signals();
    return nullptr;
}

pthread_t start(void *(*body)(void *), uintptr_t number) {
    pthread_t thread;
    require(pthread_create(&thread, &thread_attributes, body, reinterpret_cast<void *>(number)) ==
                0,
            "pthread_create");
    return thread;
}

void sleep_ms(uint64_t ms) {
    timespec t = {static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000) * 1'000'000};
    while (nanosleep(&t, &t) != 0) {
    }
}

void run_threads(int count, uint64_t ms) {
    pthread_t threads[kMaxThreads];
    stopping.store(false);
    for (int i = 0; i < count; i++)
        threads[i] = start(worker, static_cast<uintptr_t>(i));
    sleep_ms(ms);
    stopping.store(true);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], nullptr);
    stopping.store(false);
}

void threads_phase(uint64_t seconds) {
    for (int count = 1; count <= kMaxThreads; count *= 2)
        run_threads(count, seconds * 1000 / 7);
}

void churn_phase(uint64_t count) {
    constexpr uint64_t kAtOnce = 8;
    pthread_t threads[kAtOnce];
    for (uint64_t i = 0; i < count + kAtOnce; i++) {
        if (i >= kAtOnce)
            pthread_join(threads[i % kAtOnce], nullptr);
        if (i < count)
            threads[i % kAtOnce] = start(short_life, i);
    }
}

void forks_phase(uint64_t count) {
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        threads[i] = start(worker, i);
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        require(child >= 0, "fork");
        if (child == 0) {
            alarm(120); // a lock nobody holds any more shows as a signal
            random_numbers r(seed + i);
            uint64_t live = pagoda::heap_get_stats().live_objects - blocks_in_boxes();
            work(r, 50);
            require(pagoda::heap_get_stats().live_objects - blocks_in_boxes() == live,
                    "a child lost or found objects");
            if (i % 8 == 0) {
                pthread_t thread = start(short_life, i);
                pthread_join(thread, nullptr);
                malloc_trim(0);
            }
            exit(0);
        }
        int status = -1;
        require(waitpid(child, &status, 0) == child && status == 0, "a child did not exit with 0");
    }
    stopping.store(true);
    for (pthread_t thread : threads)
        pthread_join(thread, nullptr);
    stopping.store(false);
}

// Brings what libc keeps (stacks, buffers) to where it stays.
void settle() {
    run_threads(kMaxThreads, 50);
    drop_all_blocks();
    malloc_trim(0);
}

uint64_t in_use_bytes(const pagoda::heap_stats &s) {
    return s.committed - s.free_pages - s.vmalloc_bytes;
}

} // namespace

int main(int argc, char **argv) {
    std::string phase;
    std::string signal_mode = "none";
    uint64_t seconds = 3;
    uint64_t count = 500;
    CLI::App app("Stress test of Pagoda's malloc");
    app.add_option("phase", phase)->required()->check(CLI::IsMember({"threads", "churn", "forks"}));
    app.add_option("--seconds", seconds, "of the threads phase");
    app.add_option("--count", count, "of threads (churn) or children (forks)");
    app.add_option("--signal", signal_mode)->check(CLI::IsMember({"none", "return", "allocate"}));
    app.add_option("--seed", seed);
    CLI11_PARSE(app, argc, argv);

    setvbuf(stdout, nullptr, _IONBF, 0);
    pthread_attr_init(&thread_attributes);
    pthread_attr_setstacksize(&thread_attributes, kStack);
    settle();
    pagoda::heap_stats before = pagoda::heap_get_stats();
    {
        signal_storm storm(signal_mode);
        if (phase == "threads")
            threads_phase(seconds);
        else if (phase == "churn")
            churn_phase(count);
        else
            forks_phase(count);
        require(!storm.on() || signals.load() > 100, "hardly any signal came");
        require(signal_mode != "allocate" || served_in_handlers.load() > 100,
                "handlers were refused");
    }
    drop_all_blocks();
    malloc_trim(0);
    pagoda::heap_stats after = pagoda::heap_get_stats();
    printf(
        "%lu operations, %lu signals, %lu objects in handlers; live %lu, before %lu; cached %lu; "
        "free memory held %lu KiB, in slabs and runs %lu KiB, before %lu KiB\n",
        operations.load(), signals.load(), served_in_handlers.load(), after.live_objects,
        before.live_objects, after.cached_objects, after.dirty_bytes >> 10,
        in_use_bytes(after) >> 10, in_use_bytes(before) >> 10);
    require(after.live_objects == before.live_objects, "objects were lost or found");
    require(after.live_bytes == before.live_bytes, "bytes were lost or found");
    require(after.dirty_bytes == 0, "free memory was kept after malloc_trim(0)");
    require(in_use_bytes(after) <= in_use_bytes(before) + (256 << 10), "empty slabs were kept");
    require(pagoda::misuse_count() == 0, "a correct program was accused");
    return 0;
}
