/* Old names: what books and drivers of Linux 2.0 to 2.6 call their memory by. Each stands for what
 * became of it, so that their code compiles; new code has no use for them.
 *
 * pci_alloc_consistent, usb_buffer_alloc and vremap need libpagoda_dma. bounce_buffer_create is
 * missing: no kernel had it under this name. dma_map_single() bounces what it must.
 *
 * Source: include/linux/mm.h, slab.h and bootmem.h of Linux 2.4, and the bigphysarea patch.
 */
#ifndef PAGODA_COMPAT24_H
#define PAGODA_COMPAT24_H

#include <pagoda/dma-mapping.h>
#include <pagoda/gfp.h>
#include <pagoda/io.h>
#include <pagoda/memblock.h>
#include <pagoda/mm.h>
#include <pagoda/pci.h>
#include <pagoda/slab.h>

#ifdef __cplusplus
extern "C" {
#endif

/* May block and reclaim, but not by what does I/O. Obsolete: GFP_NOIO. */
#define GFP_BUFFER GFP_NOIO
/* May wait. Obsolete: __GFP_DIRECT_RECLAIM. */
#define __GFP_WAIT __GFP_DIRECT_RECLAIM
/* A page that no cache of the CPU holds. Obsolete, and nothing: 0. */
#define __GFP_COLD 0u
/* Tries hard, then fails. Obsolete: __GFP_RETRY_MAYFAIL. */
#define __GFP_REPEAT __GFP_RETRY_MAYFAIL

/* Pages: names of Linux 2.2. */

/* One page, and a block of 2^order pages, all bytes zero; 0 when memory is short. Obsolete:
 * get_zeroed_page, and __get_free_pages with __GFP_ZERO. */
static inline unsigned long get_free_page(gfp_t gfp) { return get_zeroed_page(gfp); }
static inline unsigned long get_free_pages(gfp_t gfp, unsigned int order) {
    return __get_free_pages(gfp | __GFP_ZERO, order);
}
/* One page that a 24-bit device can address; 0 as __get_dma_pages. */
static inline unsigned long __get_dma_page(gfp_t gfp) { return __get_dma_pages(gfp, 0); }

/* Caches: kmem_cache_create as it was before 2.6.23. */

typedef struct kmem_cache kmem_cache_t;

/* kmem_cache_create with six arguments. `offset` is not used: objects lie where their alignment
 * wants them. `ctor` is called once for each object when its slab is made, `dtor` once when its
 * slab goes; both take the object alone. (In 2.4 they took the cache and SLAB_CTOR_ flags besides.)
 * NULL when memory is short or an argument is refused. Blocks. */
static inline kmem_cache_t *pagoda_kmem_cache_create24(const char *name, size_t size, size_t offset,
                                                       unsigned long flags, void (*ctor)(void *),
                                                       void (*dtor)(void *)) {
    struct kmem_cache_args args;
    (void)offset;
    memset(&args, 0, sizeof args);
    args.ctor = ctor;
    args.dtor = dtor;
    if (size > KMALLOC_MAX_SIZE)
        return NULL;
    return pagoda_kmem_cache_create(name, (unsigned int)size, &args, (slab_flags_t)flags);
}

/* Boot memory: pieces of what pagoda_boot_reserve set aside. */

/* `size` zeroed bytes at a multiple of 64, of a page, and each of them below 4 GiB of the zone.
 * After memblock_free_all, and where nothing was set aside: NULL and one line on stderr. */
static inline void *alloc_bootmem(unsigned long size) { return memblock_alloc(size, 0); }
static inline void *alloc_bootmem_pages(unsigned long size) {
    return memblock_alloc(size, PAGE_SIZE);
}
static inline void *alloc_bootmem_low(unsigned long size) { return memblock_alloc_low(size, 0); }
static inline void *alloc_bootmem_low_pages(unsigned long size) {
    return memblock_alloc_low(size, PAGE_SIZE);
}
/* Frees the bytes at a "physical" address of memblock's, before memblock_free_all. */
static inline void free_bootmem(unsigned long address, unsigned long size) {
    (void)memblock_phys_free(address, size);
}

/* Device memory at a bus address, which has to lie in a BAR of an open device. Obsolete: ioremap,
 * or pci_iomap. */
static inline void *vremap(unsigned long offset, unsigned long size) {
    return ioremap(offset, size);
}

/* Coherent memory, by bus. */

/* dma_alloc_coherent with GFP_ATOMIC, and its end. Obsolete: dma_alloc_coherent. */
static inline void *pci_alloc_consistent(struct pci_dev *dev, size_t size, dma_addr_t *handle) {
    return dma_alloc_coherent(&dev->dev, size, handle, GFP_ATOMIC);
}
static inline void pci_free_consistent(struct pci_dev *dev, size_t size, void *p,
                                       dma_addr_t handle) {
    dma_free_coherent(&dev->dev, size, p, handle);
}
/* The same for what drives a USB bus: `dev` is the host controller, since a process has no struct
 * usb_device. Obsolete: libusb_dev_mem_alloc of libusb, for programs that talk to USB devices. */
static inline void *usb_buffer_alloc(struct device *dev, size_t size, gfp_t gfp,
                                     dma_addr_t *handle) {
    return dma_alloc_coherent(dev, size, handle, gfp);
}
static inline void usb_buffer_free(struct device *dev, size_t size, void *p, dma_addr_t handle) {
    dma_free_coherent(dev, size, p, handle);
}

/* bigphysarea: large buffers in the contiguous area, which pagoda_contig_reserve or the option
 * contig=SIZE sets aside. */

/* `size` bytes, rounded up to pages. NULL when there is no such room. Any context. */
static inline char *bigphysarea_alloc(int size) {
    return size > 0 ? (char *)pagoda_contig_alloc((size_t)size, PAGE_SIZE) : NULL;
}
/* The whole of what bigphysarea_alloc returned; `size` is not used. NULL is ignored. */
static inline void bigphysarea_free(char *address, int size) {
    (void)size;
    pagoda_contig_free(address);
}
/* `count` pages at a multiple of `align` pages (a power of two; 0: 1). `priority`, the flags of
 * what the patch needed for its lists, is not used. NULL when there is no such room. */
static inline char *bigphysarea_alloc_pages(int count, int align, int priority) {
    (void)priority;
    if (count <= 0 || align < 0)
        return NULL;
    return (char *)pagoda_contig_alloc((size_t)count * PAGE_SIZE,
                                       (align ? (size_t)align : 1) * PAGE_SIZE);
}
/* Frees what bigphysarea_alloc_pages returned. NULL is ignored. */
static inline void bigphysarea_free_pages(char *address) { pagoda_contig_free(address); }

#ifdef __cplusplus
}
static inline kmem_cache_t *kmem_cache_create(const char *name, size_t size, size_t offset,
                                              unsigned long flags, void (*ctor)(void *),
                                              void (*dtor)(void *)) {
    return pagoda_kmem_cache_create24(name, size, offset, flags, ctor, dtor);
}
#else
/* The forms with four and five arguments stay what they are. */
#undef kmem_cache_create
#define PAGODA_CREATE_NEW(name, size, args, ...)                                                   \
    _Generic((args),                                                                               \
        struct kmem_cache_args *: __kmem_cache_create_args,                                        \
        void *: __kmem_cache_default_args,                                                         \
        default: __kmem_cache_create)(name, size, args, __VA_ARGS__)
#define PAGODA_CREATE_CHOSEN(a, b, c, d, e, f, chosen, ...) chosen
#define kmem_cache_create(...)                                                                     \
    PAGODA_CREATE_CHOSEN(__VA_ARGS__, pagoda_kmem_cache_create24, PAGODA_CREATE_NEW,               \
                         PAGODA_CREATE_NEW, 0)                                                     \
    (__VA_ARGS__)
#endif

#endif
