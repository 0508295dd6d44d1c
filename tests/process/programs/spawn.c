// spawn [THREADS]: every way to start a process, with that many busy threads beside it.
#include "../workout.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;
static char *const kTrue[] = {(char *)"/bin/true", NULL};
static int stopping;

static void *busy(void *argument) {
    for (uintptr_t seed = (uintptr_t)argument; !__atomic_load_n(&stopping, __ATOMIC_RELAXED);) {
        seed += 100;
        workout(seed, 100, 200000);
    }
    return NULL;
}

static void succeeds(pid_t child) {
    int status = -1;
    CHECK(child > 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static int execute_true(void *argument) {
    (void)argument;
    execve(kTrue[0], kTrue, environ);
    _exit(1);
}

static void by_vfork(void) {
    pid_t child = vfork();
    if (child == 0) {
        execve(kTrue[0], kTrue, environ);
        _exit(1);
    }
    succeeds(child);
}

static void by_clone_sharing_memory(void) {
    enum { kStack = 65536 };
    char *stack = malloc(kStack);
    REQUIRE(stack != NULL);
    succeeds(clone(execute_true, stack + kStack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    free(stack);
}

// A fork that glibc does not see: no atfork handler runs. Sound only where no other thread can
// hold a lock, and there the child may use the heap.
static void by_raw_clone(void) {
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        workout(7, 500, SIZE_MAX);
        _exit(check_end());
    }
    succeeds(child);
}

static void by_fork(void) {
    pid_t child = fork();
    if (child == 0) {
        workout(8, 500, SIZE_MAX);
        by_vfork();
        exit(check_end());
    }
    succeeds(child);
}

static void by_popen(void) {
    char text[100] = "";
    FILE *stream = popen("echo heard", "r");
    REQUIRE(stream != NULL);
    CHECK(fgets(text, sizeof text, stream) != NULL);
    CHECK_EQ(pclose(stream), 0);
    CHECK_EQ(strcmp(text, "heard\n"), 0);
}

int main(int argc, char **argv) {
    check_begin();
    enum { kMostThreads = 8 };
    pthread_t threads[kMostThreads];
    uintptr_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    REQUIRE(count <= kMostThreads);
    for (uintptr_t i = 0; i < count; ++i) {
        REQUIRE(pthread_create(&threads[i], NULL, busy, (void *)i) == 0);
    }
    for (int round = 0; round < 15; ++round) {
        by_vfork();
        by_clone_sharing_memory();
        if (count == 0) {
            by_raw_clone();
        }
        by_fork();
        pid_t child = 0;
        CHECK_EQ(posix_spawn(&child, kTrue[0], NULL, NULL, kTrue, environ), 0);
        succeeds(child);
        CHECK_EQ(system("exit 3"), 3 << 8);
        by_popen();
        workout((uint64_t)round, 100, SIZE_MAX);
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (uintptr_t i = 0; i < count; ++i) {
        pthread_join(threads[i], NULL);
    }
    return check_end();
}
