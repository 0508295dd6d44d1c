// Counts how often a warm loop of malloc and free leaves its path: a breakpoint stands at the start
// of each function whose offset in libpagoda.so is an argument. Prints a line for each try:
//   rounds, rounds that left the path, switches meanwhile
// and at last the number of rounds in which a cold loop left it: does the counter count?
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

enum { kTries = 30, kRounds = 200, kPairs = 1000, kColdBlocks = 100000, kMostWatched = 8 };
static const uint8_t kBreakpoint = 0xcc;

static volatile uint8_t *watched[kMostWatched];
static uint8_t first_byte[kMostWatched];
static int watched_count;
static volatile int hits;

static void on_breakpoint(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    registers[REG_RIP] -= 1;
    for (int i = 0; i < watched_count; i++)
        *watched[i] = first_byte[i];
    hits++;
}

static void set_breakpoints(void) {
    for (int i = 0; i < watched_count; i++)
        *watched[i] = kBreakpoint;
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

static void try_warm(void) {
    pairs();
    int hits_before = hits;
    long before = switches();
    for (int round = 0; round < kRounds; round++) {
        set_breakpoints();
        pairs();
    }
    printf("%d %d %ld\n", kRounds, hits - hits_before, switches() - before);
}

int main(int argc, char **argv) {
    static void *cold[kColdBlocks];
    Dl_info library;
    if (argc < 2 || argc > 1 + kMostWatched || dladdr((void *)malloc, &library) == 0)
        return 2;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);

    // Each processor has a cache of its own to warm.
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);

    struct sigaction action = {.sa_sigaction = on_breakpoint, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    for (watched_count = 0; watched_count < argc - 1; watched_count++) {
        volatile uint8_t *at =
            (uint8_t *)library.dli_fbase + strtoull(argv[1 + watched_count], NULL, 16);
        watched[watched_count] = at;
        first_byte[watched_count] = *at;
        uintptr_t page = (uintptr_t)at & ~(uintptr_t)0xfff;
        if (mprotect((void *)page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
            return 2;
    }

    for (int i = 0; i < kTries; i++)
        try_warm();

    int before = hits;
    for (int i = 0; i < kColdBlocks; i++) {
        if (i % kPairs == 0)
            set_breakpoints();
        cold[i] = malloc(100);
    }
    printf("%d\n", hits - before);
    for (int i = 0; i < kColdBlocks; i++)
        free(cold[i]);
    return 0;
}
