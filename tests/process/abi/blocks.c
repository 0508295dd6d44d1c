// The plain calls: every size is served, 16-byte aligned, distinct and writable; freeing keeps
// errno; the edge cases are glibc's.
#include "../workout.h"

extern void cfree(void *) __attribute__((weak));

enum { kNeighbours = 64 };

static volatile size_t zero = 0;

static void every_size_is_aligned_and_writable(void) {
    for (size_t size = 0; size <= 70000; size += size < 2100 ? 1 : 61) {
        unsigned char *block = malloc(size);
        REQUIRE(block != NULL);
        CHECK_EQ((uintptr_t)block % 16, 0);
        memset(block, 0xa5, size);
        CHECK(all_bytes_are(block, size, 0xa5));
        free(block);
    }
    for (size_t size = 70000; size < (size_t)80 << 20; size += size / 3) {
        unsigned char *block = malloc(size);
        REQUIRE(block != NULL);
        CHECK_EQ((uintptr_t)block % 16, 0);
        block[0] = block[size / 2] = block[size - 1] = 1;
        free(block);
    }
}

static void neighbours_do_not_overlap(size_t size) {
    unsigned char *blocks[kNeighbours];
    for (int i = 0; i < kNeighbours; ++i) {
        blocks[i] = i % 2 == 0 ? malloc(size) : calloc(size, 1);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], i, malloc_usable_size(blocks[i]));
    }
    for (int i = 0; i < kNeighbours; ++i) {
        CHECK(all_bytes_are(blocks[i], malloc_usable_size(blocks[i]), (unsigned char)i));
        free(blocks[i]);
    }
}

static void size_zero_gives_distinct_blocks(void) {
    void *first = malloc(zero);
    void *second = malloc(zero);
    void *third = calloc(zero, 8);
    void *fourth = calloc(8, zero);
    void *fifth = realloc(NULL, zero);
    CHECK(first != NULL && second != NULL && third != NULL && fourth != NULL && fifth != NULL);
    CHECK(first != second && second != third && third != fourth && fourth != fifth);
    free(first);
    free(second);
    free(third);
    free(fourth);
    free(fifth);
}

static void realloc_to_zero_frees(void) {
    free(NULL);
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < 1000; ++i) {
        CHECK(realloc(malloc(2000), zero) == NULL);
        CHECK(reallocarray(malloc(2000), zero, 8) == NULL);
        CHECK(reallocarray(malloc(2000), 8, zero) == NULL);
    }
    struct mallinfo2 after = mallinfo2();
    // 3000 blocks of 2000 bytes would show; a cache of a few need not count as free.
    CHECK(after.uordblks < before.uordblks + 1000000);
}

static void free_keeps_errno(void) {
    static const size_t sizes[] = {1,      100,    5000,    32768,   65536,
                                   300000, 700000, 1 << 20, 3 << 20, 64 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        for (int round = 0; round < 20; ++round) {
            unsigned char *block = malloc(sizes[i]);
            REQUIRE(block != NULL);
            block[sizes[i] - 1] = 1;
            errno = 4711;
            free(block);
            CHECK_EQ(errno, 4711);
        }
    }
    errno = 4712;
    free(NULL);
    CHECK_EQ(errno, 4712);
}

static void cfree_frees(void) {
    // glibc keeps cfree for old binaries only; a new program cannot link it there.
    if (cfree == NULL) {
        CHECK(on_glibc());
        return;
    }
    cfree(NULL);
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < 2000; ++i) {
        cfree(malloc(2000));
    }
    CHECK(mallinfo2().uordblks < before.uordblks + 1000000);
}

int main(void) {
    check_begin();
    every_size_is_aligned_and_writable();
    static const size_t sizes[] = {1,    8,    16,    24,    48,     100,     500,    1000,
                                   3000, 9000, 32768, 40000, 200000, 1 << 20, 1500000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        neighbours_do_not_overlap(sizes[i]);
    }
    size_zero_gives_distinct_blocks();
    realloc_to_zero_frees();
    free_keeps_errno();
    cfree_frees();
    return check_end();
}
