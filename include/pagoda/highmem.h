/* High memory: pages that are mapped only while somebody looks at them. The kernel needs them where
 * memory does not fit into its addresses; a process on 64 bits has addresses for everything, so by
 * default the HIGHMEM zone is empty, as in a 64-bit kernel: GFP_HIGHUSER is served from the NORMAL
 * zone, kmap() is page_address() and kunmap() does nothing.
 *
 * With PAGODA_OPTIONS=highmem=SIZE the zone is real: up to SIZE bytes of pages in a file in memory,
 * unmapped (page_address() is NULL) until kmap(), so that no stray pointer reaches them and that
 * they take no addresses (RLIMIT_AS). alloc_page(GFP_HIGHUSER) takes from it first and from NORMAL
 * when it is used up; blocks of several pages always come from NORMAL. A fork child shares the
 * pages with its parent instead of getting copies.
 *
 * The functions take any page. Nothing here sets errno.
 *
 * Source: include/linux/highmem.h and Documentation/mm/highmem.rst of the kernel.
 */
#ifndef PAGODA_HIGHMEM_H
#define PAGODA_HIGHMEM_H

#include <pagoda/mm.h>

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many pages kmap() maps at a time, and how many kmap_local_page() does in all threads. */
#define LAST_PKMAP 1024
/* How deep kmap_local_page() nests in one thread. */
#define KM_MAX_IDX 16

/* True for a page of the HIGHMEM zone. */
bool pagoda_page_highmem(const struct page *page);
/* Whether a page's record lies in the memmap, so that its address is arithmetic. */
static inline bool pagoda_is_lowmem(const struct page *page) {
    return (uintptr_t)page >= pagoda_layout_get()->memmap;
}
static inline bool PageHighMem(const struct page *page) {
    return !pagoda_is_lowmem(page) && pagoda_page_highmem(page);
}

/* Maps a page for the whole process until kunmap(). Calls for the same page give the same address
 * and are counted. There are LAST_PKMAP mappings: when all are in use the call waits for a
 * kunmap(). NULL when the system refuses a mapping (vm.max_map_count), and in a signal handler that
 * interrupted the allocator. */
void *pagoda_kmap(struct page *page);
/* Ends one kmap() of the page; with the last one it is unmapped at once. Never waits. A page that
 * is not mapped is reported as misuse. */
void pagoda_kunmap(struct page *page);
static inline void *kmap(struct page *page) {
    return pagoda_is_lowmem(page) ? page_address(page) : pagoda_kmap(page);
}
static inline void kunmap(struct page *page) {
    if (!pagoda_is_lowmem(page))
        pagoda_kunmap(page);
}

/* Maps a page for the calling thread. Mappings of a thread end in the opposite order in which they
 * began, before the thread does, and at most KM_MAX_IDX are open. One more is reported as misuse
 * and gives NULL; NULL too when the system refuses the mapping. Makes one system call for a HIGHMEM
 * page, takes no lock, and waits only while all threads together have LAST_PKMAP of them. */
void *pagoda_kmap_local_page(struct page *page);
/* Ends the newest mapping of the thread; `address` lies anywhere inside it. Any other mapping is
 * reported as misuse and left alone. Addresses of pages outside HIGHMEM are ignored. */
void pagoda_kunmap_local(const void *address);
static inline void *kmap_local_page(struct page *page) {
    return pagoda_is_lowmem(page) ? page_address(page) : pagoda_kmap_local_page(page);
}
static inline void kunmap_local(const void *address) {
    const struct pagoda_layout_record *layout = pagoda_layout_get();
    if ((uintptr_t)address - layout->zone_base >= layout->vmalloc_end - layout->zone_base)
        pagoda_kunmap_local(address);
}
/* Old names of the same; unlike the kernel's they keep neither preemption nor page faults away. */
static inline void *kmap_atomic(struct page *page) { return kmap_local_page(page); }
static inline void kunmap_atomic(const void *address) { kunmap_local(address); }

/* Pages of the HIGHMEM zone: how many could still be had, and how many there are in all. */
unsigned long pagoda_nr_free_highpages(void);
unsigned long pagoda_totalhigh_pages(void);
static inline unsigned long nr_free_highpages(void) { return pagoda_nr_free_highpages(); }
static inline unsigned long totalhigh_pages(void) { return pagoda_totalhigh_pages(); }

/* Contents of pages, whichever zone they are from. The caller sees to it that offset + length is at
 * most PAGE_SIZE. Each maps the page for itself as kmap_local_page() does; where that is refused
 * the process ends at the address NULL, as it would with kmap_local_page() unchecked. */
static inline void memset_page(struct page *page, size_t offset, int value, size_t length) {
    char *address = (char *)kmap_local_page(page);
    memset(address + offset, value, length);
    kunmap_local(address);
}
static inline void memcpy_from_page(char *to, struct page *page, size_t offset, size_t length) {
    const char *address = (const char *)kmap_local_page(page);
    memcpy(to, address + offset, length);
    kunmap_local(address);
}
static inline void memcpy_to_page(struct page *page, size_t offset, const char *from,
                                  size_t length) {
    char *address = (char *)kmap_local_page(page);
    memcpy(address + offset, from, length);
    kunmap_local(address);
}
/* The two ranges do not overlap. */
static inline void memcpy_page(struct page *to, size_t to_offset, struct page *from,
                               size_t from_offset, size_t length) {
    char *target = (char *)kmap_local_page(to);
    const char *source = (const char *)kmap_local_page(from);
    memcpy(target + to_offset, source + from_offset, length);
    kunmap_local(source);
    kunmap_local(target);
}
/* Bytes of a page, or all of them, zeroed or copied. */
static inline void memzero_page(struct page *page, size_t offset, size_t length) {
    memset_page(page, offset, 0, length);
}
static inline void clear_highpage(struct page *page) { memset_page(page, 0, 0, PAGE_SIZE); }
static inline void copy_highpage(struct page *to, struct page *from) {
    memcpy_page(to, 0, from, 0, PAGE_SIZE);
}
static inline void zero_user(struct page *page, unsigned start, unsigned size) {
    memset_page(page, start, 0, size);
}
/* Zeroes [start1, end1) and [start2, end2); an empty range has its end at or before its start. */
static inline void zero_user_segments(struct page *page, unsigned start1, unsigned end1,
                                      unsigned start2, unsigned end2) {
    char *address = (char *)kmap_local_page(page);
    if (end1 > start1)
        memset(address + start1, 0, end1 - start1);
    if (end2 > start2)
        memset(address + start2, 0, end2 - start2);
    kunmap_local(address);
}
static inline void zero_user_segment(struct page *page, unsigned start, unsigned end) {
    zero_user_segments(page, start, end, 0, 0);
}

#ifdef __cplusplus
}
#endif

#endif
