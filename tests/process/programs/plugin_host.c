// plugin_host PATH: a program without libstdc++ loads one that has it, locally.
#include "../workout.h"

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 2);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    int (*catches_bad_alloc)(size_t) = NULL;
    void *address = dlsym(library, "catches_bad_alloc");
    REQUIRE(address != NULL);
    memcpy(&catches_bad_alloc, &address, sizeof address);
    CHECK_EQ(catches_bad_alloc(PTRDIFF_MAX), 1);
    CHECK_EQ(catches_bad_alloc(100), 0);
    return check_end();
}
