// workout THREADS OPERATIONS LIMIT: the workout of workout.h in every thread, blocks of at most
// LIMIT bytes, with blocks handed from thread to thread beside it.
#include "../workout.h"

#include <pthread.h>

enum { kMailboxes = 128, kMostThreads = 64 };

static size_t *mailboxes[kMailboxes];
static unsigned operations;
static size_t limit;

// A block in the post begins with its size; the last byte is the size's lowest.
static void open_letter(size_t *letter) {
    if (letter != NULL) {
        CHECK_EQ(((unsigned char *)letter)[*letter - 1], *letter & 0xff);
        free(letter);
    }
}

static void *work(void *argument) {
    uint64_t state = (uintptr_t)argument * 77 + 5;
    for (unsigned round = 0; round < 10; ++round) {
        workout(workout_random(&state), operations / 10, limit);
        for (unsigned i = 0; i < operations / 10; ++i) {
            size_t size = sizeof(size_t) + workout_size(&state, limit);
            size_t *letter = (size_t *)malloc(size);
            REQUIRE(letter != NULL);
            *letter = size;
            ((unsigned char *)letter)[size - 1] = (unsigned char)size;
            size_t **box = &mailboxes[workout_random(&state) % kMailboxes];
            open_letter(__atomic_exchange_n(box, letter, __ATOMIC_ACQ_REL));
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 4);
    unsigned long threads = strtoul(argv[1], NULL, 10);
    operations = (unsigned)strtoul(argv[2], NULL, 10);
    limit = strtoul(argv[3], NULL, 10);
    REQUIRE(threads <= kMostThreads);
    pthread_t running[kMostThreads];
    for (uintptr_t i = 1; i < threads; ++i) {
        CHECK_EQ(pthread_create(&running[i], NULL, work, (void *)i), 0);
    }
    work(NULL);
    for (unsigned long i = 1; i < threads; ++i) {
        pthread_join(running[i], NULL);
    }
    for (int i = 0; i < kMailboxes; ++i) {
        open_letter(mailboxes[i]);
    }
    return check_end();
}
