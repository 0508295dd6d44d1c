// Blocks of the page allocator that devices use: pagoda_object_hold() of hugepage/provider.h. They
// count in the record of their first page, and every free of a block asks that.
//
// Single pages in a row (alloc_pages_exact, split_page, alloc_contig_pages) are used like one
// object: a hold that begins in one of them covers those behind it as far as it was told, until the
// last hold that began there ends. Neither takes a lock.
#pragma once

#include "hugepage/page.h"

#include <stddef.h>

namespace pagoda {

// The record of a block's first page, when somebody gets the block: nobody holds it.
inline void pages_begin_unheld(page &pg) { pg.npages = pg.link = 0; }

// pagoda_object_hold and its end, for pages of the page allocator's callers. Any context.
int pages_hold(const void *p, size_t bytes);
bool pages_unhold(const void *p);
// Before a block is freed, by its first page. True: it must not be now, and that was reported.
bool hold_puts_off_pages(uint32_t head);
bool pages_are_held(uint32_t head);

} // namespace pagoda
