/* Memory pools: a reserve of elements over any allocator, so that an allocation that may wait never
 * fails. Every function here is lock-free and may be called in any context unless it says that it
 * blocks; calls of the pool's own alloc and free functions are as good as those functions are.
 *
 * Not to be mistaken for DPDK's rte_mempool, which holds all objects that it will ever have.
 *
 * Source: include/linux/mempool.h and mm/mempool.c's interface comments of the kernel.
 */
#ifndef PAGODA_MEMPOOL_H
#define PAGODA_MEMPOOL_H

#include <pagoda/gfp.h>
#include <pagoda/mm.h>
#include <pagoda/slab.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An element for these flags, or NULL. `pool_data` is what the pool was created with. */
typedef void *(mempool_alloc_t)(gfp_t gfp_mask, void *pool_data);
/* Takes back what the alloc function returned. May be called in any context in which mempool_free
 * is. */
typedef void(mempool_free_t)(void *element, void *pool_data);

/* A pool. Public so that it can be embedded; its fields are private. All zeros is a pool that was
 * not initialised. */
typedef struct mempool {
    void *pagoda_private[8];
} mempool_t;

/* Fills `pool` with a reserve of min_nr elements. `element_bytes`: size of what an element points
 * to, for the debug build to poison while it is in reserve; 0: unknown, leave it alone. `node` is a
 * preference and has no effect: elements are placed by alloc_fn. 0, or -EINVAL (min_nr negative, no
 * functions), or -ENOMEM with nothing taken. Blocks as `gfp` says. */
int pagoda_mempool_init(struct mempool *pool, int min_nr, mempool_alloc_t *alloc_fn,
                        mempool_free_t *free_fn, void *pool_data, size_t element_bytes, gfp_t gfp,
                        int node);
/* The same with a pool of its own memory; NULL when there is none. */
struct mempool *pagoda_mempool_create(int min_nr, mempool_alloc_t *alloc_fn,
                                      mempool_free_t *free_fn, void *pool_data,
                                      size_t element_bytes, gfp_t gfp, int node);
/* Frees the reserve. Elements that are still out must not be given to mempool_free any more. A pool
 * that is all zeros is left alone; afterwards it is all zeros. Nobody else may use the pool. */
void pagoda_mempool_exit(struct mempool *pool);
/* mempool_exit, and frees what mempool_create allocated. NULL is ignored. */
void pagoda_mempool_destroy(struct mempool *pool);
/* Changes the reserve to new_min_nr elements. Those that are new are allocated, those that are too
 * many freed at once; elements that are out come back to it when they are freed. Others may
 * allocate and free meanwhile, but not resize or destroy. 0, or -EINVAL (negative), or -ENOMEM with
 * the pool as it was. Blocks. */
int pagoda_mempool_resize(struct mempool *pool, int new_min_nr);

/* An element: from alloc_fn without waiting, else from the reserve, else from alloc_fn with the
 * flags given (all calls with __GFP_NOMEMALLOC, __GFP_NORETRY and __GFP_NOWARN added). If there is
 * none, and the flags hold __GFP_DIRECT_RECLAIM, it waits until an element is freed or alloc_fn has
 * one again, which it tries every 5 seconds: it never returns NULL then. Otherwise NULL. In a
 * handler that interrupted the allocator it does not wait whatever the flags say. __GFP_ZERO is
 * refused with NULL and one warning, as elements of the reserve have old contents. */
void *pagoda_mempool_alloc(struct mempool *pool, gfp_t gfp) __attribute__((warn_unused_result));
/* An element of the reserve, or NULL when it is empty. Never waits. */
void *pagoda_mempool_alloc_preallocated(struct mempool *pool) __attribute__((warn_unused_result));
/* Takes an element back: into the reserve while that is short, else to free_fn. NULL is ignored.
 * Never waits; where a thread waits for an element it makes the system call that wakes it. */
void pagoda_mempool_free(void *element, struct mempool *pool);

/* Ready-made functions. pool_data is the kmem_cache (without a constructor), the size in bytes,
 * or the order of the pages; elements of the last are struct page. */
static inline void *mempool_alloc_slab(gfp_t gfp_mask, void *pool_data) {
    return kmem_cache_alloc((struct kmem_cache *)pool_data, gfp_mask);
}
static inline void mempool_free_slab(void *element, void *pool_data) {
    kmem_cache_free((struct kmem_cache *)pool_data, element);
}
static inline void *mempool_kmalloc(gfp_t gfp_mask, void *pool_data) {
    return kmalloc((size_t)pool_data, gfp_mask);
}
static inline void mempool_kfree(void *element, void *pool_data) {
    (void)pool_data;
    kfree(element);
}
static inline void *mempool_kvmalloc(gfp_t gfp_mask, void *pool_data) {
    return kvmalloc((size_t)pool_data, gfp_mask);
}
static inline void mempool_kvfree(void *element, void *pool_data) {
    (void)pool_data;
    kvfree(element);
}
static inline void *mempool_alloc_pages(gfp_t gfp_mask, void *pool_data) {
    return alloc_pages(gfp_mask, (unsigned int)(uintptr_t)pool_data);
}
static inline void mempool_free_pages(void *element, void *pool_data) {
    __free_pages((struct page *)element, (unsigned int)(uintptr_t)pool_data);
}

/* Memory pools by the kernel's names: as the functions above. In debug builds elements of the
 * ready-made functions, except pages, are poisoned while they are in reserve, and a write there is
 * reported. */

/* The bytes of an element of the ready-made functions, 0 for those of others. */
static inline size_t pagoda_mempool_element_bytes(mempool_alloc_t *alloc_fn, void *pool_data) {
    if (alloc_fn == mempool_alloc_slab)
        return kmem_cache_size((struct kmem_cache *)pool_data);
    return alloc_fn == mempool_kmalloc || alloc_fn == mempool_kvmalloc ? (size_t)pool_data : 0;
}

static inline int mempool_init_node(mempool_t *pool, int min_nr, mempool_alloc_t *alloc_fn,
                                    mempool_free_t *free_fn, void *pool_data, gfp_t gfp_mask,
                                    int node_id) {
    return pagoda_mempool_init(pool, min_nr, alloc_fn, free_fn, pool_data,
                               pagoda_mempool_element_bytes(alloc_fn, pool_data), gfp_mask,
                               node_id);
}
static inline int mempool_init(mempool_t *pool, int min_nr, mempool_alloc_t *alloc_fn,
                               mempool_free_t *free_fn, void *pool_data) {
    return mempool_init_node(pool, min_nr, alloc_fn, free_fn, pool_data, GFP_KERNEL, NUMA_NO_NODE);
}
static inline mempool_t *mempool_create_node(int min_nr, mempool_alloc_t *alloc_fn,
                                             mempool_free_t *free_fn, void *pool_data,
                                             gfp_t gfp_mask, int node_id) {
    return pagoda_mempool_create(min_nr, alloc_fn, free_fn, pool_data,
                                 pagoda_mempool_element_bytes(alloc_fn, pool_data), gfp_mask,
                                 node_id);
}
static inline mempool_t *mempool_create(int min_nr, mempool_alloc_t *alloc_fn,
                                        mempool_free_t *free_fn, void *pool_data) {
    return mempool_create_node(min_nr, alloc_fn, free_fn, pool_data, GFP_KERNEL, NUMA_NO_NODE);
}
/* True between a successful mempool_init and mempool_exit. */
static inline bool mempool_initialized(mempool_t *pool) { return pool->pagoda_private[0] != NULL; }
static inline void mempool_exit(mempool_t *pool) { pagoda_mempool_exit(pool); }
static inline void mempool_destroy(mempool_t *pool) { pagoda_mempool_destroy(pool); }
static inline int mempool_resize(mempool_t *pool, int new_min_nr) {
    return pagoda_mempool_resize(pool, new_min_nr);
}
static inline void *mempool_alloc(mempool_t *pool, gfp_t gfp_mask) {
    return pagoda_mempool_alloc(pool, gfp_mask);
}
static inline void *mempool_alloc_preallocated(mempool_t *pool) {
    return pagoda_mempool_alloc_preallocated(pool);
}
static inline void mempool_free(void *element, mempool_t *pool) {
    pagoda_mempool_free(element, pool);
}

/* Pools of the ready-made functions: objects of a cache, kmalloc'd and kvmalloc'd memory, blocks of
 * 2^order pages. */

static inline int mempool_init_slab_pool(mempool_t *pool, int min_nr, struct kmem_cache *cache) {
    return mempool_init(pool, min_nr, mempool_alloc_slab, mempool_free_slab, cache);
}
static inline mempool_t *mempool_create_slab_pool(int min_nr, struct kmem_cache *cache) {
    return mempool_create(min_nr, mempool_alloc_slab, mempool_free_slab, cache);
}
static inline int mempool_init_kmalloc_pool(mempool_t *pool, int min_nr, size_t size) {
    return mempool_init(pool, min_nr, mempool_kmalloc, mempool_kfree, (void *)size);
}
static inline mempool_t *mempool_create_kmalloc_pool(int min_nr, size_t size) {
    return mempool_create(min_nr, mempool_kmalloc, mempool_kfree, (void *)size);
}
static inline int mempool_init_kvmalloc_pool(mempool_t *pool, int min_nr, size_t size) {
    return mempool_init(pool, min_nr, mempool_kvmalloc, mempool_kvfree, (void *)size);
}
static inline mempool_t *mempool_create_kvmalloc_pool(int min_nr, size_t size) {
    return mempool_create(min_nr, mempool_kvmalloc, mempool_kvfree, (void *)size);
}

static inline int mempool_init_page_pool(mempool_t *pool, int min_nr, int order) {
    return mempool_init(pool, min_nr, mempool_alloc_pages, mempool_free_pages,
                        (void *)(uintptr_t)order);
}
static inline mempool_t *mempool_create_page_pool(int min_nr, int order) {
    return mempool_create(min_nr, mempool_alloc_pages, mempool_free_pages,
                          (void *)(uintptr_t)order);
}

#ifdef __cplusplus
}
#endif

#endif
