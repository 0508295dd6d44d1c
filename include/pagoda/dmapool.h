/* Pools of small blocks of coherent memory, for descriptors and the like. Names and contracts of
 * Linux 6.18.
 *
 * Taking and giving back a block costs what kmalloc and kfree cost. A block is a power of two of
 * bytes of memory, and aligned to that here and for the device, so that none crosses a boundary.
 * What a pool has from the system it keeps until it is destroyed.
 *
 * Source: include/linux/dmapool.h and Documentation/core-api/dma-api.rst of the kernel. */
#ifndef PAGODA_DMAPOOL_H
#define PAGODA_DMAPOOL_H

#include <pagoda/device.h>
#include <pagoda/gfp.h>
#include <pagoda/slab.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A pool. The fields are for the functions below. */
struct dma_pool {
    struct kmem_cache *cache; /* of the blocks; NULL: every call takes the long way */
    uintptr_t window;         /* where some of the blocks are, here and for the device */
    size_t window_bytes;
    dma_addr_t window_address;
};

/* A pool of blocks of `size` bytes, 1 to 2 MiB, aligned to `align`, a power of two or 0, of which
 * none crosses a multiple of `boundary`, 0 or a power of two not below `size`. Blocks have at least
 * 16 bytes, and lie within the coherent mask that the device has now. The node is a hint that has
 * no effect. Blocks. NULL on failure: errno says why, and pagoda_device_error() in a sentence.
 */
struct dma_pool *pagoda_dma_pool_create(const char *name, struct device *dev, size_t size,
                                        size_t align, size_t boundary)
    __attribute__((warn_unused_result));
/* Destroys it. Blocks still in use are reported, and all memory of the pool is leaked then. NULL is
 * ignored. Blocks. */
void pagoda_dma_pool_destroy(struct dma_pool *pool);

/* A pool that is destroyed when the device is closed, if not before. NULL as above. */
struct dma_pool *pagoda_dmam_pool_create(const char *name, struct device *dev, size_t size,
                                         size_t align, size_t boundary)
    __attribute__((warn_unused_result));
/* Destroys it before. A pool that is not managed is one line on stderr, and stays. NULL is ignored.
 * Blocks. */
void pagoda_dmam_pool_destroy(struct dma_pool *pool);

/* Pools created from now on check what is done with their blocks, as all do in a debug build of the
 * library: frees of what is no block of the pool, with another device address, or for the second
 * time are reported and ignored; so are writes to free blocks, at the next allocation. A free block
 * is full of 0xa7, a fresh one of 0xa9. Such pools are slow. */
void pagoda_dma_pool_set_checks(bool on);

/* The long ways of dma_pool_alloc() and dma_pool_free(). */
void *pagoda_dma_pool_alloc(struct dma_pool *pool, gfp_t flags, dma_addr_t *handle);
void *pagoda_dma_pool_place(struct dma_pool *pool, void *block, dma_addr_t *handle);
void pagoda_dma_pool_free(struct dma_pool *pool, void *block, dma_addr_t address);

static inline struct dma_pool *dma_pool_create(const char *name, struct device *dev, size_t size,
                                               size_t align, size_t boundary) {
    return pagoda_dma_pool_create(name, dev, size, align, boundary);
}
static inline struct dma_pool *dma_pool_create_node(const char *name, struct device *dev,
                                                    size_t size, size_t align, size_t boundary,
                                                    int node) {
    (void)node;
    return pagoda_dma_pool_create(name, dev, size, align, boundary);
}
static inline void dma_pool_destroy(struct dma_pool *pool) { pagoda_dma_pool_destroy(pool); }
static inline struct dma_pool *dmam_pool_create(const char *name, struct device *dev, size_t size,
                                                size_t align, size_t boundary) {
    return pagoda_dmam_pool_create(name, dev, size, align, boundary);
}
static inline void dmam_pool_destroy(struct dma_pool *pool) { pagoda_dmam_pool_destroy(pool); }

/* A block, and in *handle its address for the device; zeroed with __GFP_ZERO. NULL when memory,
 * addresses within the mask or the limit on locked memory are short, the device is closed, or in a
 * fork child. May block as the flags say; zone bits have no effect. */
static inline void *dma_pool_alloc(struct dma_pool *pool, gfp_t flags, dma_addr_t *handle) {
    void *block;
    size_t at, bytes;
    if (__builtin_expect(pool->cache == NULL, 0))
        return pagoda_dma_pool_alloc(pool, flags, handle);
    block = pagoda_kmem_cache_alloc(pool->cache, flags);
    /* The window is written by whoever gets the first block, its size last. */
    bytes = __atomic_load_n(&pool->window_bytes, __ATOMIC_ACQUIRE);
    at = (uintptr_t)block - pool->window;
    if (__builtin_expect(at >= bytes, 0))
        return pagoda_dma_pool_place(pool, block, handle);
    *handle = pool->window_address + at;
    return block;
}
static inline void *dma_pool_zalloc(struct dma_pool *pool, gfp_t flags, dma_addr_t *handle) {
    return dma_pool_alloc(pool, flags | __GFP_ZERO, handle);
}
/* Gives a block back, by both its addresses. The device does not use it any more. Another device
 * address than the block's is one line on stderr, and the block is leaked. Any context. */
static inline void dma_pool_free(struct dma_pool *pool, void *block, dma_addr_t address) {
    size_t bytes = __atomic_load_n(&pool->window_bytes, __ATOMIC_ACQUIRE);
    size_t at = (uintptr_t)block - pool->window;
    if (__builtin_expect(at < bytes && pool->window_address + at == address, 1))
        pagoda_kmem_cache_free(pool->cache, block);
    else
        pagoda_dma_pool_free(pool, block, address);
}

#ifdef __cplusplus
}
#endif

#endif
