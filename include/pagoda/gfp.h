/* gfp_t: where an allocation may look for memory and how hard it may try. Names, values and
 * contracts of Linux 6.18. What is accepted and changes nothing stands in docs/requirements.md.
 * Source: include/linux/gfp_types.h, include/linux/sched/mm.h and
 * Documentation/core-api/memory-allocation.rst of the kernel.
 */
#ifndef PAGODA_GFP_H
#define PAGODA_GFP_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef unsigned int gfp_t;

/* Zones by addressability. No two of DMA, DMA32 and HIGHMEM together. */
#define __GFP_DMA 0x01u     /* a 24-bit device address */
#define __GFP_HIGHMEM 0x02u /* pages without a permanent mapping; page allocator only */
#define __GFP_DMA32 0x04u   /* a 32-bit device address; page allocator only */
#define __GFP_MOVABLE 0x08u /* never pinned for DMA; may be moved or given back */
#define GFP_ZONEMASK (__GFP_DMA | __GFP_HIGHMEM | __GFP_DMA32 | __GFP_MOVABLE)

/* Placement. */
#define __GFP_RECLAIMABLE 0x10u  /* a shrinker can free it */
#define __GFP_WRITE 0x1000u      /* the caller is going to write to the page */
#define __GFP_HARDWALL 0x100000u /* the process's own node policy, strictly */
#define __GFP_THISNODE 0x200000u /* the requested node or nothing */
#define __GFP_ACCOUNT 0x400000u  /* charged to the calling thread's group, see pagoda.h */

/* May dip into the reserve below the min watermark. */
#define __GFP_HIGH 0x20u
/* Any of the reserve: for who frees more memory than it takes. */
#define __GFP_MEMALLOC 0x20000u
/* None of it, also where __GFP_MEMALLOC or a scope would allow it. */
#define __GFP_NOMEMALLOC 0x80000u

/* Reclaim may make the system calls that give memory back, and call shrinkers that do I/O. */
#define __GFP_IO 0x40u
/* Reclaim may call shrinkers that re-enter the caller's subsystem. */
#define __GFP_FS 0x80u
/* May wait: locks, system calls, page faults, reclaim. */
#define __GFP_DIRECT_RECLAIM 0x400u
/* May ask for reclaim by others. */
#define __GFP_KSWAPD_RECLAIM 0x800u
#define __GFP_RECLAIM (__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
/* Tries hard, then fails: more rounds of reclaim than without, but no last resort. */
#define __GFP_RETRY_MAYFAIL 0x4000u
/* Never fails: waits until memory is free. Needs __GFP_DIRECT_RECLAIM. */
#define __GFP_NOFAIL 0x8000u
/* One round of reclaim, then fails. */
#define __GFP_NORETRY 0x10000u

/* The memory reads as zero. */
#define __GFP_ZERO 0x100u
/* No report on stderr when it fails. */
#define __GFP_NOWARN 0x2000u
/* A block of several pages is one compound page. */
#define __GFP_COMP 0x40000u
#define __GFP_ZEROTAGS 0x800000u
#define __GFP_NO_OBJ_EXT 0x1000000u
#define __GFP_BITS_SHIFT 25
#define __GFP_BITS_MASK ((gfp_t)((1u << __GFP_BITS_SHIFT) - 1))

/* May block, grow and reclaim. Process context. */
#define GFP_KERNEL (__GFP_RECLAIM | __GFP_IO | __GFP_FS)
#define GFP_KERNEL_ACCOUNT (GFP_KERNEL | __GFP_ACCOUNT)
/* No system call, no lock wait, no page fault; may use the reserve. Any context, signal handlers
 * too. */
#define GFP_ATOMIC (__GFP_HIGH | __GFP_KSWAPD_RECLAIM)
/* As GFP_ATOMIC without the reserve. */
#define GFP_NOWAIT (__GFP_KSWAPD_RECLAIM | __GFP_NOWARN)
/* May block, but reclaim gives no memory back to the system and calls no shrinker that does I/O. */
#define GFP_NOIO (__GFP_RECLAIM)
/* May block, but reclaim calls no shrinker that could re-enter the caller's subsystem. */
#define GFP_NOFS (__GFP_RECLAIM | __GFP_IO)
#define GFP_USER (GFP_KERNEL | __GFP_HARDWALL)
#define GFP_DMA __GFP_DMA
#define GFP_DMA32 __GFP_DMA32
#define GFP_HIGHUSER (GFP_USER | __GFP_HIGHMEM)
#define GFP_HIGHUSER_MOVABLE (GFP_HIGHUSER | __GFP_MOVABLE)
/* A huge page or nothing: order 9 without, and with, direct reclaim. */
#define GFP_TRANSHUGE_LIGHT                                                                        \
    ((GFP_HIGHUSER_MOVABLE | __GFP_COMP | __GFP_NOMEMALLOC | __GFP_NOWARN) & ~__GFP_RECLAIM)
#define GFP_TRANSHUGE (GFP_TRANSHUGE_LIGHT | __GFP_DIRECT_RECLAIM)

/* True when the caller may wait. */
static inline bool gfpflags_allow_blocking(gfp_t flags) {
    return (flags & __GFP_DIRECT_RECLAIM) != 0;
}
/* True when the caller may spin on a lock: false only for the _nolock family. */
static inline bool gfpflags_allow_spinning(gfp_t flags) { return (flags & __GFP_RECLAIM) != 0; }

/* The calling thread is where it must not wait (in a signal handler, or with a spinning lock held)
 * from pagoda_atomic_begin() to the matching pagoda_atomic_end(); pairs nest. Every allocation and
 * free in between is served as with GFP_ATOMIC, malloc and free too. Debug builds report an
 * allocation there whose flags may block: one line on stderr for each process. An end without a
 * begin has no effect. Any context; neither waits nor fails. */
void pagoda_atomic_begin(void);
void pagoda_atomic_end(void);

/* Scopes of the calling thread. Each call returns what its restore takes; scopes nest. They hold
 * for malloc as well: a library that is called inside one need not know of it.
 *   noio       as if every allocation were GFP_NOIO
 *   nofs       as if every allocation were GFP_NOFS
 *   noreclaim  may use all of the reserve, and never reclaims: for shrinkers and what they call
 * Any context. Source: Documentation/core-api/gfp_mask-from-fs-io.rst. */
#define PAGODA_SCOPE_NOIO 1u
#define PAGODA_SCOPE_NOFS 2u
#define PAGODA_SCOPE_NORECLAIM 4u
/* Opens scopes (PAGODA_SCOPE_* bits); returns the bits that were not open before. */
unsigned int pagoda_memalloc_save(unsigned int scopes);
/* Closes what the matching save opened. */
void pagoda_memalloc_restore(unsigned int opened);

static inline unsigned int memalloc_noio_save(void) {
    return pagoda_memalloc_save(PAGODA_SCOPE_NOIO);
}
static inline void memalloc_noio_restore(unsigned int flags) { pagoda_memalloc_restore(flags); }
static inline unsigned int memalloc_nofs_save(void) {
    return pagoda_memalloc_save(PAGODA_SCOPE_NOFS);
}
static inline void memalloc_nofs_restore(unsigned int flags) { pagoda_memalloc_restore(flags); }
static inline unsigned int memalloc_noreclaim_save(void) {
    return pagoda_memalloc_save(PAGODA_SCOPE_NORECLAIM);
}
static inline void memalloc_noreclaim_restore(unsigned int flags) {
    pagoda_memalloc_restore(flags);
}

#ifdef __cplusplus
}
#endif

#endif
