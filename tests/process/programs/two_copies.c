// two_copies PATH: a second copy of the library is loaded into the process; blocks of one are
// freed through the other. They are routed or reported, and never harm either heap.
#include "../workout.h"

static void *(*other_malloc)(size_t);
static void (*other_free)(void *);
static void *(*other_calloc)(size_t, size_t);
static struct mallinfo2 (*other_mallinfo2)(void);

static size_t live(struct mallinfo2 info) { return info.uordblks + info.hblkhd; }

static void find(void *library, const char *name, void *function) {
    void *address = dlsym(library, name);
    REQUIRE(address != NULL);
    memcpy(function, &address, sizeof address);
}

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 2);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    find(library, "malloc", &other_malloc);
    find(library, "calloc", &other_calloc);
    find(library, "free", &other_free);
    find(library, "mallinfo2", &other_mallinfo2);
    CHECK(other_malloc != malloc);
    size_t own_before = live(mallinfo2());
    size_t other_before = live(other_mallinfo2());
    static const size_t sizes[] = {1, 64, 3000, 32768, 100000, 2000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        for (int round = 0; round < 50; ++round) {
            unsigned char *own = malloc(sizes[i]);
            unsigned char *other = other_malloc(sizes[i]);
            REQUIRE(own != NULL && other != NULL && own != other);
            memset(own, 1, sizes[i]);
            memset(other, 2, sizes[i]);
            CHECK(all_bytes_are(own, sizes[i], 1));
            other_free(own);
            free(other);
            own = calloc(1, sizes[i]);
            other = other_calloc(1, sizes[i]);
            REQUIRE(own != NULL && other != NULL && own != other);
            CHECK(all_bytes_are(own, sizes[i], 0));
            CHECK(all_bytes_are(other, sizes[i], 0));
            free(own);
            other_free(other);
        }
    }
    // Each came back to the heap that it is of.
    CHECK_EQ(live(mallinfo2()), own_before);
    CHECK_EQ(live(other_mallinfo2()), other_before);
    workout(1, 3000, SIZE_MAX);
    malloc_trim(0);
    return check_end();
}
