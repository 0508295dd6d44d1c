// malloc_usable_size under _FORTIFY_SOURCE=3, where the compiler itself remembers how much was
// asked for and stops the program that writes more. A program may legally use the usable size
// after it asked for it; that must be a realloc in place.
#include "../workout.h"

static const size_t kSizes[] = {1,    7,     16,    17,    100,   1000,    1025,    4096,   5000,
                                9999, 32768, 32769, 65537, 90001, 1 << 20, 1100000, 5000000};

// The compiler must not see through it.
static size_t __attribute__((noinline)) opaque(size_t size) {
    __asm__ volatile("" : "+r"(size));
    return size;
}

static void usable_bytes_can_be_claimed(size_t size) {
    if (size > 100000 && on_glibc()) {
        return; // glibc maps such blocks alone and moves them
    }
    size = opaque(size);
    unsigned char *block = malloc(size);
    REQUIRE(block != NULL);
    memset(block, 1, size);
    size_t usable = malloc_usable_size(block);
    CHECK(usable >= size);
    uintptr_t before = opaque((uintptr_t)block);
    unsigned char *claimed = realloc(block, usable);
    CHECK_EQ((uintptr_t)claimed, before);
    CHECK_EQ(malloc_usable_size(claimed), usable);
    memset(claimed, 2, usable);
    free(claimed);
}

static void usable_size_does_not_change(size_t size) {
    unsigned char *block = malloc(opaque(size));
    REQUIRE(block != NULL);
    size_t usable = malloc_usable_size(block);
    memset(block, 3, opaque(size));
    free(malloc(opaque(size)));
    CHECK_EQ(malloc_usable_size(block), usable);
    free(block);
}

int main(void) {
    check_begin();
    CHECK_EQ(malloc_usable_size(NULL), 0);
    for (size_t i = 0; i < sizeof kSizes / sizeof *kSizes; ++i) {
        usable_bytes_can_be_claimed(kSizes[i]);
        usable_size_does_not_change(kSizes[i]);
    }
    return check_end();
}
