// The seam between the allocator and the library above it that makes memory reachable for devices
// (libpagoda_dma). That library fills in the table; nothing here or in lib/ knows what an IOMMU is.
// C linkage, because the two are separate libraries; nobody else calls these.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {

// What the library above does. Called without locks that an allocation could wait for, from
// contexts that may block; none of them may allocate from the memory it is asked about.
struct pagoda_dma_provider {
    // Whole pageblocks at `at`, populated, that nobody else uses: makes them reachable for every
    // device at addresses below 2^bits, in one piece. *address: the first. 0, or -errno: -ENODEV no
    // device is attached, -ERANGE such addresses cannot be had, -ENOSPC, -ENOMEM, -EBUSY: a device
    // reaches part of it all the same.
    int (*provide)(void *at, size_t bytes, unsigned bits, uint64_t *address);
    // Undoes it; no page of them is in use. After it no device reaches them; false: one still does.
    bool (*withdraw)(void *at, size_t bytes);
    // Memory that was held (pagoda_block_hold), of which no object is in use by a device, is about
    // to be unmapped, given back or moved. True: no device reaches it any more, and the hold is
    // gone; false: leave it where it is. Called from frees and allocations that may block, those of
    // the library above too: it must not wait for a lock that is held around one.
    bool (*release)(void *at, size_t bytes);
    // The reason, a sentence, why provide() gave -ENODEV or -ERANGE the last time.
    const char *(*reason)(void);
};

// Once, with a table that stays. 0, or -EBUSY: there is one already.
int pagoda_dma_register(const struct pagoda_dma_provider *provider);

// What the option dma_debug says: 0 off, 1 on, 2 guard.
int pagoda_dma_debug_option(void);
// A misuse was found, of which a line on stderr has told: counts it, and with on_error=abort ends
// the process.
void pagoda_misuse_told(void);

// Makes all of the 2 MiB granule around p that is mapped, of the zone or of a vmalloc area, present
// and populated, and holds it: it is neither purged, moved nor unmapped before release() was asked.
// [*start, *start + *bytes) is what may be mapped for devices; the same for each p of a granule
// until then. Holding what is held already changes nothing. Blocks. 0; -EFAULT: not such memory, or
// freed; -ENOMEM; -EAGAIN: a handler interrupted the allocator.
int pagoda_block_hold(const void *p, void **start, size_t *bytes);
// Ends a hold before release() was asked.
void pagoda_block_release(const void *p);

// A device uses part of the live object (malloc, kmalloc, a cache's, pages, an area of vmalloc)
// that [p, p + bytes) lies in, until the matching pagoda_object_release(). As long as somebody
// does, a free of the object is reported and put off until the last release, and realloc copies. No
// system call and no lock for objects of slabs once one of the slab was held, and for pages of the
// page allocator. 0; -EFAULT: p is not memory of this heap; -ENOENT: it is, of no live object;
// -ERANGE: the object ends before p + bytes; -EOVERFLOW: 8191 holds (of an area half a thousand
// million); -ENOMEM; -EAGAIN: a handler interrupted the allocator.
int pagoda_object_hold(const void *p, size_t bytes);
// False: nobody held it.
bool pagoda_object_release(const void *p);

// 2^order pages (or, exactly, `pages` in a row, aligned to 2^order) of memory that devices reach at
// addresses whose last byte is at most `mask`. NULL: no device, or none to be had. Zeroed with
// __GFP_ZERO. They are struct pages like any others, without references; page_class says
// kClassPages. GFP_DMA is the mask 2^24 - 1, GFP_DMA32 2^32 - 1. Non-blocking flags take what there
// is. Blocking ones may call provide() on this thread, and frees withdraw(): not under a lock that
// these take.
void *pagoda_device_pages_alloc(uint32_t pages, unsigned order, uint64_t mask, unsigned gfp);
void pagoda_device_pages_free(void *p, uint32_t pages);

} // extern "C"

namespace pagoda {
// For the core: the table that was registered, or NULL.
const pagoda_dma_provider *dma_provider();
} // namespace pagoda
