// Page runs: exact page counts from the zone, for memory between the largest slab class (32 KiB)
// and vmalloc (1 MiB), for large alignments, and for vmalloc's fallback. Runs of a class size are
// cached per CPU like objects; these functions are what stands behind that cache.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

// A run of `pages` pages aligned to 2^align_order pages (<= 18), or NULL. *zeroed (may be NULL): it
// reads as zero. Runs of exactly a class's pages are freed into that class's cache.
void *run_alloc(uint32_t pages, unsigned align_order, gfp_t gfp, bool *zeroed);

// The same, never a class's; `owner` is charged for it and gets that back when it is freed.
struct group;
void *run_alloc_owned(uint32_t pages, unsigned align_order, gfp_t gfp, bool *zeroed, group *owner);

// Frees a run whose page_class is kClassBigRun.
void run_free_big(void *p, gfp_t gfp);

// Shortens a run that no cache class owns to `pages`. False: not possible here.
bool run_shrink(void *p, uint32_t pages, gfp_t gfp);

// Pages of the run that starts at `p`'s page.
uint32_t run_pages(const void *p);
// First byte of the run that `p` (in its first or a tail page) lies in.
void *run_head(const void *p);

// For the caches of run classes: one run, and back.
void *run_alloc_class(kmem_cache &c, gfp_t gfp);
void run_free_class(kmem_cache &c, void *run, gfp_t gfp);

struct run_stats {
    uint64_t big_runs; // live, without those of classes
    uint64_t big_pages;
    uint64_t served; // ever, without those of classes
};
run_stats runs_stats();

} // namespace pagoda
