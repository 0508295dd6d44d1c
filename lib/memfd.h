// Pages of memfds: memory that can be mapped a second time, or in another process. Each region is a
// file of its own, so that who gets the file gets this region and nothing else; HIGHMEM is one
// more.
//
// The pages of a region have struct pages like those of the zone, in a window of their own. It lies
// below the memmap, which is how the two are told apart, and holds nothing else, so that any
// pointer can be looked at.
#pragma once

#include "hugepage/lock.h"
#include "hugepage/page.h"

#include <pagoda/gfp.h>

struct page; // the public name of the same object

namespace pagoda {

struct memfd_region {
    int fd;
    uint32_t pages;
    uint64_t offset; // of the first page in the file
    uintptr_t home;  // where it is mapped as a whole; 0: nowhere
    page *records;
    bool charged;                // to the zone's limits
    std::atomic<uint64_t> users; // its owner, and pages of it in vmap areas
};

// Of `pages` pages that read as zero. `reserve`: their memory is had now, so that touching one
// later cannot fail; otherwise each piece needs region_reserve() first. NULL when memory or file
// descriptors are short, or a sandbox forbids it. Blocks.
memfd_region *region_create(const char *name, uint32_t pages, bool reserve, gfp_t gfp);
// Over a part of a file that somebody else made; the region has its own descriptor. 0 or -errno.
int region_import(int fd, uint64_t offset, uint32_t pages, memfd_region **region);
// Drops `count` users; with the last one the region is gone. Not under a lock.
void region_put(memfd_region *region, uint64_t count);

// Memory for these pages of a region that was created without. False: there is none.
bool region_reserve(memfd_region *region, uint32_t first, uint32_t count);
// Gives their memory back: they read as zero when they are reserved again.
void region_release(memfd_region *region, uint32_t first, uint32_t count);

// Whether it is a page of a region that is in use; any pointer.
inline bool is_memfd_page(const ::page *p) {
    uintptr_t offset = reinterpret_cast<uintptr_t>(p) - g_space.memfd_pages.base();
    return offset < g_space.memfd_pages.bytes() && offset % sizeof(page) == 0 &&
           reinterpret_cast<const page *>(p)->owner != nullptr;
}
inline page *record_of(::page *p) { return reinterpret_cast<page *>(p); }
inline const page *record_of(const ::page *p) { return reinterpret_cast<const page *>(p); }
inline ::page *public_page(page *p) { return reinterpret_cast<::page *>(p); }

// These are for memfd pages.
inline memfd_region *region_of(const page *p) { return static_cast<memfd_region *>(p->owner); }
inline uint32_t index_in_region(const page *p) {
    return static_cast<uint32_t>(p - region_of(p)->records);
}
inline uint64_t file_offset(const page *p) {
    return region_of(p)->offset + (uint64_t{index_in_region(p)} << kPageShift);
}
mutex &memfd_lock();

// Maps `count` pages that follow each other at `at`, over what is there. 0 or -errno.
int map_memfd_pages(uintptr_t at, const page *first, uint32_t count, int prot);

} // namespace pagoda
