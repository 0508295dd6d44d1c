// early_handlers: a library whose constructor registers fork handlers that allocate, as libraries
// do that keep a lock of their own whole across fork. Its constructor runs before those of whatever
// comes in front of it.
#include "early_handlers.h"

#include <pthread.h>

pthread_mutex_t early_lock = PTHREAD_MUTEX_INITIALIZER;

// More than any cache holds of it, and some of every regime.
static void allocate(void) {
    static void *blocks[3000];
    for (size_t i = 0; i < 3000; ++i) {
        blocks[i] = malloc(200 + i * 32);
        CHECK(blocks[i] != NULL);
    }
    for (size_t i = 0; i < 3000; ++i) {
        free(blocks[i]);
    }
}

static void before(void) {
    pthread_mutex_lock(&early_lock);
    allocate();
}

static void after(void) {
    allocate();
    pthread_mutex_unlock(&early_lock);
}

__attribute__((constructor)) static void start(void) {
    REQUIRE(pthread_atfork(before, after, after) == 0);
}

int early_end(void) { return check_end(); }
