/* Device addresses, handed out: which pages of an address space are taken. Nothing is mapped here.
 * dma-mapping.h has such a domain of its own for each IOMMU; this is for programs that manage the
 * address space of a device themselves, and for anything else that numbers pages.
 *
 * Everything is counted in pages of the domain's granule ("pfn"). Addresses are given out from the
 * limit downwards. Functions take a mutex and may block; a domain that another thread was using
 * when the process forked is of no use in the child.
 *
 * Source: include/linux/iova.h of the kernel.
 */
#ifndef PAGODA_IOVA_H
#define PAGODA_IOVA_H

#include <pagoda/device.h>

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Pages that are taken: pfn_lo to pfn_hi, both included. */
struct iova {
    unsigned long pfn_hi;
    unsigned long pfn_lo;
    struct iova *pagoda_parent;
    struct iova *pagoda_child[2];
    unsigned long pagoda_gap;     /* free pages below pfn_lo */
    unsigned long pagoda_max_gap; /* the largest of the subtree */
    unsigned int pagoda_priority;
    bool pagoda_reserved;
};

struct pagoda_iova_caches;

/* An address space. Read granule and start_pfn; the library writes them. */
struct iova_domain {
    unsigned long granule;   /* bytes; a power of two */
    unsigned long start_pfn; /* nothing is given out below */
    struct iova *pagoda_root;
    struct iova pagoda_anchor; /* the last page there is, never given out */
    struct pagoda_iova_caches *pagoda_caches;
    uint64_t pagoda_random;
    pthread_mutex_t pagoda_lock;
};

/* Makes a domain of pages of `granule` bytes, a power of two, from start_pfn on. Needs no memory.
 */
void pagoda_init_iova_domain(struct iova_domain *iovad, unsigned long granule,
                             unsigned long start_pfn);
/* Gives the domain the caches of each CPU that alloc_iova_fast uses; without, it works without. 0,
 * or -ENOMEM. Blocks. */
int pagoda_iova_domain_init_rcaches(struct iova_domain *iovad);
/* Forgets all that is taken, and frees what the domain itself needed. Nobody uses it any more. */
void pagoda_put_iova_domain(struct iova_domain *iovad);

/* Takes the highest `size` free pages in a row of which none is above limit_pfn; with size_aligned
 * they begin at a multiple of size rounded up to a power of two. NULL: there is no such room, size
 * is 0, or no memory. Blocks. */
struct iova *pagoda_alloc_iova(struct iova_domain *iovad, unsigned long size,
                               unsigned long limit_pfn, bool size_aligned);
/* Frees what pagoda_alloc_iova or pagoda_reserve_iova returned; the iova of a given page; with that
 * page in no iova, nothing. */
void pagoda_free_iova_of(struct iova_domain *iovad, struct iova *iova);
void pagoda_free_iova(struct iova_domain *iovad, unsigned long pfn);
/* The iova that a page is in; NULL: it is free. It stays until somebody frees it. */
struct iova *pagoda_find_iova(struct iova_domain *iovad, unsigned long pfn);
/* Takes whatever is free of pfn_lo to pfn_hi, so that nothing of it is given out later. Returns one
 * of the iovas that are there then; NULL: no memory, or the range is empty or beyond the last page.
 * Blocks. */
struct iova *pagoda_reserve_iova(struct iova_domain *iovad, unsigned long pfn_lo,
                                 unsigned long pfn_hi);

/* As alloc_iova with size_aligned, but returns the first page (0: none), and up to 32 pages are
 * rounded up to a power of two and come from a cache of this CPU where it has some. When there is
 * no room, flush_rcache lets it empty all caches and try once more. */
unsigned long pagoda_alloc_iova_fast(struct iova_domain *iovad, unsigned long size,
                                     unsigned long limit_pfn, bool flush_rcache);
/* Frees what alloc_iova_fast returned, into the cache; `size` as it was asked for. */
void pagoda_free_iova_fast(struct iova_domain *iovad, unsigned long pfn, unsigned long size);

/* The domain's functions under their kernel names; see the pagoda_ ones. */
static inline void init_iova_domain(struct iova_domain *iovad, unsigned long granule,
                                    unsigned long start_pfn) {
    pagoda_init_iova_domain(iovad, granule, start_pfn);
}
static inline int iova_domain_init_rcaches(struct iova_domain *iovad) {
    return pagoda_iova_domain_init_rcaches(iovad);
}
static inline void put_iova_domain(struct iova_domain *iovad) { pagoda_put_iova_domain(iovad); }
static inline struct iova *alloc_iova(struct iova_domain *iovad, unsigned long size,
                                      unsigned long limit_pfn, bool size_aligned) {
    return pagoda_alloc_iova(iovad, size, limit_pfn, size_aligned);
}
static inline void __free_iova(struct iova_domain *iovad, struct iova *iova) {
    pagoda_free_iova_of(iovad, iova);
}
static inline void free_iova(struct iova_domain *iovad, unsigned long pfn) {
    pagoda_free_iova(iovad, pfn);
}
static inline struct iova *find_iova(struct iova_domain *iovad, unsigned long pfn) {
    return pagoda_find_iova(iovad, pfn);
}
static inline struct iova *reserve_iova(struct iova_domain *iovad, unsigned long pfn_lo,
                                        unsigned long pfn_hi) {
    return pagoda_reserve_iova(iovad, pfn_lo, pfn_hi);
}
static inline unsigned long alloc_iova_fast(struct iova_domain *iovad, unsigned long size,
                                            unsigned long limit_pfn, bool flush_rcache) {
    return pagoda_alloc_iova_fast(iovad, size, limit_pfn, flush_rcache);
}
static inline void free_iova_fast(struct iova_domain *iovad, unsigned long pfn,
                                  unsigned long size) {
    pagoda_free_iova_fast(iovad, pfn, size);
}

/* The most bytes that the caches serve, of pages of 4 KiB. */
static inline unsigned long iova_rcache_range(void) { return 4096ul << 5; }

/* Pages of an iova. */
static inline unsigned long iova_size(const struct iova *iova) {
    return iova->pfn_hi - iova->pfn_lo + 1;
}

/* Between bytes and pages of a domain. iova_shift: log2 of the granule. iova_mask: granule - 1.
 * iova_offset: an address's bytes in its page. iova_align, iova_align_down: to whole pages.
 * iova_dma_addr: an iova's address. iova_pfn: an address's page. */
static inline unsigned long iova_shift(const struct iova_domain *iovad) {
    return (unsigned long)__builtin_ctzl(iovad->granule);
}
static inline unsigned long iova_mask(const struct iova_domain *iovad) {
    return iovad->granule - 1;
}
static inline size_t iova_offset(const struct iova_domain *iovad, dma_addr_t iova) {
    return (size_t)(iova & iova_mask(iovad));
}
static inline size_t iova_align(const struct iova_domain *iovad, size_t size) {
    return (size + iova_mask(iovad)) & ~iova_mask(iovad);
}
static inline size_t iova_align_down(const struct iova_domain *iovad, size_t size) {
    return size & ~iova_mask(iovad);
}
static inline dma_addr_t iova_dma_addr(const struct iova_domain *iovad, const struct iova *iova) {
    return (dma_addr_t)iova->pfn_lo << iova_shift(iovad);
}
static inline unsigned long iova_pfn(const struct iova_domain *iovad, dma_addr_t iova) {
    return (unsigned long)(iova >> iova_shift(iovad));
}

#ifdef __cplusplus
}
#endif

#endif
