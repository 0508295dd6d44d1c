// The heap behind every face: malloc's symbols (preload/) and, by the same objects, the kernel's
// names. Sizes up to 256 KiB come from classes, up to 1 MiB from page runs, above from vmalloc. No
// function here sets errno.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

namespace pagoda {

inline constexpr size_t kVmallocFrom = size_t{1} << 20; // larger ones are vmalloc areas

// Sets everything up on first use; false while not even the metadata can be had. Any context that
// is not a nested one.
bool heap_init();
bool heap_ready();

// `size` bytes, 16-byte aligned, zeroed with __GFP_ZERO; NULL when memory is short. size 0 gives an
// object that can be freed.
void *heap_alloc(size_t size, gfp_t gfp);
// At a multiple of `align`, a power of two.
void *heap_alloc_aligned(size_t size, size_t align, gfp_t gfp);
// kmalloc's: at a multiple of the largest power of two that divides `size`, of 8 at least, and all
// of heap_good_natural_size(size) zeroed with __GFP_ZERO; at most `kNaturalMax` bytes, and from the
// zone, never vmalloc.
void *heap_alloc_natural(size_t size, gfp_t gfp);
inline constexpr size_t kNaturalMax = size_t{4} << 20;
// Frees what any of these returned; NULL is ignored, anything else is reported. Never fails for
// want of memory and keeps errno.
void heap_free(void *p, gfp_t gfp);
// p resized, perhaps elsewhere, contents kept up to the smaller size; NULL and nothing changed when
// memory is short or p is not ours. p must not be NULL.
void *heap_realloc(void *p, size_t size, gfp_t gfp);
// Bytes that may be used at p; 0 for NULL and for what is not the heap's.
size_t heap_usable_size(const void *p);
// The usable size heap_alloc(size) would have.
size_t heap_good_size(size_t size);
// The same of heap_alloc_natural(size), size > 0.
size_t heap_good_natural_size(size_t size);
bool heap_owns(const void *p);

// Gives everything free back to the kernel. True when that was anything.
bool heap_trim(size_t keep);

// free() of a pointer that is not in this heap asks here first: true = dealt with.
void heap_set_foreign_free(bool (*hook)(void *p));

struct heap_stats {
    uint64_t live_objects;
    uint64_t live_bytes; // by usable size
    uint64_t served;     // objects, runs and areas that ever left for the program or its caches
    uint64_t cached_objects;
    uint64_t cached_bytes;
    uint64_t committed;      // bytes mapped for memory
    uint64_t peak_committed; // the most that ever was
    uint64_t free_pages;     // bytes free in the zone
    uint64_t reserve_bytes;  // free, for allocations that may not block
    uint64_t dirty_bytes;    // free memory held for reuse
    uint64_t purged_bytes;   // given back, ever
    uint64_t vmalloc_areas;
    uint64_t vmalloc_bytes;
};
// All zeros where it is called from a handler that interrupted the allocator.
heap_stats heap_get_stats();

// Around fork: takes and releases every lock in rank order.
void heap_before_fork();
void heap_after_fork(bool child);

} // namespace pagoda
