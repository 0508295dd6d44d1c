// locked: mlockall of all memory, now and to come. The address space held in reserve must not
// become resident, and calloc's zeros must not rely on MADV_DONTNEED, which fails on locked memory.
#include "../workout.h"

#include <pthread.h>

static void *work(void *argument) {
    workout((uintptr_t)argument, 1500, 1 << 20);
    return NULL;
}

static void dirty_then_zero(size_t size, int count) {
    unsigned char *blocks[256];
    for (int round = 0; round < 2; ++round) {
        for (int i = 0; i < count; ++i) {
            blocks[i] = malloc(size);
            REQUIRE(blocks[i] != NULL);
            memset(blocks[i], 0xff, size);
        }
        for (int i = 0; i < count; ++i) {
            free(blocks[i]);
        }
        malloc_trim(0);
        for (int i = 0; i < count; ++i) {
            blocks[i] = calloc(1, size);
            REQUIRE(blocks[i] != NULL);
            CHECK(all_bytes_are(blocks[i], size, 0));
        }
        for (int i = 0; i < count; ++i) {
            free(blocks[i]);
        }
    }
}

int main(int argc, char **argv) {
    check_begin();
    // Small: the caller's RLIMIT_MEMLOCK is tight, so stay within 3 MB and one thread.
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    workout(1, 300, 16384);
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        fprintf(stderr, "locked.c: failed: mlockall: %s, %ld KiB mapped\n", strerror(errno),
                status_kilobytes("VmSize:"));
        return 1;
    }
    CHECK(status_kilobytes("VmRSS:") < 100000);
    dirty_then_zero(100, 256);
    dirty_then_zero(5000, 256);
    dirty_then_zero(50000, small ? 20 : 60);
    dirty_then_zero(400000, small ? 2 : 10);
    dirty_then_zero(2000000, small ? 1 : 10);
    if (!small) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < 4; ++i) {
            REQUIRE(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
        }
        for (int i = 0; i < 4; ++i) {
            pthread_join(threads[i], NULL);
        }
    }
    CHECK(status_kilobytes("VmRSS:") < 300000);
    workout(2, 500, small ? 16384 : SIZE_MAX);
    return check_end();
}
