// An auditor for LD_AUDIT: it allocates at every event, in its own namespace, while the preload
// library is only just being mapped.
#include <link.h>
#include <stdlib.h>
#include <unistd.h>

unsigned la_version(unsigned version) {
    static const char kText[] = "the auditor is at work\n";
    if (write(2, kText, sizeof kText - 1) < 0) {
        return 0; // then it is not
    }
    free(malloc(1000));
    return version;
}

unsigned la_objopen(struct link_map *map, Lmid_t lmid, uintptr_t *cookie) {
    (void)map;
    (void)lmid;
    free(realloc(malloc(10), 100000));
    *cookie = 0;
    return LA_FLG_BINDTO | LA_FLG_BINDFROM;
}

uintptr_t la_symbind64(Elf64_Sym *symbol, unsigned index, uintptr_t *from, uintptr_t *to,
                       unsigned *flags, const char *name) {
    (void)index;
    (void)from;
    (void)to;
    (void)flags;
    (void)name;
    free(calloc(1, 50));
    return symbol->st_value;
}
