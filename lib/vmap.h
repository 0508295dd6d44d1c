// Mappings of memfd pages in any order, <pagoda/vmap.h>: areas of addresses that the kernel
// chooses, each with an inaccessible page behind it.
#pragma once

#include "hugepage/lock.h"
#include "lib/memfd.h"

#include <pagoda/vmap.h>

namespace pagoda {

struct vmap_area {
    vmap_area *next; // in its hash chain
    uintptr_t start;
    uint32_t pages;
    memfd_region *region; // all of it in order, and the area's owner goes with it; or NULL and:
    page *mapped[];       // the pages
};

// Maps `count` pages, or a whole region. NULL when memory or addresses are short. Blocks.
vmap_area *vmap_pages(::page **pages, uint32_t count, int prot);
vmap_area *vmap_region(memfd_region *region, int prot);
// Takes the area that starts here off the record: the caller unmaps it. `region`: whether it must
// be one of vmap_region. `pages`: how many it must have, 0 for any. NULL: there is none.
vmap_area *vmap_take(const void *start, bool region, uint32_t pages);
// Unmaps and frees an area that was taken.
void vmap_destroy(vmap_area *area);
// Some area, or the guard behind it, lies between these addresses.
bool vmap_overlaps(uintptr_t at, size_t size);
// The pages from this address on that lie in one area, in an order that a file has too. *count is
// how many at most on entry, how many there are on return. NULL: none.
page *vmap_find(const void *address, uint32_t *count);

mutex &vmap_lock();

} // namespace pagoda
