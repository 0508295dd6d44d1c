// hold KIND MEGABYTES: takes that much memory (small, run, large), writes to all of it, says
// "ADDRESS SIZE" of every thousandth block and "ready", and waits for a line on stdin. A line
// "fork" has a child write to all of it before.
#include "../workout.h"

#include <sys/wait.h>

static unsigned char **blocks;
static size_t count, size;

static void write_all(int value) {
    for (size_t i = 0; i < count; ++i) {
        memset(blocks[i], value, size);
    }
}

static bool all_are(unsigned char value) {
    for (size_t i = 0; i < count; ++i) {
        if (!all_bytes_are(blocks[i], size, value)) {
            return false;
        }
    }
    return true;
}

static void fork_and_write(void) {
    pid_t child = fork();
    if (child == 0) {
        CHECK(all_are(1));
        write_all(2);
        CHECK(all_are(2));
        workout(1, 1000, SIZE_MAX);
        _exit(check_end());
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(all_are(1));
}

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 3);
    size = strcmp(argv[1], "small") == 0 ? 496 : strcmp(argv[1], "run") == 0 ? 600000 : 16 << 20;
    count = (strtoul(argv[2], NULL, 10) << 20) / size;
    // Not from the heap: it is the blocks that are looked at.
    void *memory = mmap(NULL, count * sizeof *blocks, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    blocks = memory;
    for (size_t i = 0; i < count; ++i) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
    }
    write_all(1);
    for (size_t i = 0; i < count; i += size < 4096 ? 1000 : 1) {
        printf("%zu %zu\n", (size_t)blocks[i], size);
    }
    puts("ready");
    fflush(stdout);
    char line[100] = "";
    if (fgets(line, sizeof line, stdin) != NULL && strcmp(line, "fork\n") == 0) {
        fork_and_write();
    }
    CHECK(all_are(1));
    for (size_t i = 0; i < count; ++i) {
        free(blocks[i]);
    }
    workout(1, 1000, SIZE_MAX);
    return check_end();
}
