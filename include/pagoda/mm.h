/* Pages: blocks of 2^order pages, struct page, references, page fragments. Names and contracts of
 * Linux 6.18; where user space makes a difference, the function says so.
 *
 * A page here is Pagoda's own, 4096 bytes, also where the kernel's pages are larger. A page frame
 * number is Pagoda's index of the page, not the kernel's: it serves for arithmetic, and
 * pagoda_phys_contiguous() says what memory is contiguous in the machine. What a call may wait for
 * is in its gfp_t (gfp.h); functions without one never wait for memory. Nothing here sets errno.
 *
 * Misuse (a second free, a wrong order, a page of somebody else's) is reported on stderr and ends
 * the process, or with PAGODA_OPTIONS=on_error=report leaves the memory alone and goes on.
 *
 * Source: include/linux/gfp.h, mm.h, page_ref.h, page_frag_cache.h and
 * Documentation/core-api/mm-api.rst of the kernel.
 */
#ifndef PAGODA_MM_H
#define PAGODA_MM_H

#include <pagoda/gfp.h>
#include <pagoda/layout.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As <sys/user.h> has them. */
#ifndef PAGE_SHIFT
#define PAGE_SHIFT 12
#endif
#ifndef PAGE_SIZE
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#endif
#ifndef PAGE_MASK
#define PAGE_MASK (~(PAGE_SIZE - 1))
#endif
#ifndef PAGE_ALIGN
#define PAGE_ALIGN(bytes) (((bytes) + PAGE_SIZE - 1) & PAGE_MASK)
#endif
/* The largest order: 4 MiB. */
#define MAX_PAGE_ORDER 10
#define MAX_ORDER_NR_PAGES (1UL << MAX_PAGE_ORDER)

#ifndef NUMA_NO_NODE
#define NUMA_NO_NODE (-1)
#endif

/* The smallest order whose blocks hold `size` bytes. 52 for 0, as the kernel. */
static inline int get_order(unsigned long size) {
    size = (size - 1) >> 12;
    return size == 0 ? 0 : 64 - __builtin_clzl(size);
}

/* One page's record. Opaque: a pointer to it is all that a program has. */
struct page;
#define PAGODA_STRUCT_PAGE_SIZE 32

/* Addresses and pages: arithmetic, O(1). For memory of the page allocator, kmalloc and malloc up to
 * 1 MiB, whose pages follow each other as their addresses do, and for what vmalloc_to_page()
 * returned; other arguments give results without meaning. */

/* The page that an address lies in. */
static inline struct page *virt_to_page(const void *address) {
    const struct pagoda_layout_record *layout = pagoda_layout_get();
    return (struct page *)(layout->memmap + (((uintptr_t)address - layout->zone_base) >> 12) *
                                                PAGODA_STRUCT_PAGE_SIZE);
}
/* The index of a page. */
static inline unsigned long page_to_pfn(const struct page *page) {
    return ((uintptr_t)page - pagoda_layout_get()->memmap) / PAGODA_STRUCT_PAGE_SIZE;
}
/* The page with this index. */
static inline struct page *pfn_to_page(unsigned long pfn) {
    return (struct page *)(pagoda_layout_get()->memmap + pfn * PAGODA_STRUCT_PAGE_SIZE);
}
/* The address of a page of a shared region (share.h); of a HIGHMEM page (highmem.h) while kmap()
 * has mapped it, else NULL. */
void *pagoda_highmem_address(const struct page *page);
/* The address where a page begins. NULL for a HIGHMEM page that is not mapped. */
static inline void *page_address(const struct page *page) {
    const struct pagoda_layout_record *layout = pagoda_layout_get();
    if (__builtin_expect((uintptr_t)page < layout->memmap, 0))
        return pagoda_highmem_address(page); /* its record lies outside the memmap */
    return (void *)(layout->zone_base +
                    (((uintptr_t)page - layout->memmap) / PAGODA_STRUCT_PAGE_SIZE << 12));
}
static inline void *page_to_virt(const struct page *page) { return page_address(page); }
/* The index of the page that an address lies in, and the address of a page by its index. */
static inline unsigned long virt_to_pfn(const void *address) {
    return page_to_pfn(virt_to_page(address));
}
static inline void *pfn_to_virt(unsigned long pfn) { return page_address(pfn_to_page(pfn)); }
/* The n-th page behind a page. */
static inline struct page *nth_page(struct page *page, unsigned long n) {
    return pfn_to_page(page_to_pfn(page) + n);
}

/* True when the address lies in a zone's page that is in use, whoever has it. Unlike the kernel's,
 * false for free pages: they may be unmapped. Any context. */
bool pagoda_virt_addr_valid(const void *address);
static inline bool virt_addr_valid(const void *address) { return pagoda_virt_addr_valid(address); }

/* Allocation. */

/* With __GFP_HIGHMEM a single page of the HIGHMEM zone, where there is one (highmem.h). Otherwise
 * a block of 2^order pages, aligned to its size, with one reference. Not cleared without
 * __GFP_ZERO; charged to the thread's group with __GFP_ACCOUNT. Only the first page has a reference
 * count, unless split_page() gives each its own; with __GFP_COMP and an order above 0 the block is
 * one compound page. With GFP_DMA devices reach it at addresses below 2^24, with GFP_DMA32 below
 * 2^32; a child of fork does not have it. NULL when memory is short; with these two, where no
 * device is attached or such addresses are used up, and above MAX_PAGE_ORDER, also with
 * __GFP_NOFAIL (one warning that says why unless __GFP_NOWARN). */
struct page *pagoda_alloc_pages(gfp_t gfp, unsigned int order) __attribute__((warn_unused_result));
/* The same. `node` is a preference, or with __GFP_THISNODE a condition, which only 0 and
 * NUMA_NO_NODE meet: all memory counts as node 0's. */
struct page *pagoda_alloc_pages_node(int node, gfp_t gfp, unsigned int order)
    __attribute__((warn_unused_result));
/* The block's address instead of its first page; 0 on failure. __GFP_HIGHMEM, whose pages have no
 * address, is refused with one warning. */
unsigned long pagoda_get_free_pages(gfp_t gfp, unsigned int order)
    __attribute__((warn_unused_result));

static inline struct page *alloc_pages(gfp_t gfp, unsigned int order) {
    return pagoda_alloc_pages(gfp, order);
}
static inline struct page *alloc_page(gfp_t gfp) { return pagoda_alloc_pages(gfp, 0); }
static inline struct page *alloc_pages_node(int node, gfp_t gfp, unsigned int order) {
    return pagoda_alloc_pages_node(node, gfp, order);
}
/* `nodes` must be NULL: a set of nodes cannot be chosen from. */
static inline struct page *__alloc_pages(gfp_t gfp, unsigned int order, int node,
                                         const void *nodes) {
    return nodes == NULL ? pagoda_alloc_pages_node(node, gfp, order) : NULL;
}

static inline unsigned long __get_free_pages(gfp_t gfp, unsigned int order) {
    return pagoda_get_free_pages(gfp, order);
}
static inline unsigned long __get_free_page(gfp_t gfp) { return pagoda_get_free_pages(gfp, 0); }
static inline unsigned long get_zeroed_page(gfp_t gfp) {
    return pagoda_get_free_pages(gfp | __GFP_ZERO, 0);
}
static inline unsigned long __get_dma_pages(gfp_t gfp, unsigned int order) {
    return pagoda_get_free_pages(gfp | GFP_DMA, order);
}

/* Drops the reference that allocation gave; the block is free when it was the last. `order` as at
 * allocation: another one is reported. A block that is not compound and whose first page somebody
 * else refers to loses its other pages at once, and the first with its last reference. NULL is
 * ignored. Any context. */
void pagoda_free_block(struct page *page, unsigned int order);
/* The same by an address in the block's first page. 0 is ignored. */
void pagoda_free_pages(unsigned long address, unsigned int order);
static inline void __free_pages(struct page *page, unsigned int order) {
    pagoda_free_block(page, order);
}
static inline void __free_page(struct page *page) { pagoda_free_block(page, 0); }
static inline void free_pages(unsigned long address, unsigned int order) {
    pagoda_free_pages(address, order);
}
static inline void free_page(unsigned long address) { pagoda_free_pages(address, 0); }

/* As many pages as hold `size` bytes, aligned as a block of get_order(size) is; the block's tail is
 * given back at once. Each page has a reference of its own. NULL when memory is short, for 0 and
 * above the largest order. __GFP_COMP and __GFP_HIGHMEM are ignored with one warning. */
void *pagoda_alloc_pages_exact(int node, size_t size, gfp_t gfp)
    __attribute__((malloc, alloc_size(2), warn_unused_result));
/* Frees them; `size` as at allocation. NULL is ignored. Any context. */
void pagoda_free_pages_exact(void *address, size_t size);
static inline void *alloc_pages_exact(size_t size, gfp_t gfp) {
    return pagoda_alloc_pages_exact(NUMA_NO_NODE, size, gfp);
}
static inline void *alloc_pages_exact_nid(int node, size_t size, gfp_t gfp) {
    return pagoda_alloc_pages_exact(node, size, gfp);
}
static inline void free_pages_exact(void *address, size_t size) {
    pagoda_free_pages_exact(address, size);
}

/* Fills the NULL entries of an array with single pages and leaves the others. Returns how many of
 * the first entries are pages: `count`, or fewer when memory is short. */
unsigned long pagoda_alloc_pages_bulk(int node, gfp_t gfp, unsigned long count,
                                      struct page **pages);
static inline unsigned long alloc_pages_bulk(gfp_t gfp, unsigned long count, struct page **pages) {
    return pagoda_alloc_pages_bulk(NUMA_NO_NODE, gfp, count, pages);
}
static inline unsigned long alloc_pages_bulk_node(gfp_t gfp, int node, unsigned long count,
                                                  struct page **pages) {
    return pagoda_alloc_pages_bulk(node, gfp, count, pages);
}

/* A zeroed block in any context, also in a handler that interrupted the allocator: only tries
 * locks, maps nothing and takes nothing from the reserve. gfp: 0 or __GFP_ACCOUNT. NULL when there
 * is none now. */
struct page *pagoda_alloc_pages_nolock(gfp_t gfp, int node, unsigned int order)
    __attribute__((warn_unused_result));
/* Frees a block without waiting for a lock: where one is taken, its next holder does the work. */
void pagoda_free_pages_nolock(struct page *page, unsigned int order);
static inline struct page *alloc_pages_nolock(gfp_t gfp, int node, unsigned int order) {
    return pagoda_alloc_pages_nolock(gfp, node, order);
}
static inline void free_pages_nolock(struct page *page, unsigned int order) {
    pagoda_free_pages_nolock(page, order);
}

/* `count` pages in a row, more than the largest order too, each with a reference of its own. Where
 * count is a power of two they are aligned to their size, up to 1 GiB. `nodes` must be NULL. They
 * are found or mapped, nobody else's pages are moved. NULL when memory is short, and for 0. */
struct page *pagoda_alloc_contig_pages(unsigned long count, gfp_t gfp, int node, const void *nodes)
    __attribute__((warn_unused_result));
/* Drops one reference of each of `count` pages from index `pfn` on. */
void pagoda_free_contig_range(unsigned long pfn, unsigned long count);
static inline struct page *alloc_contig_pages(unsigned long count, gfp_t gfp, int node,
                                              const void *nodes) {
    return pagoda_alloc_contig_pages(count, gfp, node, nodes);
}
static inline void free_contig_range(unsigned long pfn, unsigned long count) {
    pagoda_free_contig_range(pfn, count);
}

/* Makes 2^order single pages, each with a reference of its own, out of a block that is not
 * compound and to which there is one reference. */
void pagoda_split_page(struct page *page, unsigned int order);
static inline void split_page(struct page *page, unsigned int order) {
    pagoda_split_page(page, order);
}

/* References. Only pages of the page allocator have them: others, vmalloc's too, are reported. Any
 * context. */

/* References to this very page; 0 for all but the first page of a block. */
int pagoda_page_ref_count(const struct page *page);
/* Adds `n`, which may be negative, and returns what there are then. Frees nothing. */
int pagoda_page_ref_add_return(struct page *page, int n);
/* Makes `from` references `to`; false when there were not `from`. */
bool pagoda_page_ref_replace(struct page *page, int from, int to);
static inline int page_ref_count(const struct page *page) { return pagoda_page_ref_count(page); }
static inline void page_ref_add(struct page *page, int n) { pagoda_page_ref_add_return(page, n); }
static inline void page_ref_sub(struct page *page, int n) { pagoda_page_ref_add_return(page, -n); }
static inline int page_ref_sub_return(struct page *page, int n) {
    return pagoda_page_ref_add_return(page, -n);
}
static inline bool page_ref_sub_and_test(struct page *page, int n) {
    return pagoda_page_ref_add_return(page, -n) == 0;
}
static inline void page_ref_inc(struct page *page) { pagoda_page_ref_add_return(page, 1); }
static inline int page_ref_inc_return(struct page *page) {
    return pagoda_page_ref_add_return(page, 1);
}
static inline void page_ref_dec(struct page *page) { pagoda_page_ref_add_return(page, -1); }
static inline int page_ref_dec_return(struct page *page) {
    return pagoda_page_ref_add_return(page, -1);
}
static inline bool page_ref_dec_and_test(struct page *page) {
    return pagoda_page_ref_add_return(page, -1) == 0;
}
/* Adds n unless there are `unless` references; true when it did. */
static inline bool page_ref_add_unless(struct page *page, int n, int unless) {
    for (;;) {
        int now = pagoda_page_ref_count(page);
        if (now == unless)
            return false;
        if (pagoda_page_ref_replace(page, now, now + n))
            return true;
    }
}
static inline bool get_page_unless_zero(struct page *page) {
    return page_ref_add_unless(page, 1, 0);
}
/* Takes all references away if there are exactly `count`, so that nobody gets another; and back. */
static inline bool page_ref_freeze(struct page *page, int count) {
    return pagoda_page_ref_replace(page, count, 0);
}
static inline void page_ref_unfreeze(struct page *page, int count) {
    pagoda_page_ref_replace(page, 0, count);
}

/* The first page of the compound page that a page belongs to; the page itself where it belongs to
 * none. */
struct page *pagoda_compound_head(const struct page *page);
/* The order of a compound page, by its first page; 0 for any other page. */
unsigned int pagoda_compound_order(const struct page *page);
static inline struct page *compound_head(const struct page *page) {
    return pagoda_compound_head(page);
}
static inline unsigned int compound_order(const struct page *page) {
    return pagoda_compound_order(page);
}
static inline unsigned long compound_nr(const struct page *page) {
    return 1UL << pagoda_compound_order(page);
}
static inline size_t page_size(const struct page *page) {
    return (size_t)4096 << pagoda_compound_order(page);
}
static inline int page_count(const struct page *page) {
    return pagoda_page_ref_count(pagoda_compound_head(page));
}

/* One reference more to the page, or to the compound page that it belongs to. A later page of a
 * block that is not compound has none: that is reported. */
void pagoda_get_page(struct page *page);
/* One less; with the last one the page, or the compound page, is free. The last reference to a
 * block of several pages that is not compound goes by __free_pages(): here it is reported. */
void pagoda_put_page(struct page *page);
static inline void get_page(struct page *page) { pagoda_get_page(page); }
static inline void put_page(struct page *page) { pagoda_put_page(page); }

/* Fragments: pieces of pages for packet headers and the like, freed in any order. */

/* The allocating side's state, for one thread at a time. All zero: empty. */
struct page_frag_cache {
    struct page *pagoda_page;
    unsigned int pagoda_offset;
    unsigned int pagoda_size;
    unsigned int pagoda_left; /* references that are not given out */
};
#define PAGE_FRAG_CACHE_MAX_SIZE 32768UL
#define PAGE_FRAG_CACHE_MAX_ORDER 3
/* The next `size` bytes of the cache's block (32 KiB, or a page where memory is short), at a
 * multiple of -align_mask; of a fresh block when that is used up. NULL when memory is short, for 0
 * and above PAGE_SIZE. */
void *pagoda_page_frag_alloc(struct page_frag_cache *cache, unsigned int size, gfp_t gfp,
                             unsigned int align_mask);
/* Frees a fragment; its block is free when all its fragments are and the cache has left it. NULL is
 * ignored. Any context. */
void pagoda_page_frag_free(void *fragment);
/* Gives the cache's block up. */
void pagoda_page_frag_cache_drain(struct page_frag_cache *cache);
/* Drops `count` references to a page, or to the compound page that it belongs to, at once. */
void pagoda_page_frag_drop(struct page *page, unsigned int count);
static inline void page_frag_cache_init(struct page_frag_cache *cache) {
    cache->pagoda_page = NULL;
    cache->pagoda_offset = cache->pagoda_size = cache->pagoda_left = 0;
}
static inline void *page_frag_alloc(struct page_frag_cache *cache, unsigned int size, gfp_t gfp) {
    return pagoda_page_frag_alloc(cache, size, gfp, ~0u);
}
static inline void *__page_frag_alloc_align(struct page_frag_cache *cache, unsigned int size,
                                            gfp_t gfp, unsigned int align_mask) {
    return pagoda_page_frag_alloc(cache, size, gfp, align_mask);
}
/* align: a power of two. */
static inline void *page_frag_alloc_align(struct page_frag_cache *cache, unsigned int size,
                                          gfp_t gfp, unsigned int align) {
    return pagoda_page_frag_alloc(cache, size, gfp, 0u - align);
}

static inline void page_frag_free(void *fragment) { pagoda_page_frag_free(fragment); }
static inline void page_frag_cache_drain(struct page_frag_cache *cache) {
    pagoda_page_frag_cache_drain(cache);
}
static inline void __page_frag_cache_drain(struct page *page, unsigned int count) {
    pagoda_page_frag_drop(page, count);
}

/* What there is. Counts of pages at this moment; all 0 in a handler that interrupted the
 * allocator. They may wait for a lock. */

/* Free pages. The zones grow: that there are few says nothing about what can be had. */
unsigned long pagoda_nr_free_pages(void);
/* Pages that the zones have, in use and free. */
unsigned long pagoda_totalram_pages(void);
static inline unsigned long nr_free_pages(void) { return pagoda_nr_free_pages(); }
static inline unsigned long totalram_pages(void) { return pagoda_totalram_pages(); }

/* As the kernel's struct sysinfo, whose name belongs to <sys/sysinfo.h>; in units of mem_unit. */
struct pagoda_sysinfo {
    unsigned long totalram;  /* of the zones */
    unsigned long sharedram; /* 0: zones are private */
    unsigned long freeram;
    unsigned long bufferram; /* 0: there are no buffers */
    unsigned long totalhigh; /* of HIGHMEM, not among the others; 0 by default, see highmem.h */
    unsigned long freehigh;
    unsigned int mem_unit; /* PAGE_SIZE */
};
void pagoda_si_meminfo(struct pagoda_sysinfo *info);
static inline void si_meminfo(struct pagoda_sysinfo *info) { pagoda_si_meminfo(info); }

/* One zone, in pages: 0 DMA, 1 DMA32, 2 Normal, 3 HighMem, 4 Movable. DMA and DMA32 are empty until
 * pages are wanted that devices reach; Movable is empty, and so is HighMem by default; what asks
 * for them is served from Normal, as on a kernel without such zones. False: there is no such zone.
 */
struct pagoda_zone_info {
    const char *name;
    unsigned long spanned; /* from the first to the last */
    unsigned long present; /* mapped */
    unsigned long managed; /* in the allocator's hands: all that are present */
    unsigned long free;
    unsigned long min; /* watermarks */
    unsigned long low;
    unsigned long high;
};
bool pagoda_zoneinfo(unsigned int zone, struct pagoda_zone_info *info);

/* Whether `size` bytes are contiguous in the machine's memory: 1 yes, 0 no. -EPERM: the kernel does
 * not show it (it takes CAP_SYS_ADMIN), -ENODATA: some page holds no memory (untouched or swapped
 * out), -EINVAL: size is 0, or the end of the addresses is passed. Memory can move at any time
 * unless it is locked or of the hugetlb pool. Makes system calls. */
int pagoda_phys_contiguous(const void *address, size_t size);

#ifdef __cplusplus
}
#endif

#endif
