// exhaust MEGABYTES HOW: takes memory until there is none, under a limit of MEGABYTES that the
// caller has set. Then: NULL with ENOMEM, nothing lost, service again once memory is free.
//   single, threads   until malloc says no
//   cycles            never more than half of the limit live, in changing sizes; for
//                     limits (a memory cgroup) where taking more ends the process
#include "../workout.h"

#include <pthread.h>

struct node {
    struct node *next;
    size_t size;
};

struct pile {
    struct node *top;
    size_t bytes;
};

static size_t limit;

static size_t pick_size(int kind, uint64_t *state) {
    switch (kind) {
    case 0:
        return 48;
    case 1:
        return 100000;
    case 2:
        return 3 << 20;
    default:
        return sizeof(struct node) + workout_size(state, SIZE_MAX);
    }
}

static struct node *take(size_t size, uint64_t *state) {
    switch (workout_random(state) % 8) {
    case 0:
        return calloc(1, size);
    case 1:
        return memalign(64, size);
    case 2:
        return realloc(NULL, size);
    default:
        return malloc(size);
    }
}

static void put(struct pile *pile, struct node *node, size_t size) {
    memset(node, (int)(size & 0xff), size);
    node->size = size;
    node->next = pile->top;
    pile->top = node;
    pile->bytes += size;
}

static void fill(struct pile *pile, int kind, size_t most) {
    uint64_t state = (uint64_t)kind;
    while (pile->bytes < most) {
        size_t size = pick_size(kind, &state);
        errno = 0;
        struct node *node = take(size, &state);
        if (node == NULL) {
            CHECK_EQ(errno, ENOMEM);
            return;
        }
        put(pile, node, size);
    }
}

// Frees the whole pile, or every second block of it, after a look at each.
static void release(struct pile *pile, bool half) {
    struct node *kept = NULL;
    bool keep = false;
    for (struct node *next, *node = pile->top; node != NULL; node = next) {
        next = node->next;
        CHECK(all_bytes_are((unsigned char *)(node + 1), node->size - sizeof *node,
                            (unsigned char)node->size));
        keep = half && !keep;
        if (keep) {
            node->next = kept;
            kept = node;
        } else {
            pile->bytes -= node->size;
            free(node);
        }
    }
    pile->top = kept;
}

static void growing_fails_and_keeps_the_block(void) {
    unsigned char *block = malloc(100);
    if (block != NULL) {
        memset(block, 9, 100);
        errno = 0;
        void *grown = realloc(block, limit);
        CHECK(grown == NULL);
        CHECK_EQ(errno, ENOMEM);
        if (grown == NULL) {
            CHECK(all_bytes_are(block, 100, 9));
            free(block);
        }
    }
    void *aligned = NULL;
    CHECK_EQ(posix_memalign(&aligned, 4096, limit), ENOMEM);
}

static void exhaust(int kind) {
    struct pile pile = {NULL, 0};
    fill(&pile, kind, SIZE_MAX);
    size_t full = pile.bytes;
    // The rest is the program itself. How much there is to have is asked of Pagoda alone: glibc's
    // threshold for mapped blocks moves, and leaves holes.
    CHECK_AT_LEAST(full, on_glibc() ? 0 : limit * 6 / 10);
    growing_fails_and_keeps_the_block();
    release(&pile, true);
    fill(&pile, kind, SIZE_MAX);
    // Blocks of many sizes may leave holes; holes of one size must all be filled again.
    CHECK_AT_LEAST(pile.bytes, on_glibc() ? 0 : full - full / (kind == 3 ? 4 : 16));
    release(&pile, false);
    // All of it can come back as one block, whatever it was before.
    unsigned char *large = malloc(limit / 2);
    CHECK(on_glibc() || large != NULL);
    if (large != NULL) {
        memset(large, 1, limit / 2);
    }
    free(large);
}

// What is free again is not only malloc's: a thread's stack must find its place. Not so in glibc,
// where one block at the top of the heap keeps all of it.
static void others_find_room(void) {
    malloc_trim(0);
    size_t stack = 8 << 20;
    void *area = mmap(NULL, stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(on_glibc() || area != MAP_FAILED);
    if (area != MAP_FAILED) {
        munmap(area, stack);
    }
}

static void *exhaust_together(void *argument) {
    for (int kind = 0; kind < 4; ++kind) {
        struct pile pile = {NULL, 0};
        fill(&pile, (int)((kind + (intptr_t)argument) % 4), SIZE_MAX);
        release(&pile, true);
        fill(&pile, kind, SIZE_MAX);
        release(&pile, false);
    }
    return NULL;
}

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 3);
    limit = strtoul(argv[1], NULL, 10) << 20;
    if (strcmp(argv[2], "single") == 0) {
        for (int round = 0; round < 2; ++round) {
            for (int kind = 0; kind < 4; ++kind) {
                exhaust(kind);
                others_find_room();
            }
        }
    } else if (strcmp(argv[2], "threads") == 0) {
        pthread_t threads[3];
        for (intptr_t i = 0; i < 3; ++i) {
            REQUIRE(pthread_create(&threads[i], NULL, exhaust_together, (void *)i) == 0);
        }
        for (int i = 0; i < 3; ++i) {
            pthread_join(threads[i], NULL);
        }
    } else {
        for (int round = 0; round < 12; ++round) {
            struct pile pile = {NULL, 0};
            fill(&pile, round % 4, limit / 2);
            CHECK_AT_LEAST(pile.bytes, limit / 2);
            release(&pile, false);
        }
    }
    workout(1, 1000, 1 << 20);
    return check_end();
}
