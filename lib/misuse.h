// The texts of misuse reports, in one place. Each goes through misuse(): a line, then abort or not.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

// An object that is free already.
void report_double_free(const kmem_cache &c, const void *object);
void report_double_free(const kmem_cache &c, const slab *s, uint32_t object);
// A page run of `size` bytes.
void report_double_free(const void *run, size_t size);
// A page run or a vmalloc area.
void report_double_free(const void *p);
// A free of what a device uses: it is put off, and the program goes on. No cache: a run or pages.
void report_free_held(const kmem_cache *c, const void *p, size_t size);
// A pointer `offset` bytes behind the start of an object, or of a run of `size` bytes.
void report_interior(const kmem_cache &c, const void *p, size_t offset);
void report_interior(const void *p, size_t size, size_t offset);
// free() or kfree() of a block of the page allocator's.
void report_page_freed(const void *p);
// Memory that is not the page allocator's, given to its `operation`.
void report_not_pages(const void *p, const char *operation);
// A page that is not the first of a block of this order, but lies in the block at `head`.
void report_wrong_block(const void *p, unsigned order, const void *head, unsigned head_order,
                        const char *operation);
// A pointer into no memory of Pagoda's, by the `foreign` option.
void report_foreign(const void *p);
// An argument that is refused: one line of each kind, for who gets it wrong gets it wrong often.
void warn_once(std::atomic<bool> &said, gfp_t gfp, const char *line);

} // namespace pagoda
