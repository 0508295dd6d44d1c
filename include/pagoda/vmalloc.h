/* vmalloc: memory in whole pages that are contiguous for the program only. Names and contracts of
 * Linux 6.18; where user space makes a difference, the function says so.
 *
 * Each area starts on a page of its own and ends with a page that is never mapped: a read or write
 * just behind an area's last page is a SIGSEGV. Its addresses come from one range, where malloc's
 * memory above 1 MiB lies too. Its pages take memory when they are first touched; the free pages of
 * the zones, however scattered, are given back for that where they are more than Pagoda keeps.
 * An area is a mapping of its own, of which a process has a limited number (vm.max_map_count,
 * usually 65530), and takes 2 MiB of addresses at least: not for small memory in large numbers.
 *
 * Everything here blocks unless it says otherwise: NULL in a signal handler that interrupted the
 * allocator, with a line on stderr in debug builds. Nothing sets errno.
 *
 * Source: include/linux/vmalloc.h of the kernel.
 */
#ifndef PAGODA_VMALLOC_H
#define PAGODA_VMALLOC_H

#include <pagoda/gfp.h>
#include <pagoda/layout.h>
#include <pagoda/overflow.h>
#include <pagoda/vmap.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef NUMA_NO_NODE
#define NUMA_NO_NODE (-1)
#endif

struct page;

/* The range that all areas lie in: a constant of the process, not of the machine. */
#define VMALLOC_START ((unsigned long)pagoda_layout_get()->vmalloc_start)
#define VMALLOC_END ((unsigned long)pagoda_layout_get()->vmalloc_end)
#define VMALLOC_TOTAL (VMALLOC_END - VMALLOC_START)

/* True for every address in the range, whether an area is there or not. Any context. */
static inline bool is_vmalloc_addr(const void *address) {
    const struct pagoda_layout_record *layout = pagoda_layout_get();
    return (uintptr_t)address - layout->vmalloc_start < layout->vmalloc_end - layout->vmalloc_start;
}

#define PAGODA_VMALLOCATES(size_argument)                                                          \
    __attribute__((malloc, alloc_size(size_argument), warn_unused_result))

/* `size` bytes, rounded up to pages and aligned to one. gfp must allow direct reclaim (NULL and one
 * warning if not); __GFP_ZERO, __GFP_ACCOUNT and __GFP_NOFAIL are honoured, __GFP_DMA and
 * __GFP_DMA32 refused.
 * `node` is a preference. NULL when memory is short, for 0, and above half of the range. */
void *pagoda_vmalloc(size_t size, gfp_t gfp, int node) PAGODA_VMALLOCATES(1);
/* The same, made of huge pages where it can be, whatever the size of the heap. */
void *pagoda_vmalloc_huge(size_t size, gfp_t gfp, int node) PAGODA_VMALLOCATES(1);

static inline PAGODA_VMALLOCATES(1) void *vmalloc(unsigned long size) {
    return pagoda_vmalloc(size, GFP_KERNEL, NUMA_NO_NODE);
}
static inline PAGODA_VMALLOCATES(1) void *__vmalloc(unsigned long size, gfp_t gfp) {
    return pagoda_vmalloc(size, gfp, NUMA_NO_NODE);
}
static inline PAGODA_VMALLOCATES(1) void *__vmalloc_node(unsigned long size, unsigned long align,
                                                         gfp_t gfp, int node, const void *caller) {
    (void)caller; /* areas do not remember who made them */
    return align <= 4096 ? pagoda_vmalloc(size, gfp, node) : NULL;
}
/* All of the area reads as zero. */
static inline PAGODA_VMALLOCATES(1) void *vzalloc(unsigned long size) {
    return pagoda_vmalloc(size, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE);
}
static inline PAGODA_VMALLOCATES(1) void *vmalloc_node(unsigned long size, int node) {
    return pagoda_vmalloc(size, GFP_KERNEL, node);
}
static inline PAGODA_VMALLOCATES(1) void *vzalloc_node(unsigned long size, int node) {
    return pagoda_vmalloc(size, GFP_KERNEL | __GFP_ZERO, node);
}
/* As vzalloc: every mapping here is the program's own. */
static inline PAGODA_VMALLOCATES(1) void *vmalloc_user(unsigned long size) {
    return pagoda_vmalloc(size, GFP_USER | __GFP_ZERO, NUMA_NO_NODE);
}
/* NULL, with one warning: areas are not made of memory that a 32-bit device can address.
 * alloc_pages_exact(size, GFP_KERNEL | GFP_DMA32) is, and vmalloc() where the device is behind an
 * IOMMU. */
static inline PAGODA_VMALLOCATES(1) void *vmalloc_32(unsigned long size) {
    return pagoda_vmalloc(size, GFP_KERNEL | GFP_DMA32, NUMA_NO_NODE);
}
static inline PAGODA_VMALLOCATES(1) void *vmalloc_32_user(unsigned long size) {
    return pagoda_vmalloc(size, GFP_KERNEL | GFP_DMA32 | __GFP_ZERO, NUMA_NO_NODE);
}

static inline PAGODA_VMALLOCATES(1) void *vmalloc_huge(unsigned long size, gfp_t gfp) {
    return pagoda_vmalloc_huge(size, gfp, NUMA_NO_NODE);
}
static inline PAGODA_VMALLOCATES(1) void *vmalloc_huge_node(unsigned long size, gfp_t gfp,
                                                            int node) {
    return pagoda_vmalloc_huge(size, gfp, node);
}
/* Arrays: NULL when n * size overflows. */
static inline void *__vmalloc_array(size_t n, size_t size, gfp_t gfp) {
    return pagoda_vmalloc(size_mul(n, size), gfp, NUMA_NO_NODE);
}
static inline void *vmalloc_array(size_t n, size_t size) {
    return pagoda_vmalloc(size_mul(n, size), GFP_KERNEL, NUMA_NO_NODE);
}
static inline void *__vcalloc(size_t n, size_t size, gfp_t gfp) {
    return pagoda_vmalloc(size_mul(n, size), gfp | __GFP_ZERO, NUMA_NO_NODE);
}
static inline void *vcalloc(size_t n, size_t size) {
    return pagoda_vmalloc(size_mul(n, size), GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE);
}

/* Frees the area that starts at `address`. NULL is ignored; what is no area is one line on stderr
 * and left alone; an area that is free already, and an address inside one, are misuse as with
 * free(). Never waits in a handler that interrupted the allocator: the work is left to the next
 * call. */
void pagoda_vfree(const void *address);
/* The same in any context: waits for no lock and makes no system call. */
void pagoda_vfree_atomic(const void *address);
static inline void vfree(const void *address) { pagoda_vfree(address); }
static inline void vfree_atomic(const void *address) { pagoda_vfree_atomic(address); }

/* Makes an area `size` bytes long: in place where it can be, else elsewhere, by moving its page
 * tables or its bytes. NULL address: vmalloc. Size 0: frees, and returns NULL. Pages that are not
 * needed any more are given back. With __GFP_ZERO new bytes are zero if every call for this area
 * had it. On failure NULL, and the area is as it was. `align`: at most a page. */
void *pagoda_vrealloc(const void *address, size_t size, size_t align, gfp_t gfp, int node)
    __attribute__((alloc_size(2), warn_unused_result));
static inline void *vrealloc(const void *address, size_t size, gfp_t gfp) {
    return pagoda_vrealloc(address, size, 1, gfp, NUMA_NO_NODE);
}
static inline void *vrealloc_node_align(const void *address, size_t size, unsigned long align,
                                        gfp_t gfp, int node) {
    return pagoda_vrealloc(address, size, align, gfp, node);
}

/* The page at an address of an area, and its index; NULL and 0 where there is no area. Also of a
 * mapping of vmap() or of a shared region, whose pages have no index (0). An area's pages
 * have no references (mm.h), and page_address() leads back. Not in a signal handler. */
struct page *pagoda_vmalloc_to_page(const void *address);
unsigned long pagoda_vmalloc_to_pfn(const void *address);
static inline struct page *vmalloc_to_page(const void *address) {
    return pagoda_vmalloc_to_page(address);
}
static inline unsigned long vmalloc_to_pfn(const void *address) {
    return pagoda_vmalloc_to_pfn(address);
}

/* Pages in all areas, malloc's above 1 MiB included. 0 in a handler that interrupted the
 * allocator. */
unsigned long pagoda_vmalloc_nr_pages(void);
static inline unsigned long vmalloc_nr_pages(void) { return pagoda_vmalloc_nr_pages(); }

#ifdef __cplusplus
}
#endif

#endif
