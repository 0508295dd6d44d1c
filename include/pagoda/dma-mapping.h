/* DMA: memory that devices read and write, under the names of Linux 6.18. A device is one of
 * device.h. Two kinds: coherent memory, which the program and the device use at the same time, and
 * streaming mappings, which hand a buffer of the program's to the device until they are undone.
 *
 * Any memory can be mapped. What the heap has (malloc, kmalloc, pages, vmalloc) is made reachable
 * by 2 MiB granules on first use and stays so: mapping a buffer there again is arithmetic, without
 * a system call or a lock. Other memory (stacks, static data, files) is bounced, through a buffer
 * that the device reaches, or mapped at an address of its own; so is all of it in the other modes
 * of pagoda_dma_set_mode(). Without an IOMMU everything but GFP_DMA and coherent memory is bounced.
 *
 * Ownership is as in the kernel: from map to unmap the buffer is the device's. In between,
 * dma_sync_single_for_cpu() takes it back and dma_sync_single_for_device() gives it again; a
 * bounced buffer is copied then. While it is mapped, free() of its object is reported and put off
 * until the unmap, and realloc() copies.
 *
 * A physical address (phys_addr_t, of layout.h) is here the address of the memory in this process.
 *
 * In a child of fork() the parent's devices are out of reach: mapping and allocating fail there,
 * and undoing does nothing. Only devices that are coherent with the processor's caches are
 * supported, which all PCIe devices of x86-64 are; pagoda_device_open() refuses others, by what the
 * device tree says of them.
 *
 * Source: include/linux/dma-mapping.h, Documentation/core-api/dma-api.rst, dma-api-howto.rst and
 * dma-attributes.rst of the kernel. */
#ifndef PAGODA_DMA_MAPPING_H
#define PAGODA_DMA_MAPPING_H

#include <pagoda/device.h>
#include <pagoda/gfp.h>
#include <pagoda/mm.h>
#include <pagoda/scatterlist.h>
#include <pagoda/vma.h>

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a mapping that failed returns; see dma_mapping_error(). */
#define DMA_MAPPING_ERROR (~(dma_addr_t)0)
/* The mask of a device that can drive n address lines. */
#ifndef DMA_BIT_MASK
#define DMA_BIT_MASK(n) (((n) == 64) ? ~0ULL : ((1ULL << (n)) - 1))
#endif

/* Who writes and who reads. */
enum dma_data_direction {
    DMA_BIDIRECTIONAL = 0,
    DMA_TO_DEVICE = 1,   /* the device reads */
    DMA_FROM_DEVICE = 2, /* the device writes */
    DMA_NONE = 3,        /* a mistake: every function refuses it */
};

/* Attributes. Those that say "no effect" change nothing here, and unknown ones are ignored. */
#define DMA_ATTR_WEAK_ORDERING (1UL << 1) /* no effect: x86 and the bus decide */
#define DMA_ATTR_WRITE_COMBINE (1UL << 2) /* no effect: memory is cached, and coherent */
#define DMA_ATTR_NO_KERNEL_MAPPING                                                                 \
    (1UL << 4)                                 /* the address is a cookie; here it can be used too \
                                                */
#define DMA_ATTR_SKIP_CPU_SYNC (1UL << 5)      /* unmapping copies nothing back */
#define DMA_ATTR_FORCE_CONTIGUOUS (1UL << 6)   /* no effect: all allocations are in one piece */
#define DMA_ATTR_ALLOC_SINGLE_PAGES (1UL << 7) /* no effect: a hint about page sizes */
#define DMA_ATTR_NO_WARN (1UL << 8)            /* a failed allocation says nothing on stderr */
#define DMA_ATTR_PRIVILEGED (1UL << 9)         /* no effect: the bus has no such levels */
#define DMA_ATTR_MMIO (1UL << 10)              /* a device's memory, see dma_map_resource() */

/* By which family of functions a mapping is made or undone: for dma-debug, and set by the functions
 * below alone. */
#define PAGODA_DMA_BY (3UL << 24)
#define PAGODA_DMA_BY_PAGE (1UL << 24)
#define PAGODA_DMA_BY_PHYS (2UL << 24)
#define PAGODA_DMA_BY_RESOURCE (3UL << 24)

/* Places in a driver's record for what unmapping takes. */
#define DEFINE_DMA_UNMAP_ADDR(name) dma_addr_t name
#define DEFINE_DMA_UNMAP_LEN(name) uint32_t name
#define dma_unmap_addr(record, name) ((record)->name)
#define dma_unmap_addr_set(record, name, value) (((record)->name) = (value))
#define dma_unmap_len(record, name) ((record)->name)
#define dma_unmap_len_set(record, name, value) (((record)->name) = (value))

/* How streaming mappings of heap memory are made. */
enum pagoda_dma_mode {
    PAGODA_DMA_GRANULES, /* 2 MiB granules of the heap, for reading and writing, on first use */
    PAGODA_DMA_STRICT,   /* whole pages alone, with the direction's permission; the rest bounced */
    PAGODA_DMA_BOUNCE,   /* always bounced, as the kernel's swiotlb=force */
};

/* Chooses how streaming mappings of this device are made from now on; those that exist stay. A
 * granule that a device reaches is pinned and private: fork() copies it, so that a process that
 * forks much should use STRICT or BOUNCE. 0; -EINVAL: no such mode. */
int pagoda_dma_set_mode(struct device *dev, enum pagoda_dma_mode mode);

/* Which misuse of mappings is looked for. */
enum pagoda_dma_debug_level {
    PAGODA_DMA_DEBUG_OFF,
    PAGODA_DMA_DEBUG_ON,    /* by records of what is mapped */
    PAGODA_DMA_DEBUG_GUARD, /* and buffers are kept from the processor while they are the device's
                             */
};

/* Sets the level of the device's dma-debug; PAGODA_OPTIONS=dma_debug=on or =guard is what devices
 * begin with. On keeps a record of each mapping and of all coherent memory, and says on stderr, one
 * line each, with the places that made and undid it: what is undone and not mapped, or not any
 * more; by the function of another family, or with another size, direction or number of pieces;
 * without dma_mapping_error() having been asked; what is synchronised beyond its mapping or in
 * another direction; a buffer that overlaps one that is mapped, where the device writes; a
 * DMA_TO_DEVICE buffer that the processor wrote to while it was the device's; and what is left when
 * the device is closed or the process exits. PAGODA_OPTIONS=on_error says whether the process ends
 * then, as after a double free. That a buffer is on the stack is a note, once.
 *
 * Guard hands the device copies of the buffers. Whole pages of the heap's that a buffer has alone
 * are closed meanwhile, to writing where the direction is DMA_TO_DEVICE, else altogether: who
 * touches them is reported at that moment, with the instruction, and goes on with the pages open;
 * a system call that is given them fails with EFAULT. A handler of SIGSEGV does this, and passes on
 * to the one that the program had before. Other parts of buffers that the device writes hold the
 * byte 0xdb instead, and that the processor wrote there is reported when its turn comes.
 *
 * Both are slow, block, and are not for signal handlers. 0; -EBUSY: something is mapped; -EINVAL:
 * no such level; -ENOMEM; -ENODEV. */
int pagoda_dma_debug(struct device *dev, enum pagoda_dma_debug_level level);

/* Makes heap memory reachable ahead of time, so that mapping parts of it later is arithmetic. For a
 * heap as a whole call it for each large piece. Blocks. 0; -EFAULT: not heap memory; -ERANGE: out
 * of the device's mask, or no IOMMU; -ENOMEM: the limit on locked memory; -ENOSPC: the IOMMU has no
 * entry left; -ENODEV: the device is gone. pagoda_device_error() says what to do. */
int pagoda_dma_reach(struct device *dev, const void *p, size_t size);

/* Masks and limits: what addresses a device can drive. */

/* Sets the mask of streaming mappings, and of dma_alloc_coherent(): the highest address that the
 * device can drive. Both are 32 bits until set. Each mask of 32 bits or more succeeds, also where
 * the IOMMU has fewer: addresses are then taken from what both have. 0; -EIO: the mask is not one
 * of low bits, or below 24 bits, or the IOMMU has no addresses under it. */
int pagoda_dma_set_masks(struct device *dev, uint64_t mask, bool streaming, bool coherent);
static inline int dma_set_mask(struct device *dev, uint64_t mask) {
    return pagoda_dma_set_masks(dev, mask, true, false);
}
static inline int dma_set_coherent_mask(struct device *dev, uint64_t mask) {
    return pagoda_dma_set_masks(dev, mask, false, true);
}
static inline int dma_set_mask_and_coherent(struct device *dev, uint64_t mask) {
    return pagoda_dma_set_masks(dev, mask, true, true);
}
static inline int dma_coerce_mask_and_coherent(struct device *dev, uint64_t mask) {
    return dma_set_mask_and_coherent(dev, mask);
}

/* The mask of streaming mappings, and the smallest one, of 32 bits or more, that reaches all that
 * may be mapped directly: with an IOMMU the addresses set aside for the heap, which lie above 4 GiB
 * where the IOMMU has such, without one all of the machine's memory. */
uint64_t pagoda_dma_mask(const struct device *dev);
uint64_t pagoda_dma_required_mask(struct device *dev);
static inline uint64_t dma_get_mask(struct device *dev) { return pagoda_dma_mask(dev); }
static inline uint64_t dma_get_required_mask(struct device *dev) {
    return pagoda_dma_required_mask(dev);
}
/* True when the mask is smaller than that, so that mappings may have to be bounced. */
static inline bool dma_addressing_limited(struct device *dev) {
    return pagoda_dma_mask(dev) < pagoda_dma_required_mask(dev);
}

/* The longest streaming mapping: SIZE_MAX with an IOMMU, else what a bounce buffer holds, 256 KiB
 * less the alignment that dma_set_min_align_mask() asks for. */
size_t pagoda_dma_max_mapping_size(struct device *dev);
static inline size_t dma_max_mapping_size(struct device *dev) {
    return pagoda_dma_max_mapping_size(dev);
}
/* The longest one that never costs more than others do: 128 KiB, or the maximum if less. */
static inline size_t dma_opt_mapping_size(struct device *dev) {
    size_t most = pagoda_dma_max_mapping_size(dev);
    return most < PAGE_SIZE << 5 ? most : PAGE_SIZE << 5;
}

/* Limits of scatter lists and bounce buffers. Segments are at most max_segment bytes (64 KiB until
 * set), and none crosses a multiple of boundary + 1 (all ones until set). A bounce buffer keeps the
 * address's bits under min_align_mask (0 until set), and the boundary where it is long enough. */
struct pagoda_dma_limits {
    unsigned int max_segment;
    unsigned int min_align_mask;
    unsigned long boundary;
};
struct pagoda_dma_limits pagoda_dma_get_limits(const struct device *dev);
void pagoda_dma_set_limits(struct device *dev, struct pagoda_dma_limits limits);
static inline unsigned int dma_get_max_seg_size(struct device *dev) {
    return pagoda_dma_get_limits(dev).max_segment;
}
static inline void dma_set_max_seg_size(struct device *dev, unsigned int size) {
    struct pagoda_dma_limits limits = pagoda_dma_get_limits(dev);
    limits.max_segment = size;
    pagoda_dma_set_limits(dev, limits);
}
static inline unsigned long dma_get_seg_boundary(struct device *dev) {
    return pagoda_dma_get_limits(dev).boundary;
}
static inline void dma_set_seg_boundary(struct device *dev, unsigned long mask) {
    struct pagoda_dma_limits limits = pagoda_dma_get_limits(dev);
    limits.boundary = mask;
    pagoda_dma_set_limits(dev, limits);
}
static inline unsigned int dma_get_min_align_mask(struct device *dev) {
    return pagoda_dma_get_limits(dev).min_align_mask;
}
static inline void dma_set_min_align_mask(struct device *dev, unsigned int mask) {
    struct pagoda_dma_limits limits = pagoda_dma_get_limits(dev);
    limits.min_align_mask = mask;
    pagoda_dma_set_limits(dev, limits);
}
/* The boundary in units of 1 << shift bytes. */
static inline unsigned long dma_get_seg_boundary_nr_pages(struct device *dev, unsigned int shift) {
    return (dma_get_seg_boundary(dev) >> shift) + 1;
}
/* The mask of what an IOMMU merges: entries of a scatter list that end and begin on multiples of
 * this + 1 become one segment. 0 without an IOMMU. */
unsigned long pagoda_dma_merge_boundary(struct device *dev);
static inline unsigned long dma_get_merge_boundary(struct device *dev) {
    return pagoda_dma_merge_boundary(dev);
}
/* What buffers for the device must be aligned to so as not to share a cache line with the
 * processor's data: 1, devices are coherent. */
static inline int dma_get_cache_alignment(void) { return 1; }

/* Streaming mappings: a buffer is the device's for a while. */

/* Hands `size` bytes at `p` to the device and returns their address for it, which stays until
 * pagoda_dma_unmap() of the same size and direction. Heap memory the first time, and memory that
 * is neither heap nor small, costs system calls and blocks; the rest is done in any context. On
 * failure the result is DMA_MAPPING_ERROR and pagoda_device_error() says why: no memory within the
 * mask, no entry of the IOMMU or no locked memory left, more than dma_max_mapping_size(), the
 * object is freed or shorter than that, the device is gone, or the process is a fork child. */
dma_addr_t pagoda_dma_map(struct device *dev, const void *p, size_t size,
                          enum dma_data_direction dir, unsigned long attrs);
/* Ends a mapping: what the device wrote into a bounce buffer is copied back, unless attrs has
 * DMA_ATTR_SKIP_CPU_SYNC, and an object that was freed meanwhile goes. Size and direction must be
 * those of the mapping; an address that is not mapped is one line on stderr, and so is memory that
 * the IOMMU does not let go of: it stays mapped, and what was freed stays too. Any context, except
 * for memory that has an address of its own, which costs a system call. */
void pagoda_dma_unmap(struct device *dev, dma_addr_t address, size_t size,
                      enum dma_data_direction dir, unsigned long attrs);
static inline dma_addr_t dma_map_single_attrs(struct device *dev, void *p, size_t size,
                                              enum dma_data_direction dir, unsigned long attrs) {
    return pagoda_dma_map(dev, p, size, dir, attrs);
}
static inline void dma_unmap_single_attrs(struct device *dev, dma_addr_t address, size_t size,
                                          enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_unmap(dev, address, size, dir, attrs);
}
static inline dma_addr_t dma_map_single(struct device *dev, void *p, size_t size,
                                        enum dma_data_direction dir) {
    return pagoda_dma_map(dev, p, size, dir, 0);
}
static inline void dma_unmap_single(struct device *dev, dma_addr_t address, size_t size,
                                    enum dma_data_direction dir) {
    pagoda_dma_unmap(dev, address, size, dir, 0);
}
static inline void dma_unmap_page_attrs(struct device *dev, dma_addr_t address, size_t size,
                                        enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_unmap(dev, address, size, dir, attrs | PAGODA_DMA_BY_PAGE);
}
static inline void dma_unmap_page(struct device *dev, dma_addr_t address, size_t size,
                                  enum dma_data_direction dir) {
    pagoda_dma_unmap(dev, address, size, dir, PAGODA_DMA_BY_PAGE);
}

/* The same for a part of pages, from `offset` in the first one on. A page of the HIGHMEM zone must
 * be mapped (kmap) for as long as the device has it; otherwise DMA_MAPPING_ERROR. */
static inline dma_addr_t dma_map_page_attrs(struct device *dev, struct page *page, size_t offset,
                                            size_t size, enum dma_data_direction dir,
                                            unsigned long attrs) {
    char *at = (char *)page_address(page);
    return pagoda_dma_map(dev, at == NULL ? NULL : at + offset, size, dir,
                          attrs | PAGODA_DMA_BY_PAGE);
}
static inline dma_addr_t dma_map_page(struct device *dev, struct page *page, size_t offset,
                                      size_t size, enum dma_data_direction dir) {
    return dma_map_page_attrs(dev, page, offset, size, dir, 0);
}

/* The same for a device's memory (a BAR that was mapped with ioremap), so that one device writes to
 * another: `p` is where it is mapped. Always at an address of its own; nothing is copied. Blocks.
 * DMA_MAPPING_ERROR without an IOMMU, and where the IOMMU's interface refuses such memory
 * (iommufd of today's kernels). */
dma_addr_t pagoda_dma_map_resource(struct device *dev, phys_addr_t p, size_t size,
                                   enum dma_data_direction dir, unsigned long attrs);
static inline dma_addr_t dma_map_resource(struct device *dev, phys_addr_t p, size_t size,
                                          enum dma_data_direction dir, unsigned long attrs) {
    return pagoda_dma_map_resource(dev, p, size, dir, attrs | PAGODA_DMA_BY_RESOURCE);
}
static inline void dma_unmap_resource(struct device *dev, dma_addr_t address, size_t size,
                                      enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_unmap(dev, address, size, dir, attrs | PAGODA_DMA_BY_RESOURCE);
}
/* What dma_map_phys() takes for memory, and the way back: see above what a physical address is. */
static inline phys_addr_t virt_to_phys(const volatile void *p) { return (uintptr_t)p; }
static inline void *phys_to_virt(phys_addr_t at) { return (void *)(uintptr_t)at; }
static inline phys_addr_t page_to_phys(struct page *page) { return (uintptr_t)page_address(page); }
/* Either, by DMA_ATTR_MMIO. */
static inline dma_addr_t dma_map_phys(struct device *dev, phys_addr_t p, size_t size,
                                      enum dma_data_direction dir, unsigned long attrs) {
    if ((attrs & DMA_ATTR_MMIO) != 0)
        return pagoda_dma_map_resource(dev, p, size, dir, attrs | PAGODA_DMA_BY_PHYS);
    return pagoda_dma_map(dev, (const void *)(uintptr_t)p, size, dir, attrs | PAGODA_DMA_BY_PHYS);
}
static inline void dma_unmap_phys(struct device *dev, dma_addr_t address, size_t size,
                                  enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_unmap(dev, address, size, dir, attrs | PAGODA_DMA_BY_PHYS);
}

/* How many devices have dma-debug on: dma_mapping_error() looks. */
extern int pagoda_dma_debugged;
/* Tells dma-debug that dma_mapping_error() was asked of the address, which does this itself. */
void pagoda_dma_mapping_asked(struct device *dev, dma_addr_t address);
/* Whether a mapping failed: 0, or -ENOMEM. */
static inline int dma_mapping_error(struct device *dev, dma_addr_t address) {
    if (__builtin_expect(__atomic_load_n(&pagoda_dma_debugged, __ATOMIC_RELAXED) != 0, 0))
        pagoda_dma_mapping_asked(dev, address);
    return address == DMA_MAPPING_ERROR ? -ENOMEM : 0;
}

/* Takes the buffer, or a part of the mapping, back for the processor or gives it to the device
 * again. Copies where it is bounced: for the processor unless the direction is TO_DEVICE, for the
 * device unless it is FROM_DEVICE. Nothing to do otherwise. An address that is not mapped is one
 * line on stderr. Any context. */
void pagoda_dma_sync_for_cpu(struct device *dev, dma_addr_t address, size_t size,
                             enum dma_data_direction dir);
void pagoda_dma_sync_for_device(struct device *dev, dma_addr_t address, size_t size,
                                enum dma_data_direction dir);
static inline void dma_sync_single_for_cpu(struct device *dev, dma_addr_t address, size_t size,
                                           enum dma_data_direction dir) {
    pagoda_dma_sync_for_cpu(dev, address, size, dir);
}
static inline void dma_sync_single_for_device(struct device *dev, dma_addr_t address, size_t size,
                                              enum dma_data_direction dir) {
    pagoda_dma_sync_for_device(dev, address, size, dir);
}
static inline void dma_sync_single_range_for_cpu(struct device *dev, dma_addr_t address,
                                                 unsigned long offset, size_t size,
                                                 enum dma_data_direction dir) {
    pagoda_dma_sync_for_cpu(dev, address + offset, size, dir);
}
static inline void dma_sync_single_range_for_device(struct device *dev, dma_addr_t address,
                                                    unsigned long offset, size_t size,
                                                    enum dma_data_direction dir) {
    pagoda_dma_sync_for_device(dev, address + offset, size, dir);
}
/* Whether the mapping at this address has to be synchronised: whether it is bounced. */
bool pagoda_dma_need_sync(struct device *dev, dma_addr_t address);
static inline bool dma_need_sync(struct device *dev, dma_addr_t address) {
    return pagoda_dma_need_sync(dev, address);
}
/* Whether mappings have to be undone: true, an object is held as long as it is mapped. */
static inline bool dma_need_unmap(struct device *dev) {
    (void)dev;
    return true;
}

/* Scatter lists: each piece is mapped as a buffer of its own, and the list then says where the
 * device finds them: in dma_address and dma_length of its first entries, as many as the mapping
 * returned. Addresses that follow each other become one segment, of at most dma_get_max_seg_size()
 * bytes, that crosses no dma_get_seg_boundary(). With an IOMMU, pieces of other memory than the
 * heap's that are whole pages get addresses in a row, where they are too long to be copied. A piece
 * that is longer than a segment may be is a segment all the same, and crosses what it must. */

/* Maps `nents` pieces. Returns how many segments there are, 1 to nents, or -EINVAL: no pieces, no
 * direction, an empty or a freed one; -ENOMEM: short of memory, addresses, bounce buffers or locked
 * memory; -EIO: the rest. pagoda_device_error() says why. Nothing is mapped then. May block as
 * pagoda_dma_map() does. */
int pagoda_dma_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
                      enum dma_data_direction dir, unsigned long attrs);
/* Undoes it; nents and direction are those of the mapping. */
void pagoda_dma_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
                         enum dma_data_direction dir, unsigned long attrs);
/* pagoda_dma_sync_for_cpu() or _for_device() of all pieces, with what they were mapped with. */
void pagoda_dma_sync_sg(struct device *dev, struct scatterlist *sgl, int nents,
                        enum dma_data_direction dir, bool for_device);
/* The same, but 0 where it fails. */
static inline unsigned int dma_map_sg_attrs(struct device *dev, struct scatterlist *sgl, int nents,
                                            enum dma_data_direction dir, unsigned long attrs) {
    int segments = pagoda_dma_map_sg(dev, sgl, nents, dir, attrs);
    return segments < 0 ? 0 : (unsigned int)segments;
}
static inline unsigned int dma_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
                                      enum dma_data_direction dir) {
    return dma_map_sg_attrs(dev, sgl, nents, dir, 0);
}
static inline void dma_unmap_sg_attrs(struct device *dev, struct scatterlist *sgl, int nents,
                                      enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_unmap_sg(dev, sgl, nents, dir, attrs);
}
static inline void dma_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
                                enum dma_data_direction dir) {
    pagoda_dma_unmap_sg(dev, sgl, nents, dir, 0);
}
static inline void dma_sync_sg_for_cpu(struct device *dev, struct scatterlist *sgl, int nents,
                                       enum dma_data_direction dir) {
    pagoda_dma_sync_sg(dev, sgl, nents, dir, false);
}
static inline void dma_sync_sg_for_device(struct device *dev, struct scatterlist *sgl, int nents,
                                          enum dma_data_direction dir) {
    pagoda_dma_sync_sg(dev, sgl, nents, dir, true);
}
/* Maps a table, whose nents becomes the number of segments: 0, or the error as above. */
static inline int dma_map_sgtable(struct device *dev, struct sg_table *table,
                                  enum dma_data_direction dir, unsigned long attrs) {
    int segments = pagoda_dma_map_sg(dev, table->sgl, (int)table->orig_nents, dir, attrs);
    if (segments < 0)
        return segments;
    table->nents = (unsigned int)segments;
    return 0;
}
static inline void dma_unmap_sgtable(struct device *dev, struct sg_table *table,
                                     enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_unmap_sg(dev, table->sgl, (int)table->orig_nents, dir, attrs);
}
static inline void dma_sync_sgtable_for_cpu(struct device *dev, struct sg_table *table,
                                            enum dma_data_direction dir) {
    pagoda_dma_sync_sg(dev, table->sgl, (int)table->orig_nents, dir, false);
}
static inline void dma_sync_sgtable_for_device(struct device *dev, struct sg_table *table,
                                               enum dma_data_direction dir) {
    pagoda_dma_sync_sg(dev, table->sgl, (int)table->orig_nents, dir, true);
}

/* Coherent memory: the device's and the program's at the same time. */

/* `size` zeroed bytes that the device reaches at *handle, within the coherent mask. Up to 4 MiB,
 * address and handle are multiples of the smallest power of two of pages that holds them; beyond,
 * of a page, and without an IOMMU there is no beyond. Memory is cached as usual: it is the devices
 * that are coherent. Ordering still takes barriers. gfp's zone bits are ignored, and __GFP_COMP is
 * refused; flags that may not block have what earlier allocations left. NULL: size 0, or memory,
 * the limit on locked memory or addresses within the mask are short (one line on stderr unless
 * __GFP_NOWARN or DMA_ATTR_NO_WARN), the device is gone, or a fork child. */
void *pagoda_dma_alloc(struct device *dev, size_t size, dma_addr_t *handle, gfp_t gfp,
                       unsigned long attrs) __attribute__((warn_unused_result));
/* Frees it. Size, address and handle must be those of the allocation: anything else is one line on
 * stderr, and nothing happens. NULL is ignored. Not in a signal handler. */
void pagoda_dma_free(struct device *dev, size_t size, void *p, dma_addr_t handle,
                     unsigned long attrs);
static inline void *dma_alloc_attrs(struct device *dev, size_t size, dma_addr_t *handle, gfp_t gfp,
                                    unsigned long attrs) {
    return pagoda_dma_alloc(dev, size, handle, gfp, attrs);
}
static inline void dma_free_attrs(struct device *dev, size_t size, void *p, dma_addr_t handle,
                                  unsigned long attrs) {
    pagoda_dma_free(dev, size, p, handle, attrs);
}
static inline void *dma_alloc_coherent(struct device *dev, size_t size, dma_addr_t *handle,
                                       gfp_t gfp) {
    return pagoda_dma_alloc(dev, size, handle, gfp,
                            (gfp & __GFP_NOWARN) != 0 ? DMA_ATTR_NO_WARN : 0);
}
static inline void dma_free_coherent(struct device *dev, size_t size, void *p, dma_addr_t handle) {
    pagoda_dma_free(dev, size, p, handle, 0);
}
/* The same memory: nothing here can be mapped write-combined. */
static inline void *dma_alloc_wc(struct device *dev, size_t size, dma_addr_t *handle, gfp_t gfp) {
    return pagoda_dma_alloc(dev, size, handle, gfp,
                            DMA_ATTR_WRITE_COMBINE |
                                ((gfp & __GFP_NOWARN) != 0 ? DMA_ATTR_NO_WARN : 0));
}
static inline void dma_free_wc(struct device *dev, size_t size, void *p, dma_addr_t handle) {
    pagoda_dma_free(dev, size, p, handle, DMA_ATTR_WRITE_COMBINE);
}

/* Coherent memory that is freed when the device is closed. May block. NULL as above. */
void *pagoda_dmam_alloc(struct device *dev, size_t size, dma_addr_t *handle, gfp_t gfp,
                        unsigned long attrs) __attribute__((warn_unused_result));
/* Frees it before that. Anything that pagoda_dmam_alloc() did not return is one line on stderr. */
void pagoda_dmam_free(struct device *dev, size_t size, void *p, dma_addr_t handle);
static inline void *dmam_alloc_attrs(struct device *dev, size_t size, dma_addr_t *handle, gfp_t gfp,
                                     unsigned long attrs) {
    return pagoda_dmam_alloc(dev, size, handle, gfp, attrs);
}
static inline void *dmam_alloc_coherent(struct device *dev, size_t size, dma_addr_t *handle,
                                        gfp_t gfp) {
    return pagoda_dmam_alloc(dev, size, handle, gfp,
                             (gfp & __GFP_NOWARN) != 0 ? DMA_ATTR_NO_WARN : 0);
}
static inline void dmam_free_coherent(struct device *dev, size_t size, void *p, dma_addr_t handle) {
    pagoda_dmam_free(dev, size, p, handle);
}

/* Pages that stay mapped for streaming: zeroed, within the streaming mask, at most 4 MiB, aligned
 * as coherent memory is. Ownership changes by dma_sync_single_*. gfp may not name a zone, nor
 * __GFP_COMP. NULL as above. */
struct page *pagoda_dma_alloc_pages(struct device *dev, size_t size, dma_addr_t *handle,
                                    enum dma_data_direction dir, gfp_t gfp)
    __attribute__((warn_unused_result));
/* Frees them, by what the allocation had; anything else is one line on stderr. */
void pagoda_dma_free_pages(struct device *dev, size_t size, struct page *page, dma_addr_t handle,
                           enum dma_data_direction dir);
static inline struct page *dma_alloc_pages(struct device *dev, size_t size, dma_addr_t *handle,
                                           enum dma_data_direction dir, gfp_t gfp) {
    return pagoda_dma_alloc_pages(dev, size, handle, dir, gfp);
}
static inline void dma_free_pages(struct device *dev, size_t size, struct page *page,
                                  dma_addr_t handle, enum dma_data_direction dir) {
    pagoda_dma_free_pages(dev, size, page, handle, dir);
}
static inline void *dma_alloc_noncoherent(struct device *dev, size_t size, dma_addr_t *handle,
                                          enum dma_data_direction dir, gfp_t gfp) {
    struct page *page = pagoda_dma_alloc_pages(dev, size, handle, dir, gfp);
    return page == NULL ? NULL : page_address(page);
}
static inline void dma_free_noncoherent(struct device *dev, size_t size, void *p, dma_addr_t handle,
                                        enum dma_data_direction dir) {
    pagoda_dma_free_pages(dev, size, virt_to_page(p), handle, dir);
}

struct sg_table;

/* Memory for streaming that the device has in one piece: zeroed, within the streaming mask, of any
 * length up to 4 GiB where there is an IOMMU. The table (scatterlist.h) has one segment, with its
 * device address. gfp may not name a zone, nor __GFP_COMP; no attribute has an effect. Here the
 * program has it in one piece as well. NULL as above. */
struct sg_table *pagoda_dma_alloc_noncontiguous(struct device *dev, size_t size,
                                                enum dma_data_direction dir, gfp_t gfp,
                                                unsigned long attrs)
    __attribute__((warn_unused_result));
/* Frees it; size and table must be those of the allocation: anything else is one line on stderr. */
void pagoda_dma_free_noncontiguous(struct device *dev, size_t size, struct sg_table *table,
                                   enum dma_data_direction dir);
/* Where the program has it: until it is freed. The end of that has nothing to do. */
void *pagoda_dma_vmap_noncontiguous(struct device *dev, size_t size, struct sg_table *table);
static inline struct sg_table *dma_alloc_noncontiguous(struct device *dev, size_t size,
                                                       enum dma_data_direction dir, gfp_t gfp,
                                                       unsigned long attrs) {
    return pagoda_dma_alloc_noncontiguous(dev, size, dir, gfp, attrs);
}
static inline void dma_free_noncontiguous(struct device *dev, size_t size, struct sg_table *table,
                                          enum dma_data_direction dir) {
    pagoda_dma_free_noncontiguous(dev, size, table, dir);
}
static inline void *dma_vmap_noncontiguous(struct device *dev, size_t size,
                                           struct sg_table *table) {
    return pagoda_dma_vmap_noncontiguous(dev, size, table);
}
static inline void dma_vunmap_noncontiguous(struct device *dev, void *p) { (void)dev, (void)p; }

/* Views: memory for a device at a second address in this process, for the part of the program that
 * the driver serves. It is the same memory, so the device sees what is written there. */

/* Maps pages of an allocation into the range: from vma->vm_pgoff on, as many as the range has, with
 * its rights. p, handle and size are those of the allocation. The view ends with
 * pagoda_dma_munmap(), and not with munmap(2): memory that is freed while there are views of it is
 * one line on stderr, and is given back when the last one ends. Views outlive their device; fork()
 * does not give them to the child. A system call; blocks. 0; -ENXIO: the range is longer than what
 * the allocation has there, or there is no such allocation; -EINVAL: a range of no whole pages or
 * without rights, or in memory of the allocator's own; -EBUSY: a view is there already;
 * -EOPNOTSUPP: it is of the hugetlb pool, whose pages cannot be mapped in parts; -ENOMEM; -ENODEV.
 * pagoda_device_error() says more. */
int pagoda_dma_mmap(struct device *dev, struct vm_area_struct *vma, void *p, dma_addr_t handle,
                    size_t size);
/* The same for pages of dma_alloc_pages(). */
int pagoda_dma_mmap_pages(struct device *dev, struct vm_area_struct *vma, size_t size,
                          struct page *page);
/* Ends a view; its addresses are free then. 0, or -EINVAL with one line on stderr: no view begins
 * at vma->vm_start. In a fork child it does nothing. Blocks. */
int pagoda_dma_munmap(const struct vm_area_struct *vma);
static inline int dma_mmap_attrs(struct device *dev, struct vm_area_struct *vma, void *p,
                                 dma_addr_t handle, size_t size, unsigned long attrs) {
    (void)attrs; /* all memory is of one kind */
    return pagoda_dma_mmap(dev, vma, p, handle, size);
}
static inline int dma_mmap_coherent(struct device *dev, struct vm_area_struct *vma, void *p,
                                    dma_addr_t handle, size_t size) {
    return pagoda_dma_mmap(dev, vma, p, handle, size);
}
static inline int dma_mmap_wc(struct device *dev, struct vm_area_struct *vma, void *p,
                              dma_addr_t handle, size_t size) {
    return pagoda_dma_mmap(dev, vma, p, handle, size);
}
static inline int dma_mmap_pages(struct device *dev, struct vm_area_struct *vma, size_t size,
                                 struct page *page) {
    return pagoda_dma_mmap_pages(dev, vma, size, page);
}
static inline int dma_mmap_noncontiguous(struct device *dev, struct vm_area_struct *vma,
                                         size_t size, struct sg_table *table) {
    return pagoda_dma_mmap(dev, vma, sg_virt(table->sgl), sg_dma_address(table->sgl), size);
}
/* Whether the device's memory can have views: always true. */
static inline bool dma_can_mmap(struct device *dev) {
    (void)dev;
    return true;
}

/* Fills in a table of one piece with coherent memory, its whole pages, for another device to map.
 * The table is freed with sg_free_table(), before the memory. 0; -ENXIO: p, handle and size are of
 * no allocation of the device; -EINVAL: above 4 GiB; -ENOMEM. May block. */
int pagoda_dma_get_sgtable(struct device *dev, struct sg_table *table, void *p, dma_addr_t handle,
                           size_t size);
static inline int dma_get_sgtable_attrs(struct device *dev, struct sg_table *table, void *p,
                                        dma_addr_t handle, size_t size, unsigned long attrs) {
    (void)attrs;
    return pagoda_dma_get_sgtable(dev, table, p, handle, size);
}
static inline int dma_get_sgtable(struct device *dev, struct sg_table *table, void *p,
                                  dma_addr_t handle, size_t size) {
    return pagoda_dma_get_sgtable(dev, table, p, handle, size);
}

/* Mapping in two steps: a window of device addresses first, then pieces of memory in it. */

/* The window. */
struct dma_iova_state {
    dma_addr_t addr; /* of its first byte */
    uint64_t __size; /* of the window; 0: there is none */
};
static inline bool dma_use_iova(struct dma_iova_state *state) { return state->__size != 0; }
static inline size_t dma_iova_size(struct dma_iova_state *state) { return (size_t)state->__size; }

/* Reserves a window of `size` bytes for pieces of which the first begins at `p` (only its offset in
 * its page counts). False where there is no IOMMU or no room, or in the mode PAGODA_DMA_BOUNCE: use
 * dma_map_phys() then. */
bool pagoda_dma_iova_try_alloc(struct device *dev, struct dma_iova_state *state, phys_addr_t p,
                               size_t size);
/* Puts `size` bytes at `p` into the window at `offset`, for the direction. All pieces begin on a
 * page but the first, and end on one but the last. The device reaches the whole pages. A system
 * call; blocks. 0; -EIO: outside of the window, or in the middle of a page; -ENOENT: a freed
 * object; -ERANGE: one that ends before; -ENOMEM, -ENOSPC as pagoda_dma_reach(); -ENODEV. */
int pagoda_dma_iova_link(struct device *dev, struct dma_iova_state *state, phys_addr_t p,
                         size_t offset, size_t size, enum dma_data_direction dir,
                         unsigned long attrs);
/* Takes the pieces that lie in `size` bytes at `offset` out again, whole ones; part of a piece, or
 * what lies outside of the window, is one line on stderr. Blocks. */
void pagoda_dma_iova_unlink(struct device *dev, struct dma_iova_state *state, size_t offset,
                            size_t size, enum dma_data_direction dir, unsigned long attrs);
/* Gives the window back; nothing is linked in it. Otherwise it stays, which is one line on stderr.
 */
void pagoda_dma_iova_free(struct device *dev, struct dma_iova_state *state);
static inline bool dma_iova_try_alloc(struct device *dev, struct dma_iova_state *state,
                                      phys_addr_t p, size_t size) {
    return pagoda_dma_iova_try_alloc(dev, state, p, size);
}
static inline int dma_iova_link(struct device *dev, struct dma_iova_state *state, phys_addr_t p,
                                size_t offset, size_t size, enum dma_data_direction dir,
                                unsigned long attrs) {
    return pagoda_dma_iova_link(dev, state, p, offset, size, dir, attrs);
}
static inline void dma_iova_unlink(struct device *dev, struct dma_iova_state *state, size_t offset,
                                   size_t size, enum dma_data_direction dir, unsigned long attrs) {
    pagoda_dma_iova_unlink(dev, state, offset, size, dir, attrs);
}
/* Makes linked pieces visible to the device; they are already. Always 0. */
static inline int dma_iova_sync(struct device *dev, struct dma_iova_state *state, size_t offset,
                                size_t size) {
    (void)dev, (void)state, (void)offset, (void)size;
    return 0;
}
static inline void dma_iova_free(struct device *dev, struct dma_iova_state *state) {
    pagoda_dma_iova_free(dev, state);
}
/* Takes out what the first `mapped` bytes hold and gives the window back. */
static inline void dma_iova_destroy(struct device *dev, struct dma_iova_state *state, size_t mapped,
                                    enum dma_data_direction dir, unsigned long attrs) {
    if (mapped != 0)
        pagoda_dma_iova_unlink(dev, state, 0, mapped, dir, attrs);
    pagoda_dma_iova_free(dev, state);
}

#ifdef __cplusplus
}
#endif

#endif
