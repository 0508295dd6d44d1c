// sandbox: a seccomp filter entered after start allows what glibc's malloc and threads use, and
// nothing more. Whatever else is called ends the program with the call's number. Threads that
// already run, and threads started inside, allocate in every size.
#include "../workout.h"
#include "filter.h"

#include <pthread.h>

static const int kAllowed[] = {
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_mremap, SYS_futex, SYS_getrandom,
    SYS_write, SYS_exit, SYS_exit_group, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_sched_yield,
    // What starts and ends a thread.
    SYS_clone, SYS_clone3, SYS_set_robust_list, SYS_rseq,
    // glibc reads the overcommit mode before it gives an arena's memory back, and counts CPUs
    // before it makes one. Pagoda is allowed none of it, but that malloc_trim may read a file.
    SYS_openat, SYS_read, SYS_close, SYS_sched_getaffinity};
enum { kAllowedCount = sizeof kAllowed / sizeof *kAllowed, kGlibcOnly = 4, kNotForTrim = 1 };

static pthread_barrier_t entered;

static void report_call(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    char text[80];
    int length =
        snprintf(text, sizeof text, "sandbox.c: failed: system call %d\n", info->si_syscall);
    if (write(2, text, (size_t)length) > 0) {
        _exit(3);
    }
    _exit(4);
}

static void *work(void *argument) {
    workout((uintptr_t)argument, 2000, SIZE_MAX);
    return NULL;
}

static void *work_before_and_after(void *argument) {
    work(argument);
    pthread_barrier_wait(&entered);
    pthread_barrier_wait(&entered);
    return work(argument);
}

int main(int argc, char **argv) {
    check_begin();
    struct sigaction action = {.sa_sigaction = report_call, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    pthread_t threads[4];
    // "early": not even one allocation before the door closes.
    const bool trim = argc > 1 && strcmp(argv[1], "trim") == 0;
    const bool early = argc > 1 && strcmp(argv[1], "early") == 0;
    pthread_barrier_init(&entered, NULL, 3);
    for (uintptr_t i = 0; !early && i < 2; ++i) {
        REQUIRE(pthread_create(&threads[i], NULL, work_before_and_after, (void *)i) == 0);
    }
    if (!early) {
        pthread_barrier_wait(&entered);
    }
    const unsigned forbidden = on_glibc() ? 0 : trim ? kNotForTrim : kGlibcOnly;
    install_filter(kAllowed, kAllowedCount - forbidden, SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP);
    if (!early) {
        pthread_barrier_wait(&entered);
    }
    work((void *)9);
    for (uintptr_t i = early ? 0 : 2; i < 4; ++i) {
        REQUIRE(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    }
    for (int i = 0; i < 4; ++i) {
        pthread_join(threads[i], NULL);
    }
    if (trim) {
        malloc_trim(0);
    }
    work((void *)10);
    // A full burst, so that memory is given back as well.
    for (int round = 0; round < 3; ++round) {
        void *blocks[2000];
        for (int i = 0; i < 2000; ++i) {
            blocks[i] = malloc(50000);
            CHECK(blocks[i] != NULL);
        }
        for (int i = 0; i < 2000; ++i) {
            free(blocks[i]);
        }
    }
    return check_end();
}
