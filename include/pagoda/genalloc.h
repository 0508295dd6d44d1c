/* gen_pool: an allocator over any range of addresses, its bookkeeping elsewhere: device memory,
 * memory that something else must not touch, numbers that are no memory at all. And regions, the
 * same with pointers, for memory that was set aside.
 *
 * Allocating and freeing are lock-free and may be done in any context, signal handlers included;
 * what blocks says so. Variants for DMA belong to the DMA library.
 *
 * Source: include/linux/genalloc.h and Documentation/core-api/genalloc.rst of the kernel.
 */
#ifndef PAGODA_GENALLOC_H
#define PAGODA_GENALLOC_H

#include <pagoda/layout.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef NUMA_NO_NODE
#define NUMA_NO_NODE (-1)
#endif

struct gen_pool;

/* A range that was added to a pool. Read by callbacks of gen_pool_for_each_chunk. */
struct gen_pool_chunk {
    struct gen_pool_chunk *pagoda_next;
    size_t pagoda_avail;
    phys_addr_t phys_addr;    /* of start_addr; counts what the caller says it does */
    void *owner;              /* of gen_pool_add_owner */
    unsigned long start_addr; /* first and last address */
    unsigned long end_addr;
    unsigned long *bits; /* one for each granule, set where it is allocated */
};

/* Finds room: the number of the first of `nr` zero bits in a row, at or after `start` and below
 * `size`; `size` or more when there is none. Looks only. start_addr is the chunk's first address,
 * `data` what gen_pool_set_algo or gen_pool_alloc_algo was given. */
typedef unsigned long (*genpool_algo_t)(unsigned long *map, unsigned long size, unsigned long start,
                                        unsigned int nr, void *data, struct gen_pool *pool,
                                        unsigned long start_addr);
/* data of gen_pool_first_fit_align: the alignment of the address, bytes, a power of two. */
struct genpool_data_align {
    int align;
};
/* data of gen_pool_fixed_alloc: the place, bytes from the chunk's first address. */
struct genpool_data_fixed {
    unsigned long offset;
};

/* A pool of granules of 1 << min_alloc_order bytes without any memory; NULL when there is no memory
 * for it, or the order is above 62. `nid` is a preference and has no effect. Blocks. */
struct gen_pool *pagoda_gen_pool_create(int min_alloc_order, int nid);
/* Forgets the pool. What is still allocated from it is reported as misuse, and the pool stays. */
void pagoda_gen_pool_destroy(struct gen_pool *pool);
/* Adds `size` bytes at `virt`, in whole granules, others may use the pool meanwhile. 0; -EINVAL
 * when the range is empty, wraps around or begins at 0 (allocations return 0 for failure); -ENOMEM.
 * Chunks that overlap are the caller's fault. Blocks. */
int pagoda_gen_pool_add_owner(struct gen_pool *pool, unsigned long virt, phys_addr_t phys,
                              size_t size, int nid, void *owner);
/* `size` bytes, rounded up to granules, of the chunk added last that has room; 0 when none has, or
 * size is 0. `owner` may be NULL. */
unsigned long pagoda_gen_pool_alloc_algo_owner(struct gen_pool *pool, size_t size,
                                               genpool_algo_t algo, void *data, void **owner);
unsigned long pagoda_gen_pool_alloc_owner(struct gen_pool *pool, size_t size, void **owner);
/* Takes back `size` bytes at `addr`, all or part of an allocation. What is not allocated, or not in
 * one chunk, is reported as misuse and left alone. */
void pagoda_gen_pool_free_owner(struct gen_pool *pool, unsigned long addr, size_t size,
                                void **owner);
/* The algorithm of allocations that name none, first fit at the beginning (algo NULL). Nobody may
 * allocate meanwhile. */
void pagoda_gen_pool_set_algo(struct gen_pool *pool, genpool_algo_t algo, void *data);
/* Bytes that are free, and bytes that there are. */
size_t pagoda_gen_pool_avail(struct gen_pool *pool);
size_t pagoda_gen_pool_size(struct gen_pool *pool);
/* True when all of [start, start + size) is in one chunk, allocated or not. */
bool pagoda_gen_pool_has_addr(struct gen_pool *pool, unsigned long start, size_t size);
/* The second address of what is at `addr`; all ones where the pool has no such address. */
phys_addr_t pagoda_gen_pool_virt_to_phys(struct gen_pool *pool, unsigned long addr);
/* Calls func for each chunk, the one added last first. */
void pagoda_gen_pool_for_each_chunk(struct gen_pool *pool,
                                    void (*func)(struct gen_pool *pool,
                                                 struct gen_pool_chunk *chunk, void *data),
                                    void *data);

/* Algorithms: the lowest room; the lowest that is aligned; the lowest aligned (from the chunk's
 * start) to the size rounded up to a power of two; the smallest; one place and no other. */
unsigned long pagoda_gen_pool_first_fit(unsigned long *map, unsigned long size, unsigned long start,
                                        unsigned int nr, void *data, struct gen_pool *pool,
                                        unsigned long start_addr);
unsigned long pagoda_gen_pool_first_fit_align(unsigned long *map, unsigned long size,
                                              unsigned long start, unsigned int nr, void *data,
                                              struct gen_pool *pool, unsigned long start_addr);
unsigned long pagoda_gen_pool_first_fit_order_align(unsigned long *map, unsigned long size,
                                                    unsigned long start, unsigned int nr,
                                                    void *data, struct gen_pool *pool,
                                                    unsigned long start_addr);
unsigned long pagoda_gen_pool_best_fit(unsigned long *map, unsigned long size, unsigned long start,
                                       unsigned int nr, void *data, struct gen_pool *pool,
                                       unsigned long start_addr);
unsigned long pagoda_gen_pool_fixed_alloc(unsigned long *map, unsigned long size,
                                          unsigned long start, unsigned int nr, void *data,
                                          struct gen_pool *pool, unsigned long start_addr);
#define gen_pool_first_fit pagoda_gen_pool_first_fit
#define gen_pool_first_fit_align pagoda_gen_pool_first_fit_align
#define gen_pool_first_fit_order_align pagoda_gen_pool_first_fit_order_align
#define gen_pool_best_fit pagoda_gen_pool_best_fit
#define gen_pool_fixed_alloc pagoda_gen_pool_fixed_alloc

/* The kernel's names of the functions above. */

static inline struct gen_pool *gen_pool_create(int min_alloc_order, int nid) {
    return pagoda_gen_pool_create(min_alloc_order, nid);
}
static inline void gen_pool_destroy(struct gen_pool *pool) { pagoda_gen_pool_destroy(pool); }
static inline int gen_pool_add_owner(struct gen_pool *pool, unsigned long virt, phys_addr_t phys,
                                     size_t size, int nid, void *owner) {
    return pagoda_gen_pool_add_owner(pool, virt, phys, size, nid, owner);
}
static inline int gen_pool_add_virt(struct gen_pool *pool, unsigned long virt, phys_addr_t phys,
                                    size_t size, int nid) {
    return pagoda_gen_pool_add_owner(pool, virt, phys, size, nid, NULL);
}
/* A chunk without a second address. */
static inline int gen_pool_add(struct gen_pool *pool, unsigned long addr, size_t size, int nid) {
    return pagoda_gen_pool_add_owner(pool, addr, (phys_addr_t)-1, size, nid, NULL);
}

static inline unsigned long gen_pool_alloc_algo_owner(struct gen_pool *pool, size_t size,
                                                      genpool_algo_t algo, void *data,
                                                      void **owner) {
    return pagoda_gen_pool_alloc_algo_owner(pool, size, algo, data, owner);
}
static inline unsigned long gen_pool_alloc_algo(struct gen_pool *pool, size_t size,
                                                genpool_algo_t algo, void *data) {
    return pagoda_gen_pool_alloc_algo_owner(pool, size, algo, data, NULL);
}
static inline unsigned long gen_pool_alloc_owner(struct gen_pool *pool, size_t size, void **owner) {
    return pagoda_gen_pool_alloc_owner(pool, size, owner);
}
static inline unsigned long gen_pool_alloc(struct gen_pool *pool, size_t size) {
    return pagoda_gen_pool_alloc_owner(pool, size, NULL);
}
static inline void gen_pool_free_owner(struct gen_pool *pool, unsigned long addr, size_t size,
                                       void **owner) {
    pagoda_gen_pool_free_owner(pool, addr, size, owner);
}
static inline void gen_pool_free(struct gen_pool *pool, unsigned long addr, size_t size) {
    pagoda_gen_pool_free_owner(pool, addr, size, NULL);
}
static inline void gen_pool_set_algo(struct gen_pool *pool, genpool_algo_t algo, void *data) {
    pagoda_gen_pool_set_algo(pool, algo, data);
}
static inline size_t gen_pool_avail(struct gen_pool *pool) { return pagoda_gen_pool_avail(pool); }
static inline size_t gen_pool_size(struct gen_pool *pool) { return pagoda_gen_pool_size(pool); }
static inline bool gen_pool_has_addr(struct gen_pool *pool, unsigned long start, size_t size) {
    return pagoda_gen_pool_has_addr(pool, start, size);
}
static inline phys_addr_t gen_pool_virt_to_phys(struct gen_pool *pool, unsigned long addr) {
    return pagoda_gen_pool_virt_to_phys(pool, addr);
}
static inline void gen_pool_for_each_chunk(struct gen_pool *pool,
                                           void (*func)(struct gen_pool *, struct gen_pool_chunk *,
                                                        void *),
                                           void *data) {
    pagoda_gen_pool_for_each_chunk(pool, func, data);
}

/* Regions: Pagoda's own. An allocator over memory that the caller has, which remembers sizes. Not a
 * byte of the region is read or written, and nothing outside is ever handed out. */

struct pagoda_region;

/* A region over `bytes` at `start`, divided into granules (bytes, a power of two from 16 to 1 GiB;
 * 0: 64). NULL: there is no memory for its bookkeeping, or the range is empty. Blocks. */
struct pagoda_region *pagoda_region_create(void *start, size_t bytes, size_t granule);
/* Forgets the region; what is still allocated is reported as misuse, and the region stays. */
void pagoda_region_destroy(struct pagoda_region *region);
/* `bytes` at a multiple of `align` (a power of two; the granule at least), the lowest there is;
 * NULL when there is no such room, or bytes is 0. Any context. */
void *pagoda_region_alloc(struct pagoda_region *region, size_t bytes, size_t align)
    __attribute__((malloc, alloc_size(2), warn_unused_result));
/* Takes it back. NULL is ignored; what is not the start of an allocation of this region is reported
 * as misuse and left alone. Any context. */
void pagoda_region_free(struct pagoda_region *region, void *p);
/* Bytes free, and the largest allocation that would succeed now with the granule's alignment. */
size_t pagoda_region_avail(struct pagoda_region *region);
size_t pagoda_region_largest(struct pagoda_region *region);

#ifdef __cplusplus
}
#endif

#endif
