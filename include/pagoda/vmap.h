/* Mapping pages a second time. The kernel maps any page anywhere; a process can do so only with
 * memory that has a file behind it. So the pages given here are those of pagoda_share_alloc()
 * (share.h) or real HIGHMEM pages (highmem.h). A page of the ordinary zones is private memory: the
 * calls then return NULL, and say so in one line on stderr.
 *
 * All calls are for process context: they make system calls and wait for locks. In a signal handler
 * that interrupted the allocator they fail. Nothing here sets errno.
 *
 * remap_vmalloc_range() maps memory into a process for a driver. Its place is taken by
 * pagoda_share_export() (another process) and pagoda_share_remap() (this one), share.h.
 *
 * Source: include/linux/vmalloc.h of the kernel.
 */
#ifndef PAGODA_VMAP_H
#define PAGODA_VMAP_H

#include <stddef.h>
#include <sys/mman.h>

#ifdef __cplusplus
extern "C" {
#endif

struct page;

/* Protection of a mapping: PROT_READ, with or without PROT_WRITE, of mmap(2). */
typedef int pgprot_t;
#define PAGE_KERNEL (PROT_READ | PROT_WRITE)
#define PAGE_KERNEL_RO PROT_READ

/* The one flag that vmap() takes. */
#define VM_MAP 0x4UL

/* Maps `count` pages one behind the other, in the given order, with an inaccessible page behind the
 * last. A page may stand there more than once: given twice in a row, the pages of a ring buffer
 * make one whose end runs on into its beginning. What is written through any mapping of a page is
 * seen through all. The memory lives until the last mapping is gone, also when the pages are freed
 * before. NULL when count is 0, when a page is private or still unused, for other flags or
 * protections, and when addresses or memory are short. */
void *pagoda_vmap(struct page **pages, unsigned int count, unsigned long flags, pgprot_t prot);
/* Ends what vmap() began. NULL is ignored; an address that is no start of a mapping is one line on
 * stderr, and nothing happens. */
void pagoda_vunmap(const void *address);
static inline void *vmap(struct page **pages, unsigned int count, unsigned long flags,
                         pgprot_t prot) {
    return pagoda_vmap(pages, count, flags, prot);
}
static inline void vunmap(const void *address) { pagoda_vunmap(address); }

/* vmap() for writing, and its end, which must be told the same count. `node` has no meaning. */
void pagoda_vm_unmap_ram(const void *address, unsigned int count);
static inline void *vm_map_ram(struct page **pages, unsigned int count, int node) {
    (void)node;
    return pagoda_vmap(pages, count, VM_MAP, PAGE_KERNEL);
}
static inline void vm_unmap_ram(const void *address, unsigned int count) {
    pagoda_vm_unmap_ram(address, count);
}

/* The page that is mapped at an address inside a mapping of vmap() or of a shared region; NULL
 * where there is none. Takes as long as there are mappings. vmalloc_to_page() (vmalloc.h) asks this
 * for addresses outside VMALLOC_START and VMALLOC_END, where all these mappings lie: for them
 * is_vmalloc_addr() is false. */
struct page *pagoda_vmap_to_page(const void *address);

#ifdef __cplusplus
}
#endif

#endif
