/* Memory that can be mapped a second time, in this process or in another. Ordinary memory, malloc's
 * as well as the page allocator's, is private to one place and cannot; it has to be asked for.
 *
 * Each region is a file in memory of its own: who is given its descriptor gets this region and
 * nothing else. Regions are shared by nature: after fork() parent and child see each other's
 * writes, and each ends its own mapping. Their memory is had at once and can be swapped.
 *
 * Process context: in a signal handler that interrupted the allocator the calls fail. None sets
 * errno.
 *
 * Source: the roles of remap_pfn_range() and remap_vmalloc_range() in Documentation/driver-api of
 * the kernel.
 */
#ifndef PAGODA_SHARE_H
#define PAGODA_SHARE_H

#include <pagoda/gfp.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct page;

/* A region of `size` bytes, rounded up to pages, that reads as zero; page-aligned, an inaccessible
 * page behind it. Takes one file descriptor. NULL when size is 0 or memory, addresses or
 * descriptors are short, also with __GFP_NOFAIL, or gfp does not allow to block. */
void *pagoda_share_alloc(size_t size, gfp_t gfp) __attribute__((malloc, warn_unused_result));
/* Ends the region's own mapping. Second mappings of it stay as they are, and the memory lives until
 * the last one is gone, in any process. NULL is ignored; an address that is no start of a region is
 * one line on stderr, and nothing happens. */
void pagoda_share_free(void *region);

/* The page at an address inside a region, for vmap() (vmap.h). Valid until the region and its
 * mappings are gone. NULL, with one line on stderr, for any other memory. */
struct page *pagoda_share_page(const void *address);

/* A descriptor through which another process can map `size` bytes at an address inside a region (or
 * inside a mapping of vmap()), from *offset on, with mmap(2) and MAP_SHARED or with
 * pagoda_share_import(). It is the caller's, closes on exec, and keeps the memory alive. It gives
 * access to the whole region. -EINVAL, with one line on stderr, for memory that is private or does
 * not lie in one piece of a file; -EMFILE and the like. */
int pagoda_share_export(const void *address, size_t size, uint64_t *offset);

/* The other side: a region over `size` bytes of a descriptor from `offset` on, which must be a
 * multiple of the page size and inside the file. The descriptor stays the caller's. NULL on
 * failure. */
void *pagoda_share_import(int descriptor, uint64_t offset, size_t size);

/* Maps `size` bytes at an address inside a region a second time, at `at`: in place of whatever the
 * caller has mapped there. Addresses and size are multiples of the page size; protection is as in
 * mmap(2). It ends with munmap(2). 0; -EINVAL for bad arguments, an `at` in Pagoda's own memory,
 * and, with one line on stderr, memory that is private or not in one piece; -ENOMEM. */
int pagoda_share_remap(void *at, const void *address, size_t size, int protection);

#ifdef __cplusplus
}
#endif

#endif
