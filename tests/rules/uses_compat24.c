// A driver's memory in the names of Linux 2.2 and 2.4, compiled as C and as C++.

#include <pagoda/compat24.h>

struct record {
    int value;
};

static kmem_cache_t *records;

static void construct(void *object) { ((struct record *)object)->value = 0; }

static void destruct(void *object) { ((struct record *)object)->value = -1; }

int use_caches(void);
int use_caches(void) {
    struct kmem_cache_args args;
    memset(&args, 0, sizeof args);
    records =
        kmem_cache_create("records", sizeof(struct record), 0, SLAB_HWCACHE_ALIGN, NULL, NULL);
    kmem_cache_destroy(records);
    records =
        kmem_cache_create("records", sizeof(struct record), 0, SLAB_NO_REAP, construct, destruct);
    if (!records)
        return -1;
    kmem_cache_free(records, kmem_cache_alloc(records, GFP_BUFFER));
    kmem_cache_destroy(records);
    kmem_cache_destroy(kmem_cache_create("new", 64, &args, 0));
    kmem_cache_destroy(kmem_cache_create("new", 64, NULL, 0));
    kmem_cache_destroy(kmem_cache_create("new", 64, 0, 0, construct));
    return 0;
}

void use_pages(void);
void use_pages(void) {
    free_page(get_free_page(GFP_KERNEL));
    free_pages(get_free_pages(GFP_KERNEL | __GFP_WAIT, 2), 2);
    free_page(__get_dma_page(GFP_KERNEL | __GFP_COLD | __GFP_REPEAT));
}

void use_areas(void);
void use_areas(void) {
    void *boot = alloc_bootmem(100);
    (void)alloc_bootmem_low(100);
    (void)alloc_bootmem_pages(PAGE_SIZE);
    (void)alloc_bootmem_low_pages(PAGE_SIZE);
    if (boot)
        free_bootmem((unsigned long)pagoda_memblock_phys(boot), 100);
    bigphysarea_free(bigphysarea_alloc(1 << 20), 1 << 20);
    bigphysarea_free_pages(bigphysarea_alloc_pages(16, 4, GFP_KERNEL));
}
