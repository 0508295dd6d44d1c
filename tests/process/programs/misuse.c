// misuse FAULT END: does one wrong thing, says on stdout with which address, says "survived" if it
// still can, and ends by trim (malloc_trim, then _exit) or by exit (from main).
#include "../workout.h"

#include <pthread.h>

static char in_bss[64] __attribute__((aligned(64)));
static void *volatile wrong;

static void say(const char *text) { REQUIRE(write(1, text, strlen(text)) > 0); }

// What is wrong is said before it is done: the report may be the last thing to happen.
static void free_wrongly(void *address) {
    char text[64];
    snprintf(text, sizeof text, "wrong %p\n", address);
    say(text);
    wrong = address;
    free(wrong);
}

static void *free_in_thread(void *address) {
    free(address);
    return NULL;
}

static void free_twice(size_t size, bool by_thread, bool with_others_between) {
    void *others[40];
    for (int i = 0; i < 40; ++i) {
        others[i] = malloc(size);
    }
    void *volatile block = malloc(size);
    memset(block, 1, size);
    if (by_thread) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, free_in_thread, block) == 0);
        pthread_join(thread, NULL);
    } else {
        free(block);
    }
    for (int i = 0; with_others_between && i < 20; ++i) {
        free(others[i]);
    }
    free_wrongly(block);
    // Those left over stay live: the fault, not a tidy program, is looked at.
}

static void free_inside(size_t size, size_t offset) {
    char *volatile block = malloc(size);
    free_wrongly(block + offset);
}

static void free_foreign(const char *where) {
    char on_stack[64] __attribute__((aligned(64)));
    void *address = on_stack;
    if (strcmp(where, "mmap") == 0) {
        address = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    } else if (strcmp(where, "bss") == 0) {
        address = in_bss;
    } else if (strcmp(where, "low") == 0) {
        address = (void *)0x1000;
    } else if (strcmp(where, "odd") == 0) {
        address = in_bss + 3;
    } else if (strcmp(where, "noncanonical") == 0) {
        address = (void *)0x8000000000000000;
    } else if (strcmp(where, "top") == 0) {
        address = (void *)-16;
    }
    errno = 4711;
    free_wrongly(address);
    CHECK_EQ(errno, 4711);
    free(address);
    free(address);
}

// realloc of a block that is free, or of a place inside one: NULL, and the block stays as it is.
static void resize_wrongly(size_t size, size_t offset) {
    char *volatile block = malloc(size);
    char text[64];
    snprintf(text, sizeof text, "wrong %p\n", (void *)(block + offset));
    say(text);
    if (offset == 0) {
        free(block);
    } else {
        memset(block, 5, size);
    }
    wrong = realloc(block + offset, 3 * size);
    CHECK(wrong == NULL);
    CHECK(offset == 0 || all_bytes_are((unsigned char *)block, size, 5));
}

static bool commit(const char *fault) {
    static const struct {
        const char *name;
        size_t size;
    } sizes[] = {{"small", 64}, {"medium", 20000}, {"run", 700000}, {"large", 4 << 20}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        size_t size = sizes[i].size;
        char name[64];
        snprintf(name, sizeof name, "resize-free-%s", sizes[i].name);
        if (strcmp(name, fault) == 0) {
            resize_wrongly(size, 0);
            return true;
        }
        snprintf(name, sizeof name, "resize-inside-%s", sizes[i].name);
        if (strcmp(name, fault) == 0) {
            resize_wrongly(size, 16);
            return true;
        }
        snprintf(name, sizeof name, "resize-behind-%s", sizes[i].name);
        if (strcmp(name, fault) == 0) {
            resize_wrongly(size, size - 16);
            return true;
        }
        const char *const kinds[] = {"double", "double-later", "double-thread",
                                     "inside", "inside-odd",   "inside-end"};
        for (int kind = 0; kind < 6; ++kind) {
            snprintf(name, sizeof name, "%s-%s", kinds[kind], sizes[i].name);
            if (strcmp(name, fault) != 0) {
                continue;
            }
            if (kind < 3) {
                free_twice(size, kind == 2, kind == 1);
            } else {
                free_inside(size, kind == 3 ? 16 : kind == 4 ? 1 : size - 16);
            }
            return true;
        }
    }
    if (strncmp(fault, "foreign-", 8) == 0) {
        free_foreign(fault + 8);
        return true;
    }
    if (strcmp(fault, "leak") == 0) { // for valgrind
        memset(malloc(100), 1, 100);
        return true;
    }
    return strcmp(fault, "none") == 0;
}

// The heap is as good as before: no block is given twice.
static void heap_is_sound(void) {
    enum { kCount = 400 };
    unsigned char *blocks[kCount];
    for (int i = 0; i < kCount; ++i) {
        blocks[i] = malloc(64);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], i, 64);
    }
    for (int i = 0; i < kCount; ++i) {
        CHECK(all_bytes_are(blocks[i], 64, (unsigned char)i));
        free(blocks[i]);
    }
    workout(1, 1000, SIZE_MAX);
}

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 3);
    REQUIRE(commit(argv[1]));
    say("survived\n");
    if (strcmp(argv[2], "trim") == 0) {
        malloc_trim(0);
        say("trimmed\n");
        heap_is_sound();
        _exit(check_end());
    }
    return check_end();
}
