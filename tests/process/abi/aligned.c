// Alignment: what is asked for is given, from 8 bytes to 1 GiB; what is no alignment is EINVAL.
#include "../workout.h"

static volatile size_t bad_alignment;

static void check_block(unsigned char *block, size_t alignment, size_t size) {
    REQUIRE(block != NULL);
    CHECK_EQ((uintptr_t)block % alignment, 0);
    CHECK_EQ((uintptr_t)block % 16, 0);
    CHECK(malloc_usable_size(block) >= size);
    memset(block, 0x77, size);
}

static void every_power_of_two(void) {
    static const size_t sizes[] = {0, 1, 17, 100, 4096, 5000, 32768, 33000, 1 << 20, 2500000};
    for (size_t alignment = 8; alignment <= (size_t)4 << 20; alignment *= 2) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
            size_t size = sizes[i];
            void *blocks[4];
            REQUIRE(posix_memalign(&blocks[0], alignment, size) == 0);
            blocks[1] = memalign(alignment, size);
            blocks[2] = aligned_alloc(alignment, size);
            blocks[3] = memalign(alignment, size);
            for (int k = 0; k < 4; ++k) {
                check_block(blocks[k], alignment, size);
            }
            // A block that was aligned is a block like any other to realloc.
            blocks[3] = realloc(blocks[3], size + 100000);
            REQUIRE(blocks[3] != NULL);
            CHECK(all_bytes_are(blocks[3], size, 0x77));
            for (int k = 0; k < 4; ++k) {
                CHECK(k == 3 || all_bytes_are(blocks[k], size, 0x77));
                free(blocks[k]);
            }
        }
    }
}

static void up_to_a_gigabyte(void) {
    for (size_t alignment = (size_t)8 << 20; alignment <= (size_t)1 << 30; alignment *= 2) {
        static const size_t sizes[] = {1, 100, 70000, 3 << 20};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
            void *block = NULL;
            CHECK_EQ(posix_memalign(&block, alignment, sizes[i]), 0);
            if (block != NULL) {
                check_block(block, alignment, sizes[i]);
                free(block);
            }
        }
    }
}

static void what_is_no_alignment(void) {
    static const size_t bad[] = {0, 1, 2, 3, 4, 7, 12, 24, 100, 4097, ((size_t)1 << 63) + 8};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        void *untouched = &untouched;
        void *result = untouched;
        bad_alignment = bad[i];
        CHECK_EQ(posix_memalign(&result, bad_alignment, 100), EINVAL);
        CHECK(result == untouched);
    }
    // C23 has aligned_alloc fail; glibc before 2.38 rounded up instead.
    if (!on_glibc()) {
        for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
            bad_alignment = bad[i];
            if ((bad_alignment & (bad_alignment - 1)) != 0) {
                errno = 0;
                CHECK(aligned_alloc(bad_alignment, 100) == NULL);
                CHECK_EQ(errno, EINVAL);
            }
        }
    }
    // memalign may round up, as glibc does, or refuse.
    bad_alignment = 48;
    errno = 0;
    void *block = memalign(bad_alignment, 100);
    CHECK(block != NULL ? (uintptr_t)block % 64 == 0 : errno == EINVAL);
    free(block);
    bad_alignment = (size_t)1 << 63;
    errno = 0;
    CHECK(memalign(bad_alignment, 8) == NULL);
    CHECK(errno == ENOMEM || errno == EINVAL);
    errno = 0;
    CHECK(aligned_alloc(bad_alignment, 8) == NULL);
    CHECK(errno == ENOMEM || errno == EINVAL);
}

static void page_aligned(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 40000, 2 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        void *block = valloc(sizes[i]);
        check_block(block, page, sizes[i]);
        free(block);
        size_t whole = (sizes[i] + page - 1) / page * page;
        block = pvalloc(sizes[i]);
        check_block(block, page, whole);
        free(block);
    }
}

int main(void) {
    check_begin();
    every_power_of_two();
    up_to_a_gigabyte();
    what_is_no_alignment();
    page_aligned();
    return check_end();
}
