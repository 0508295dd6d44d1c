#include "dma/coherent.h"

#include "dma/complain.h"
#include "dma/managed.h"
#include "dma/mapping.h"
#include "dma/mutex.h"
#include "dma/views.h"
#include "hugepage/provider.h"

#include <pagoda/scatterlist.h>
#include <pagoda/share.h>
#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {

namespace {

// Pages of the device zones, aligned for program and device alike. NULL: none.
void *zone_alloc(pagoda_device_state &s, size_t bytes, uint64_t mask, gfp_t gfp,
                 uint64_t *address) {
    auto pages = static_cast<uint32_t>(align_up(bytes, kPageSize) >> kPageShift);
    unsigned order = order_of(pages);
    if (order > kMaxPageOrder)
        return nullptr;
    void *p = pagoda_device_pages_alloc(pages, order, mask, gfp | __GFP_ZERO | __GFP_NOWARN);
    if (p == nullptr)
        return nullptr;
    // A chunk of the zone may begin in the middle of a block of this size.
    if (s.space->find(p, bytes, mask, address) &&
        (*address & ((uint64_t{kPageSize} << order) - 1)) == 0)
        return p;
    pagoda_device_pages_free(p, pages);
    return nullptr;
}

// A region with a range of its own.
void *region_alloc(pagoda_device_state &s, size_t bytes, uint64_t mask, gfp_t gfp,
                   uint64_t *address) {
    if (!s.space->translates() || !gfpflags_allow_blocking(gfp))
        return nullptr;
    void *p = pagoda_share_alloc(bytes, gfp);
    if (p == nullptr)
        return nullptr;
    if (s.space->map_range(p, align_up(bytes, kPageSize), mask, kDeviceReads | kDeviceWrites,
                           address) == 0)
        return p;
    pagoda_share_free(p);
    return nullptr;
}

// What a device frees when it is closed: how, by where it is.
struct managed_block {
    device *dev;
    size_t bytes;
    void *p;
    uint64_t address;
    managed_block *next;
};
pthread_mutex_t managed_lock = PTHREAD_MUTEX_INITIALIZER;
managed_block *managed_blocks;

void release_managed(void *p) {
    managed_block *found = nullptr;
    {
        locked hold(managed_lock);
        for (managed_block **at = &managed_blocks; *at != nullptr; at = &(*at)->next)
            if ((*at)->p == p) {
                found = *at;
                *at = found->next;
                break;
            }
    }
    if (found != nullptr)
        pagoda_dma_free(found->dev, found->bytes, p, found->address, 0);
    kfree(found);
}

// By dma-debug, if the device has it. False: the memory was freed, since it could not be noted.
bool noted(pagoda_device_state &s, void *p, entry_kind kind, const debug_use &use) {
    if (s.debug == nullptr || debug_made(s, p, use))
        return true;
    coherent_free(s, p, kind, use);
    return false;
}

void *allocate(pagoda_device_state &s, size_t bytes, dma_addr_t *handle, gfp_t gfp,
               unsigned long attrs, const void *caller) {
    uint64_t address = DMA_MAPPING_ERROR;
    void *p = coherent_alloc(s, bytes, s.coherent_mask, gfp, entry_kind::coherent, &address);
    if (p != nullptr && !noted(s, p, entry_kind::coherent,
                               {address, bytes, DMA_BIDIRECTIONAL, made_by::coherent, caller}))
        p = nullptr;
    if (p == nullptr && (attrs & DMA_ATTR_NO_WARN) == 0 && (gfp & __GFP_NOWARN) == 0)
        complain("%s", pagoda_device_error());
    *handle = p == nullptr ? DMA_MAPPING_ERROR : address;
    return p;
}

} // namespace

void *coherent_alloc(pagoda_device_state &s, size_t bytes, uint64_t mask, gfp_t gfp,
                     entry_kind kind, uint64_t *address) {
    if (bytes == 0 || bytes > SIZE_MAX / 2 || (gfp & __GFP_COMP) != 0) {
        fail(EINVAL, "%s: no bytes, or __GFP_COMP, for memory for a device", s.name);
        return nullptr;
    }
    if (check_usable(s) != 0)
        return nullptr;
    forget_sentence();
    // The mask says where, and what the zone has not is a region of its own.
    gfp &= ~(GFP_ZONEMASK | __GFP_NOFAIL);
    void *p = zone_alloc(s, bytes, mask, gfp, address);
    if (p == nullptr && kind == entry_kind::coherent) {
        p = region_alloc(s, bytes, mask, gfp, address);
        kind = entry_kind::region;
    }
    if (p == nullptr && sentence_is_kept(ENOMEM))
        return nullptr;
    if (p == nullptr) {
        fail(ENOMEM,
             "%s: no memory of %zu bytes within the mask %#llx: memory or addresses are short, or "
             "RLIMIT_MEMLOCK is reached (raise it with ulimit -l)",
             s.name, bytes, static_cast<unsigned long long>(mask));
        return nullptr;
    }
    ledger_entry entry{s.space, *address, p, bytes, kind, false};
    if (ledger_add(entry, gfpflags_allow_blocking(gfp)) == 0)
        return p;
    coherent_give_back(s.space, entry);
    fail(ENOMEM, "%s: no memory for the record of %zu bytes", s.name, bytes);
    return nullptr;
}

void coherent_free(pagoda_device_state &s, void *p, entry_kind kind, const debug_use &use) {
    uint64_t address = use.address;
    size_t bytes = use.bytes;
    if (p == nullptr || s.space->dead())
        return;
    ledger_entry entry;
    bool found =
        ledger_find(s.space, address, &entry) && entry.memory == p &&
        (entry.kind == kind || (kind == entry_kind::coherent && entry.kind == entry_kind::region));
    if (!found || entry.bytes != bytes || !ledger_remove(entry)) {
        if (s.debug != nullptr && debug_free(s, use, false))
            return;
        if (found && entry.bytes != bytes)
            complain("%s: %p is freed with %zu bytes and was allocated with %zu: left alone",
                     s.name, p, bytes, entry.bytes);
        else
            complain("%s: %p at %#llx is freed and was not allocated so", s.name, p,
                     static_cast<unsigned long long>(address));
        return;
    }
    if (s.debug != nullptr)
        debug_free(s, use, true);
    if (!views_put_off(entry))
        coherent_give_back(s.space, entry);
    else
        complain("%s: %p (%zu bytes) is freed while there are views of it: put off until they end",
                 s.name, p, bytes);
}

bool coherent_find(const pagoda_device_state &s, size_t bytes, const void *p, uint64_t address,
                   ledger_entry *entry) {
    return ledger_find(s.space, address, entry) && entry->memory == p && entry->bytes == bytes &&
           (entry->kind == entry_kind::coherent || entry->kind == entry_kind::region ||
            entry->kind == entry_kind::pages);
}

void coherent_give_back(space *in, const ledger_entry &entry) {
    size_t whole = align_up(entry.bytes, kPageSize);
    if (entry.kind != entry_kind::region) {
        pagoda_device_pages_free(entry.memory, static_cast<uint32_t>(whole >> kPageShift));
        return;
    }
    int error = in != nullptr ? in->unmap_range(entry.address, whole) : 0;
    if (error == 0) {
        pagoda_share_free(entry.memory);
        return;
    }
    stays_mapped(in->back_end().ops->name, entry.address, entry.bytes, error);
    ledger_put_back(entry);
}

} // namespace pagoda::dma

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT void *pagoda_dma_alloc(device *dev, size_t bytes, dma_addr_t *handle, gfp_t gfp,
                                     unsigned long attrs) {
    return allocate(*dev->state, bytes, handle, gfp, attrs, __builtin_return_address(0));
}

PAGODA_EXPORT void pagoda_dma_free(device *dev, size_t bytes, void *p, dma_addr_t handle,
                                   unsigned long) {
    coherent_free(
        *dev->state, p, entry_kind::coherent,
        {handle, bytes, DMA_BIDIRECTIONAL, made_by::coherent, __builtin_return_address(0)});
}

PAGODA_EXPORT void *pagoda_dmam_alloc(device *dev, size_t bytes, dma_addr_t *handle, gfp_t gfp,
                                      unsigned long attrs) {
    auto *block = static_cast<managed_block *>(kmalloc(sizeof(managed_block), gfp & ~GFP_ZONEMASK));
    void *p = block == nullptr
                  ? nullptr
                  : allocate(*dev->state, bytes, handle, gfp, attrs, __builtin_return_address(0));
    if (p == nullptr) {
        kfree(block);
        *handle = DMA_MAPPING_ERROR;
        return nullptr;
    }
    {
        locked hold(managed_lock);
        *block = {dev, bytes, p, *handle, managed_blocks};
        managed_blocks = block;
    }
    if (managed_add(dev->state, release_managed, p) == 0)
        return p;
    release_managed(p);
    *handle = DMA_MAPPING_ERROR;
    return nullptr;
}

PAGODA_EXPORT void pagoda_dmam_free(device *dev, size_t bytes, void *p, dma_addr_t handle) {
    if (p == nullptr || dev->state->space->dead())
        return;
    bool right = false;
    {
        locked hold(managed_lock);
        for (managed_block *b = managed_blocks; b != nullptr; b = b->next)
            right |= b->p == p && b->dev == dev && b->bytes == bytes && b->address == handle;
    }
    if (right && managed_remove(dev->state, release_managed, p))
        release_managed(p);
    else
        complain("%s: %p at %#llx (%zu bytes) is freed and is not managed memory of the device",
                 dev->state->name, p, static_cast<unsigned long long>(handle), bytes);
}

PAGODA_EXPORT struct page *pagoda_dma_alloc_pages(device *dev, size_t bytes, dma_addr_t *handle,
                                                  dma_data_direction dir, gfp_t gfp) {
    pagoda_device_state &s = *dev->state;
    uint64_t address = DMA_MAPPING_ERROR;
    void *p = nullptr;
    if ((gfp & GFP_ZONEMASK) != 0 || access_of(dir) == 0)
        fail(EINVAL, "%s: dma_alloc_pages takes no zone and wants a direction", s.name);
    else
        p = coherent_alloc(s, bytes, s.mask, gfp, entry_kind::pages, &address);
    if (p != nullptr && !noted(s, p, entry_kind::pages,
                               {address, bytes, dir, made_by::pages, __builtin_return_address(0)}))
        p = nullptr;
    if (p == nullptr && (gfp & __GFP_NOWARN) == 0)
        complain("%s", pagoda_device_error());
    *handle = p == nullptr ? DMA_MAPPING_ERROR : address;
    return p == nullptr ? nullptr : virt_to_page(p);
}

PAGODA_EXPORT void pagoda_dma_free_pages(device *dev, size_t bytes, struct page *page,
                                         dma_addr_t handle, dma_data_direction dir) {
    if (page != nullptr)
        coherent_free(*dev->state, page_address(page), entry_kind::pages,
                      {handle, bytes, dir, made_by::pages, __builtin_return_address(0)});
}

PAGODA_EXPORT int pagoda_dma_get_sgtable(device *dev, sg_table *table, void *p, dma_addr_t handle,
                                         size_t bytes) {
    ledger_entry entry;
    if (!coherent_find(*dev->state, bytes, p, handle, &entry))
        return fail(ENXIO, "%s: %p (%zu bytes) is no memory that was allocated for it", dev->name,
                    p, bytes);
    size_t whole = align_up(bytes, kPageSize);
    if (whole > UINT32_MAX)
        return fail(EINVAL, "%s: %zu bytes are too long for one piece", dev->name, bytes);
    int error = sg_alloc_table(table, 1, GFP_KERNEL);
    if (error == 0)
        sg_set_buf(table->sgl, p, static_cast<unsigned>(whole));
    return error;
}
