/* scullv: each quantum is a vmalloc area: large, and with nothing but addresses in common with its
 * neighbours. */
#include "examples/scull.h"

#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

static void *create(size_t *quantum) {
    size_t *pool = kmalloc_obj(size_t, GFP_KERNEL);
    if (pool)
        *pool = *quantum;
    return pool;
}

static void destroy(void *pool) { kfree(pool); }

static void *alloc(void *pool) {
    const size_t *quantum = pool;
    return vzalloc(*quantum);
}

static void release(void *pool, void *quantum) {
    (void)pool;
    vfree(quantum);
}

const struct scull_storage scull_storage = {"scullv", 64 * 1024, create, destroy, alloc, release};
