// density SIZE: 128 MiB of blocks of one size, all written to: how much memory do they take?
// Rounding to size classes may cost an eighth; holes that nobody can fill may not cost more.
#include "../workout.h"

static size_t resident(void) { return (size_t)status_kilobytes("VmRSS:") * 1024; }

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 2);
    size_t size = strtoul(argv[1], NULL, 10);
    size_t count = ((size_t)128 << 20) / size;
    size_t before = resident();
    for (size_t i = 0; i < count; ++i) {
        void *block = malloc(size);
        REQUIRE(block != NULL);
        memset(block, 1, size);
    }
    // glibc's header makes 80 bytes of 64.
    CHECK_AT_LEAST(count * size * (on_glibc() ? 6 : 5) / 4, resident() - before);
    return check_end();
}
