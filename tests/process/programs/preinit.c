// preinit CALL: the process's very first allocator call comes from .preinit_array, before any
// library's constructor. CALL says which it is.
#include "../workout.h"

static void *early[4];

static void first_call(int argc, char **argv, char **environment) {
    (void)environment;
    const char *call = argc > 1 ? argv[1] : "free";
    if (strcmp(call, "free") == 0) {
        free(NULL);
    } else if (strcmp(call, "calloc") == 0) {
        early[0] = calloc(10, 100);
        CHECK(early[0] != NULL && all_bytes_are((unsigned char *)early[0], 1000, 0));
    } else if (strcmp(call, "realloc") == 0) {
        early[0] = realloc(NULL, 1000);
    } else if (strcmp(call, "memalign") == 0) {
        early[0] = memalign(4096, 1000);
    } else if (strcmp(call, "usable") == 0) {
        CHECK_EQ(malloc_usable_size(NULL), 0);
    } else if (strcmp(call, "large") == 0) {
        early[0] = malloc(5 << 20);
    } else {
        early[0] = malloc(1000);
    }
    early[1] = malloc(100);
    early[2] = realloc(calloc(1, 300000), 3000000);
    early[3] = malloc(10);
    free(early[3]);
    workout(3, 500, SIZE_MAX);
}

__attribute__((section(".preinit_array"), used)) static void (*const preinit)(int, char **,
                                                                              char **) = first_call;

int main(void) {
    check_begin();
    CHECK(early[1] != NULL && early[2] != NULL);
    CHECK(all_bytes_are((unsigned char *)early[2], 300000, 0));
    for (int i = 0; i < 3; ++i) {
        free(early[i]);
    }
    workout(4, 1000, SIZE_MAX);
    return check_end();
}
