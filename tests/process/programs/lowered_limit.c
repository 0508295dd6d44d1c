// lowered_limit: RLIMIT_AS is lowered to 1 GiB after start, as servers and test harnesses do;
// what the process then needs beside the heap (thread stacks, mappings) is still to be had.
#include "../workout.h"

#include <pthread.h>
#include <sys/resource.h>

enum { kThreads = 8, kMapping = 64 << 20 };

static void *work(void *argument) {
    workout((uintptr_t)argument, 500, 1 << 20);
    return NULL;
}

int main(int argc, char **argv) {
    check_begin();
    const bool mappings = argc > 1 && strcmp(argv[1], "mappings") == 0;
    workout(1, 1000, SIZE_MAX);
    struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    if (mappings) {
        // The program's own mmap (or dlopen's): nobody asks Pagoda first.
        void *area =
            mmap(NULL, kMapping, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(area != MAP_FAILED);
    }
    pthread_t threads[kThreads];
    int started = 0;
    for (uintptr_t i = 0; i < kThreads; ++i) {
        int error = pthread_create(&threads[started], NULL, work, (void *)i);
        CHECK_EQ(error, 0);
        started += error == 0;
    }
    for (int i = 0; i < started; ++i) {
        pthread_join(threads[i], NULL);
    }
    unsigned char *large = calloc(1, (size_t)300 << 20);
    CHECK(large != NULL);
    free(large);
    // And the limit holds: more than it allows is refused, not granted from some reserve.
    errno = 0;
    CHECK(malloc((size_t)2 << 30) == NULL);
    CHECK_EQ(errno, ENOMEM);
    workout(2, 1000, SIZE_MAX);
    return check_end();
}
