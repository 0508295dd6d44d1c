/* scullp: each quantum is a block of 2^order pages, used to its last byte. */
#include "examples/scull.h"

#include <pagoda/mm.h>
#include <pagoda/slab.h>

struct pages {
    unsigned int order;
};

static void *create(size_t *quantum) {
    unsigned int order = (unsigned int)get_order(*quantum);
    if (order > MAX_PAGE_ORDER)
        return NULL;
    struct pages *pool = kmalloc_obj(struct pages, GFP_KERNEL);
    if (!pool)
        return NULL;
    pool->order = order;
    *quantum = PAGE_SIZE << order;
    return pool;
}

static void destroy(void *pool) { kfree(pool); }

static void *alloc(void *pool) {
    const struct pages *pages = pool;
    return (void *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, pages->order);
}

static void release(void *pool, void *quantum) {
    const struct pages *pages = pool;
    free_pages((unsigned long)quantum, pages->order);
}

const struct scull_storage scull_storage = {"scullp", 4096, create, destroy, alloc, release};
