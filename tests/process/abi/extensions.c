// Calls that not every libc has: C23's sized frees, BSD's reallocf and malloc_good_size, and
// the aliases by which glibc lets one reach its own malloc behind an interposer's back: those
// must lead to the same heap, or pointers would cross.
#include "../workout.h"

extern void free_sized(void *, size_t) __attribute__((weak));
extern void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));
extern void *reallocf(void *, size_t) __attribute__((weak));
extern size_t malloc_good_size(size_t) __attribute__((weak));
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);
extern void __libc_free(void *);

static const size_t kSizes[] = {1, 100, 4000, 30000, 50000, 900000, 3 << 20};
enum { kSizeCount = sizeof kSizes / sizeof *kSizes };

static volatile size_t size_max = SIZE_MAX;

static void sized_frees(void) {
    free_sized(NULL, 100);
    free_aligned_sized(NULL, 64, 100);
    size_t live = mallinfo2().uordblks;
    errno = 4711;
    for (int i = 0; i < kSizeCount; ++i) {
        for (int round = 0; round < 50; ++round) {
            free_sized(malloc(kSizes[i]), kSizes[i]);
            free_sized(calloc(kSizes[i], 2), kSizes[i] * 2);
            free_aligned_sized(aligned_alloc(256, kSizes[i]), 256, kSizes[i]);
            free_aligned_sized(aligned_alloc(8192, kSizes[i]), 8192, kSizes[i]);
        }
    }
    CHECK_EQ(errno, 4711);
    CHECK(mallinfo2().uordblks < live + 100000);
}

static void reallocf_frees_what_it_cannot_grow(void) {
    size_t live = mallinfo2().uordblks;
    for (int i = 0; i < 100; ++i) {
        unsigned char *block = reallocf(malloc(50000), 60000);
        REQUIRE(block != NULL);
        memset(block, 1, 60000);
        errno = 0;
        CHECK(reallocf(block, size_max) == NULL);
        CHECK_EQ(errno, ENOMEM);
    }
    CHECK(mallinfo2().uordblks < live + 1000000);
}

static void good_size_is_the_usable_size(void) {
    for (size_t size = 1; size < (size_t)20 << 20; size += 1 + size / 7) {
        void *block = malloc(size);
        // A large area that is used again may be the larger one it was.
        CHECK(malloc_good_size(size) <= malloc_usable_size(block));
        CHECK(size > 1 << 20 || malloc_good_size(size) == malloc_usable_size(block));
        CHECK(malloc_good_size(size) >= size);
        CHECK_EQ(malloc_good_size(malloc_good_size(size)), malloc_good_size(size));
        free(block);
    }
    CHECK(malloc_good_size(size_max) == 0 || malloc_good_size(size_max) == size_max);
}

static void aliases_share_the_heap(void) {
    for (int i = 0; i < kSizeCount; ++i) {
        size_t size = kSizes[i];
        free(__libc_malloc(size));
        __libc_free(malloc(size));
        unsigned char *block = __libc_calloc(1, size);
        CHECK(block != NULL && all_bytes_are(block, size, 0));
        block = realloc(block, size * 2);
        block = __libc_realloc(block, size * 3);
        CHECK(block != NULL && all_bytes_are(block, size, 0));
        CHECK(malloc_usable_size(block) >= size * 3);
        free(block);
        block = __libc_memalign(512, size);
        CHECK_EQ((uintptr_t)block % 512, 0);
        free(block);
        block = __libc_valloc(size);
        CHECK_EQ((uintptr_t)block % 4096, 0);
        free(block);
        block = __libc_pvalloc(size);
        CHECK(malloc_usable_size(block) >= (size + 4095) / 4096 * 4096);
        free(block);
    }
    // By name too: a program that reaches one by dlsym must get the same heap.
    static const char *const names[] = {"__libc_malloc", "malloc"};
    for (int i = 0; i < 2; ++i) {
        void *(*allocate)(size_t) = NULL;
        void *address = dlsym(RTLD_DEFAULT, names[i]);
        REQUIRE(address != NULL);
        memcpy(&allocate, &address, sizeof address);
        free(allocate(1000));
    }
}

int main(void) {
    check_begin();
    aliases_share_the_heap();
    if (on_glibc()) {
        return check_end(); // glibc 2.36 has none of the rest
    }
    REQUIRE(free_sized != NULL && free_aligned_sized != NULL);
    REQUIRE(reallocf != NULL && malloc_good_size != NULL);
    sized_frees();
    reallocf_frees_what_it_cannot_grow();
    good_size_is_the_usable_size();
    return check_end();
}
