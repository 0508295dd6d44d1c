// fork_storm: 500 forks from a process with four busy threads. Every child allocates in every
// size, some start threads or fork again, and every one ends by exit(0). A deadlock is ended by
// the child's own alarm and shows in its status.
#include "../workout.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { kForks = 500, kThreads = 4, kAtOnce = 4 };

static int stopping;
static unsigned char *inherited[64];

static void *busy(void *argument) {
    for (uintptr_t seed = (uintptr_t)argument; !__atomic_load_n(&stopping, __ATOMIC_RELAXED);) {
        // Little memory: a child copies what its parent writes.
        seed += 100;
        workout(seed, 300, seed / 100 % 8 == 0 ? 400000 : 9000);
    }
    return NULL;
}

static void *work(void *argument) {
    workout((uintptr_t)argument, 100, 40000);
    return NULL;
}

static void child_of(int number) {
    alarm(120);
    for (int i = 0; i < 64; ++i) {
        CHECK(all_bytes_are(inherited[i], 1000, (unsigned char)i));
        free(inherited[i]);
    }
    workout((uint64_t)number, 100, number % 10 == 0 ? 4000000 : 40000);
    if (number % 10 == 1) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, work, NULL), 0);
        pthread_join(thread, NULL);
    }
    if (number % 10 == 2) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            workout(5, 100, 40000);
            exit(check_end());
        }
        int status = -1;
        CHECK_EQ(waitpid(grandchild, &status, 0), grandchild);
        CHECK_EQ(status, 0);
    }
    malloc_trim(0);
    exit(check_end());
}

int main(void) {
    check_begin();
    pthread_t threads[kThreads];
    for (int i = 0; i < 64; ++i) {
        inherited[i] = malloc(1000);
        REQUIRE(inherited[i] != NULL);
        memset(inherited[i], i, 1000);
    }
    for (uintptr_t i = 0; i < kThreads; ++i) {
        REQUIRE(pthread_create(&threads[i], NULL, busy, (void *)i) == 0);
    }
    int running = 0;
    for (int i = 0; i < kForks || running > 0;) {
        if (i < kForks && running < kAtOnce) {
            pid_t child = fork();
            REQUIRE(child >= 0);
            if (child == 0) {
                child_of(i);
            }
            ++i;
            ++running;
            continue;
        }
        int status = -1;
        CHECK(wait(&status) > 0);
        CHECK_EQ(status, 0);
        --running;
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < kThreads; ++i) {
        pthread_join(threads[i], NULL);
    }
    return check_end();
}
