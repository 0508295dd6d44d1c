/* gfp_t: how hard an allocation may try, with the values of Linux 6.18.
 * Source: include/linux/gfp_types.h and Documentation/core-api/memory-allocation.rst of the kernel.
 */
#ifndef PAGODA_GFP_H
#define PAGODA_GFP_H

#ifdef __cplusplus
extern "C" {
#endif

typedef unsigned int gfp_t;

/* Zones by addressability. */
#define __GFP_DMA 0x01u
#define __GFP_HIGHMEM 0x02u
#define __GFP_DMA32 0x04u
#define __GFP_MOVABLE 0x08u

/* May dip into the reserve below the min watermark. */
#define __GFP_HIGH 0x20u
/* Reclaim may do I/O (system calls), or re-enter the caller's subsystem. */
#define __GFP_IO 0x40u
#define __GFP_FS 0x80u
/* The memory reads as zero. */
#define __GFP_ZERO 0x100u
/* May wait: locks, system calls, page faults, reclaim. */
#define __GFP_DIRECT_RECLAIM 0x400u
/* May ask for reclaim in the background. */
#define __GFP_KSWAPD_RECLAIM 0x800u
#define __GFP_RECLAIM (__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
/* No line on stderr when it fails. */
#define __GFP_NOWARN 0x2000u

/* May block, grow and reclaim. Process context. */
#define GFP_KERNEL (__GFP_RECLAIM | __GFP_IO | __GFP_FS)
/* No system call, no lock wait; may use the reserve. Any context, signal handlers too. */
#define GFP_ATOMIC (__GFP_HIGH | __GFP_KSWAPD_RECLAIM)
/* As GFP_ATOMIC without the reserve. */
#define GFP_NOWAIT (__GFP_KSWAPD_RECLAIM | __GFP_NOWARN)

/* True when the caller may wait. */
static inline int gfpflags_allow_blocking(gfp_t flags) {
    return (flags & __GFP_DIRECT_RECLAIM) != 0;
}

#ifdef __cplusplus
}
#endif

#endif
