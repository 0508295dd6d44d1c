// fork_handlers: forks while a library's fork handlers allocate, and while another thread allocates
// under the lock that these handlers take.
#include "early_handlers.h"

#include <stdatomic.h>
#include <sys/wait.h>

static atomic_bool done;

static void *allocate_under_the_lock(void *unused) {
    (void)unused;
    while (!done) {
        void *blocks[64];
        pthread_mutex_lock(&early_lock);
        for (size_t i = 0; i < 64; ++i) {
            blocks[i] = malloc(40000 + i * 10000);
        }
        for (size_t i = 0; i < 64; ++i) {
            free(blocks[i]);
        }
        pthread_mutex_unlock(&early_lock);
    }
    return NULL;
}

static void fork_and_wait(void) {
    pid_t child = fork();
    if (child == 0) {
        free(malloc(100000));
        _exit(early_end());
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}

int main(void) {
    check_begin();
    alarm(60); // a deadlock
    fork_and_wait();
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, allocate_under_the_lock, NULL) == 0);
    for (int i = 0; i < 30; ++i) {
        fork_and_wait();
    }
    done = true;
    pthread_join(thread, NULL);
    return check_end() | early_end();
}
