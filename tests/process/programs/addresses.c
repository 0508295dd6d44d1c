// addresses: where addresses or mapped bytes count (RLIMIT_AS, RLIMIT_DATA, no overcommit), memory
// that is free again is given back with its addresses, though nobody asks for it: the next to need
// them is the program's own mmap, or another process. Twice, so that what came back serves again.
#include "../workout.h"

enum { kBytes = 160 << 20, kMost = 4 << 20 };

static void **blocks;

static void fill_and_free(size_t size) {
    size_t count = kBytes / size;
    for (size_t i = 0; i < count; ++i) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], 1, size);
    }
    CHECK_AT_LEAST(status_kilobytes("VmData:"), kBytes >> 10);
    for (size_t i = 0; i < count; ++i) {
        free(blocks[i]);
    }
}

int main(void) {
    check_begin();
    if (on_glibc()) {
        puts("glibc's malloc gives back the end of its heap alone");
        return 77;
    }
    void *area = mmap(NULL, kMost * sizeof *blocks, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(area != MAP_FAILED);
    blocks = area;
    long before = status_kilobytes("VmData:");
    for (int round = 0; round < 2; ++round) {
        static const size_t kSizes[] = {48, 5000, 200000, 1000000, 3000000};
        for (size_t i = 0; i < sizeof kSizes / sizeof *kSizes; ++i) {
            fill_and_free(kSizes[i]);
            // Some objects and pages are kept for what comes next.
            CHECK_AT_LEAST(100 << 10, status_kilobytes("VmData:") - before);
        }
    }
    return check_end();
}
