// archive: a program that itself calls malloc and free only, linked plainly with the archive. Its
// shared libraries may call the rest of the family: all of it must come from the archive, for a
// block of glibc's posix_memalign would end in Pagoda's free.
#include "../check.h"

static const char *const kFamily[] = {
    "malloc",          "free",          "calloc",         "realloc",       "reallocarray",
    "memalign",        "valloc",        "aligned_alloc",  "pvalloc",       "malloc_usable_size",
    "malloc_trim",     "mallopt",       "mallinfo",       "mallinfo2",     "malloc_info",
    "malloc_stats",    "__libc_malloc", "__libc_free",    "__libc_calloc", "__libc_realloc",
    "__libc_memalign", "__libc_valloc", "__libc_pvalloc", "posix_memalign"};

int main(void) {
    Dl_info own, info;
    free(malloc(100));
    REQUIRE(dladdr((void *)kFamily, &own) != 0);
    for (size_t i = 0; i < sizeof kFamily / sizeof *kFamily; ++i) {
        void *address = dlsym(RTLD_DEFAULT, kFamily[i]);
        REQUIRE(address != NULL && dladdr(address, &info) != 0);
        if (info.dli_fbase != own.dli_fbase) {
            fprintf(stderr, "archive.c: failed: %s comes from %s\n", kFamily[i], info.dli_fname);
            return 1;
        }
    }
    return check_end();
}
