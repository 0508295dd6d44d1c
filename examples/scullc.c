/* scullc: each quantum is an object of a kmem_cache. The caches of the running process, "scullc"
 * among them, are what `pagoda slabinfo` lists. */
#include "examples/scull.h"

#include <pagoda/slab.h>

static void *create(size_t *quantum) {
    if (*quantum > KMALLOC_MAX_SIZE)
        return NULL;
    return kmem_cache_create("scullc", (unsigned int)*quantum, 0,
                             SLAB_HWCACHE_ALIGN | SLAB_NO_MERGE, NULL);
}

static void destroy(void *pool) { kmem_cache_destroy(pool); }

static void *alloc(void *pool) { return kmem_cache_zalloc(pool, GFP_KERNEL); }

static void release(void *pool, void *quantum) { kmem_cache_free(pool, quantum); }

const struct scull_storage scull_storage = {"scullc", 4000, create, destroy, alloc, release};
