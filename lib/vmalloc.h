// Large memory (above 1 MiB): areas of pages in the vmalloc range. Each area starts on a 2 MiB
// boundary and ends before the next one begins, so page tables can move between areas in whole
// pieces and an overrun meets unmapped addresses. Addresses are free: an area that grows gets room
// to grow.
#pragma once

#include "hugepage/base.h"
#include "hugepage/lock.h"

#include <pagoda/gfp.h>

namespace pagoda {

// `bytes` at a multiple of `align` (a power of two), page-granular; with __GFP_ACCOUNT charged to
// the thread's group; NULL at a limit or when the flags do not allow to wait. *zeroed (may be
// NULL): the memory reads as zero.
void *vmalloc_alloc(size_t bytes, size_t align, gfp_t gfp, bool *zeroed);
// The same, for vmalloc(): the page behind the area's last is never mapped, whatever its addresses
// held before and however it is resized. `huge`: of huge pages where there can be.
void *vmalloc_alloc_guarded(size_t bytes, bool huge, gfp_t gfp, bool *zeroed);
// Makes the area that starts at p one of those. False: that cannot be. Blocks.
bool vmalloc_guard(void *p);

// What `p` is to vmalloc.
enum class vm_pointer : uint8_t { none, area, freed_area, interior };
// Says `none` too where the lock is taken and the flags do not allow to wait.
vm_pointer vmalloc_classify(const void *p, size_t *bytes, void **start, gfp_t gfp);

// Frees the area that starts at p. False: there is none, or it is free already.
bool vmalloc_free(void *p, gfp_t gfp);
// True: a device uses that area; its free was reported, and put off till the device is done.
// `overwrite`: its contents are to go then.
bool vmalloc_puts_off_free(const void *p, bool overwrite);

// Makes the area `bytes` long: in place, or by moving its page tables; NULL (and nothing changed)
// when only copying is left. Above 1 MiB on both sides.
void *vmalloc_resize(void *p, size_t bytes, gfp_t gfp);

// Bytes of the area that starts at p; 0: none does. Takes no lock: any context.
size_t vmalloc_size(const void *p);

// Unmaps freed areas kept for reuse until at most `keep` bytes of them and of slack are left.
// Returns bytes.
uint64_t vmalloc_purge(uint64_t keep);

// The same for those that devices can reach, once the library above has let go of them: each is
// asked for once. No locks held. Returns bytes.
uint64_t vmalloc_purge_held(uint64_t keep);

struct vmalloc_stats {
    uint64_t areas;  // live
    uint64_t bytes;  // live
    uint64_t slack;  // bytes mapped behind them, left from earlier owners
    uint64_t cached; // bytes of freed areas kept
    uint64_t served; // areas, ever
    uint64_t moved;  // resizes that moved page tables
};
vmalloc_stats vmalloc_get_stats();

mutex &vmalloc_lock();
class vm_range &vmalloc_range(); // under the lock, but for lookups of what is live

} // namespace pagoda
