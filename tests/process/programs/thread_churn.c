// thread_churn: 20,000 threads live and die, eight at a time. Each takes blocks, frees those of an
// earlier thread and leaves its own to a later one. What a thread leaves behind must not pile up.
#include "../workout.h"

#include <pthread.h>

enum { kThreads = 20000, kAtOnce = 8, kBoxes = 256 };

static char *boxes[kBoxes];

static void *live(void *argument) {
    uint64_t state = (uintptr_t)argument;
    for (int i = 0; i < 12; ++i) {
        size_t size = workout_size(&state, 30000);
        char *block = malloc(size);
        CHECK(block != NULL);
        block[0] = block[size - 1] = 1;
        free(__atomic_exchange_n(&boxes[workout_random(&state) % kBoxes], block, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

// Without what is kept free for the next request.
static long resident_kilobytes(void) {
    malloc_trim(0);
    return status_kilobytes("VmRSS:");
}

int main(void) {
    check_begin();
    pthread_t threads[kAtOnce];
    long settled = 0;
    for (uintptr_t i = 0; i < kThreads; ++i) {
        if (i >= kAtOnce) {
            pthread_join(threads[i % kAtOnce], NULL);
        }
        REQUIRE(pthread_create(&threads[i % kAtOnce], NULL, live, (void *)i) == 0);
        if (i == kThreads / 10) {
            settled = resident_kilobytes();
        }
    }
    for (int i = 0; i < kAtOnce; ++i) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < kBoxes; ++i) {
        free(boxes[i]);
    }
    CHECK(resident_kilobytes() < settled + 8192);
    return check_end();
}
