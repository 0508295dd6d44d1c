// The HIGHMEM zone: single pages of one memfd, up to the size that the option highmem says; empty
// by default. Their memory is had by the piece and given back when they are free.
#pragma once

#include "hugepage/lock.h"
#include "hugepage/options.h"
#include "lib/memfd.h"

namespace pagoda {

// One page; NULL when the zone is empty or used up, when memory is short, or when the flags do not
// allow what it would take. Zeroed with __GFP_ZERO. Callers go on to the NORMAL zone.
page *highmem_take(gfp_t gfp);
inline page *highmem_alloc(gfp_t gfp) {
    return PAGODA_UNLIKELY(options().highmem_bytes != 0) ? highmem_take(gfp) : nullptr;
}
// Frees it. A page that is free already, or mapped by kmap, is reported and left alone: false.
// Never waits with flags that do not allow it, or in a handler.
bool highmem_free(page *p, gfp_t gfp);
// Whether a memfd page is one of this zone.
bool is_highmem(const page *p);
inline bool is_highmem_page(const ::page *p) {
    return is_memfd_page(p) && is_highmem(record_of(p));
}

mutex &highmem_lock();
// A fork child leaves the pages, which it shares, to its parent, and begins a zone of its own.
void highmem_after_fork_in_child();
// Around fork: all locks of this rank.
void maps_lock_for_fork();
void maps_unlock_after_fork(bool child);

} // namespace pagoda
