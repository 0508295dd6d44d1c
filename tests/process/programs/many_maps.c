// many_maps: the process has used up vm.max_map_count, so that no mapping can be split any more;
// memory is still to be had.
#include "../workout.h"

enum { kMostMaps = 1000000, kSmall = 20000, kRuns = 40, kLarge = 8 };

static unsigned char *blocks[kSmall];

static bool use_up_the_maps(char *area, size_t page) {
    for (size_t i = 1; i < kMostMaps; i += 2) {
        if (mprotect(area + i * page, page, PROT_READ) != 0) {
            CHECK_EQ(errno, ENOMEM);
            return true;
        }
    }
    return false;
}

static void fill_and_free(size_t size, int count) {
    for (int i = 0; i < count; ++i) {
        blocks[i] = i % 2 == 0 ? malloc(size) : calloc(1, size);
        REQUIRE(blocks[i] != NULL);
        CHECK(i % 2 == 0 || all_bytes_are(blocks[i], size, 0));
        memset(blocks[i], i, size);
    }
    for (int i = 0; i < count; ++i) {
        CHECK(all_bytes_are(blocks[i], size, (unsigned char)i));
        free(blocks[i]);
    }
}

static void fill_aligned(size_t align, size_t size) {
    void *at[4];
    for (int i = 0; i < 4; ++i) {
        REQUIRE(posix_memalign(&at[i], align, size) == 0);
        CHECK_EQ((uintptr_t)at[i] % align, 0);
        memset(at[i], i, size);
    }
    for (int i = 0; i < 4; ++i) {
        CHECK(all_bytes_are(at[i], size, (unsigned char)i));
        free(at[i]);
    }
}

int main(void) {
    check_begin();
    if (on_glibc()) {
        puts("glibc's malloc fails here: it maps larger blocks one by one");
        return 77;
    }
    free(malloc(100));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = page * kMostMaps;
    char *area = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(area != MAP_FAILED);
    if (!use_up_the_maps(area, page)) {
        puts("vm.max_map_count is too high to reach");
        return 77;
    }
    for (int round = 0; round < 2; ++round) {
        fill_and_free(100, kSmall);
        fill_and_free(3000, kSmall / 4);
        fill_and_free(300000, kRuns);
        fill_and_free(2500000, kLarge);
        fill_aligned(1 << 16, 2500000);
        fill_aligned(1 << 21, 100000);
        malloc_trim(0);
    }
    munmap(area, bytes);
    workout(1, 2000, SIZE_MAX);
    return check_end();
}
