#include "lib/share.h"

#include "hugepage/address_space.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/reclaim.h"
#include "lib/thread.h"
#include "lib/vmap.h"

#include <errno.h>

namespace pagoda {
namespace {

constexpr size_t kLargest = size_t{1} << 42; // a page's index has 32 bits

// Gives the region its home; it goes with it.
void *map_home(memfd_region *region) {
    vmap_area *a = vmap_region(region, PAGE_KERNEL);
    if (a == nullptr) {
        region_put(region, 1);
        return nullptr;
    }
    region->home = a->start;
    return reinterpret_cast<void *>(a->start);
}

// Pagoda has, or will have, something of its own between these addresses.
bool is_pagodas(uintptr_t at, size_t size) {
    uintptr_t end = g_space.vmalloc_base + kVmallocSpan;
    bool inside = heap_ready() && at < end && at + size > g_space.percpu.base();
    return inside || at + size < at || vmap_overlaps(at, size);
}

uint32_t pages_of(size_t size) {
    return static_cast<uint32_t>(align_up(size, sys::page_size()) >> kPageShift);
}

} // namespace

page *share_find(const char *what, const void *address, size_t size) {
    size_t begin = align_down(reinterpret_cast<uintptr_t>(address), kPageSize);
    size_t end = align_up(reinterpret_cast<uintptr_t>(address) + size, kPageSize);
    uint32_t wanted = static_cast<uint32_t>((end - begin) >> kPageShift);
    uint32_t count = wanted;
    page *first = size <= kLargest ? vmap_find(address, &count) : nullptr;
    if (first != nullptr && count == wanted)
        return first;
    text_buffer<200> line;
    line << what << ": " << address << ", " << uint64_t{size} << " bytes: "
         << (first != nullptr ? "not in one piece of a shared region"
                              : "private memory; pagoda_share_alloc() gives memory that can be "
                                "shared");
    warn(line);
    return nullptr;
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT void *pagoda_share_alloc(size_t size, gfp_t gfp) {
    gfp = current_gfp(gfp) & ~__GFP_NOFAIL; // descriptors may be what is short
    if (size == 0 || size > sys::total_memory() || !kernel_api_enter(gfp) ||
        !gfpflags_allow_blocking(gfp) || t_thread.depth != 0)
        return nullptr; // more than the machine has would end somebody before it failed
    return with_reclaim(gfp, size, [&]() -> void * {
        memfd_region *region = region_create("pagoda-share", pages_of(size), true, gfp);
        return region != nullptr ? map_home(region) : nullptr;
    });
}

PAGODA_EXPORT void pagoda_share_free(void *address) {
    if (address == nullptr)
        return;
    vmap_area *a = vmap_take(address, true, 0);
    if (a == nullptr) {
        text_buffer<120> line;
        line << "pagoda_share_free of " << address << ": no shared region starts there";
        warn(line);
        return;
    }
    memfd_region *region = a->region;
    vmap_destroy(a);
    region_put(region, 1);
}

PAGODA_EXPORT ::page *pagoda_share_page(const void *address) {
    return public_page(share_find("pagoda_share_page", address, 1));
}

PAGODA_EXPORT int pagoda_share_export(const void *address, size_t size, uint64_t *offset) {
    if (size == 0)
        return -EINVAL;
    const pagoda::page *first = share_find("pagoda_share_export", address, size);
    if (first == nullptr)
        return -EINVAL;
    *offset = file_offset(first) + reinterpret_cast<uintptr_t>(address) % kPageSize;
    return sys::duplicate(region_of(first)->fd);
}

PAGODA_EXPORT void *pagoda_share_import(int descriptor, uint64_t offset, size_t size) {
    if (size == 0 || size > kLargest || !kernel_api_enter(GFP_KERNEL) || t_thread.depth != 0)
        return nullptr;
    memfd_region *region = nullptr;
    if (region_import(descriptor, offset, pages_of(size), &region) != 0)
        return nullptr;
    return map_home(region);
}

PAGODA_EXPORT int pagoda_share_remap(void *at, const void *address, size_t size, int protection) {
    uintptr_t to = reinterpret_cast<uintptr_t>(at);
    size_t page_size = sys::page_size();
    if (size == 0 || to % page_size != 0 || reinterpret_cast<uintptr_t>(address) % page_size != 0 ||
        size % page_size != 0 || size > kLargest || is_pagodas(to, size))
        return -EINVAL;
    const pagoda::page *first = share_find("pagoda_share_remap", address, size);
    if (first == nullptr)
        return -EINVAL;
    return map_memfd_pages(to, first, static_cast<uint32_t>(size >> kPageShift), protection);
}
