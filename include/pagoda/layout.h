/* Where memory lies, for the arithmetic between addresses and pages that mm.h and vmalloc.h do
 * inline, and the type of other addresses. A program has no use for this header by itself. */
#ifndef PAGODA_LAYOUT_H
#define PAGODA_LAYOUT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A "physical" address: memblock.h and genalloc.h each say what it counts. */
typedef uint64_t phys_addr_t;

/* Set once by the library and never changed: read only. All zero until then. */
struct pagoda_layout_record {
    uintptr_t zone_base; /* address of page 0 */
    uintptr_t memmap;    /* address of page 0's struct page; stored last */
    uintptr_t vmalloc_start;
    uintptr_t vmalloc_end;
};
extern struct pagoda_layout_record pagoda_layout;

/* Fills the record where that has not happened. Its fields stay zero, and no memory has any page,
 * as long as not even the library's tables can be mapped. Any context. */
const struct pagoda_layout_record *pagoda_layout_fill(void);

static inline const struct pagoda_layout_record *pagoda_layout_get(void) {
    if (__builtin_expect(__atomic_load_n(&pagoda_layout.memmap, __ATOMIC_ACQUIRE) != 0, 1))
        return &pagoda_layout;
    return pagoda_layout_fill();
}

#ifdef __cplusplus
}
#endif

#endif
