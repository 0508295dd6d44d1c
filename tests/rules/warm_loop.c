// Counts how often a warm loop of malloc and free leaves the hit path: a breakpoint stands at the
// start of each slow path, whose offsets in libpagoda.so are the arguments. Prints one line:
//   rounds, rounds that left the hit path, involuntary switches, and the same after a cold loop.
// A switch in the middle of a restartable sequence restarts it by way of the slow path.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <ucontext.h>

enum { kRounds = 2000, kPairs = 1000, kColdBlocks = 100000, kSlowPaths = 2 };
static const uint8_t kBreakpoint = 0xcc;

static volatile uint8_t *slow_path[kSlowPaths];
static uint8_t first_byte[kSlowPaths];
static volatile int hits;

static void on_breakpoint(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    registers[REG_RIP] -= 1;
    for (int i = 0; i < kSlowPaths; i++)
        *slow_path[i] = first_byte[i];
    hits++;
}

static void set_breakpoints(void) {
    for (int i = 0; i < kSlowPaths; i++)
        *slow_path[i] = kBreakpoint;
}

static void pairs(void) {
    static const size_t sizes[] = {1, 16, 100, 500, 1000};
    for (int i = 0; i < kPairs; i++)
        free(malloc(sizes[i % (sizeof sizes / sizeof *sizes)]));
}

static long switches(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw + usage.ru_nvcsw;
}

int main(int argc, char **argv) {
    static void *cold[kColdBlocks];
    Dl_info library;
    if (argc != 1 + kSlowPaths || dladdr((void *)malloc, &library) == 0)
        return 2;

    // Each processor has a cache of its own to warm.
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);

    struct sigaction action = {.sa_sigaction = on_breakpoint, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    for (int i = 0; i < kSlowPaths; i++) {
        slow_path[i] = (uint8_t *)library.dli_fbase + strtoull(argv[1 + i], NULL, 16);
        first_byte[i] = *slow_path[i];
        uintptr_t page = (uintptr_t)slow_path[i] & ~(uintptr_t)0xfff;
        if (mprotect((void *)page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
            return 2;
    }

    pairs();
    long before = switches();
    for (int round = 0; round < kRounds; round++) {
        set_breakpoints();
        pairs();
    }
    int warm_hits = hits;
    long during = switches() - before;

    set_breakpoints();
    for (int i = 0; i < kColdBlocks; i++)
        cold[i] = malloc(100);
    int cold_hits = hits - warm_hits;
    for (int i = 0; i < kColdBlocks; i++)
        free(cold[i]);
    printf("%d %d %ld %d\n", kRounds, warm_hits, during, cold_hits);
    return 0;
}
