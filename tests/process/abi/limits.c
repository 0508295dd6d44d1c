// Sizes nobody can have: NULL with ENOMEM, and what was there before stays.
#include "../workout.h"

// Volatile, so that no compiler proves the request impossible and drops or warns about it.
static volatile size_t ptrdiff_max = PTRDIFF_MAX;
static volatile size_t size_max = SIZE_MAX;
static volatile size_t half = (size_t)1 << 63;
static volatile size_t root = (size_t)1 << 32;

#define REFUSED(call)                                                                              \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((call) == NULL);                                                                     \
        CHECK_EQ(errno, ENOMEM);                                                                   \
    } while (0)

static void new_blocks_are_refused(void) {
    for (size_t less = 0; less < 70000; less += less < 64 ? 1 : 4001) {
        REFUSED(malloc(ptrdiff_max - less));
        REFUSED(malloc(size_max - less));
        REFUSED(malloc(half + less));
        REFUSED(calloc(1, size_max - less));
        REFUSED(memalign(4096, size_max - less));
        REFUSED(aligned_alloc(64, size_max - less));
        REFUSED(valloc(size_max - less));
        REFUSED(pvalloc(size_max - less));
    }
    REFUSED(calloc(root, root));
    REFUSED(calloc(size_max, 2));
    REFUSED(calloc(2, size_max));
    REFUSED(calloc(half, 2));
    REFUSED(calloc(half + 1, 2));
    REFUSED(calloc(ptrdiff_max, 3));
    REFUSED(reallocarray(NULL, root, root));
    REFUSED(reallocarray(NULL, half + 1, 2));
}

static void refused_growth_keeps_the_block(void) {
    static const size_t sizes[] = {10, 1000, 40000, 700000, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        // Read anew each time: the compiler believes a block gone once realloc had it.
        unsigned char *volatile block = malloc(sizes[i]);
        REQUIRE(block != NULL);
        memset(block, 0x5a, sizes[i]);
        REFUSED(realloc(block, size_max));
        REFUSED(realloc(block, ptrdiff_max));
        REFUSED(realloc(block, half));
        REFUSED(reallocarray(block, root, root));
        REFUSED(reallocarray(block, half + 1, 2));
        CHECK(all_bytes_are(block, sizes[i], 0x5a));
        free(block);
    }
}

static void posix_memalign_refuses(void) {
    void *untouched = &untouched;
    void *result = untouched;
    errno = 4711;
    CHECK_EQ(posix_memalign(&result, 64, size_max), ENOMEM);
    CHECK_EQ(posix_memalign(&result, 64, ptrdiff_max), ENOMEM);
    CHECK_EQ(posix_memalign(&result, half, 8), ENOMEM);
    CHECK_EQ(posix_memalign(&result, half, ptrdiff_max), ENOMEM);
    CHECK_EQ(posix_memalign(&result, half >> 1, half >> 1), ENOMEM);
    CHECK(result == untouched);
}

int main(void) {
    check_begin();
    new_blocks_are_refused();
    refused_growth_keeps_the_block();
    posix_memalign_refuses();
    // And the allocator is none the worse for it.
    workout(1, 2000, SIZE_MAX);
    return check_end();
}
