#include "lib/page_info.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/kernel_api.h"
#include "lib/thread.h"

#include <pagoda/highmem.h>

#include <errno.h>

namespace pagoda {
namespace {

constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kFrameMask = (uint64_t{1} << 55) - 1;

struct zone_name {
    const char *name;
    zone *z; // NULL: a zone that has no memory of its own
};
const zone_name kZones[] = {{"DMA", &g_zones[static_cast<int>(zone_type::dma)]},
                            {"DMA32", &g_zones[static_cast<int>(zone_type::dma32)]},
                            {"Normal", &g_zones[static_cast<int>(zone_type::normal)]},
                            {"HighMem", nullptr},
                            {"Movable", nullptr}};
constexpr unsigned kHighMem = 3; // of another kind: lib/highmem.h

// Of all zones but HIGHMEM. All zero in a handler that interrupted the allocator, which may hold
// the locks.
zone_stats total() {
    zone_stats sum = {};
    if (!kernel_api_enter(GFP_KERNEL))
        return sum;
    slow_path scope;
    if (scope.nested())
        return sum;
    for (zone &z : g_zones) {
        zone_stats s = z.stats();
        sum.present += s.present;
        sum.free += s.free;
    }
    return sum;
}

} // namespace
} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT unsigned long pagoda_nr_free_pages() { return total().free; }

PAGODA_EXPORT unsigned long pagoda_totalram_pages() { return total().present; }

PAGODA_EXPORT void pagoda_si_meminfo(pagoda_sysinfo *info) {
    zone_stats s = total();
    *info = {};
    info->totalram = s.present;
    info->freeram = s.free;
    info->totalhigh = pagoda_totalhigh_pages();
    info->freehigh = pagoda_nr_free_highpages();
    info->mem_unit = kPageSize;
}

PAGODA_EXPORT bool pagoda_zoneinfo(unsigned number, pagoda_zone_info *info) {
    if (number >= sizeof kZones / sizeof kZones[0])
        return false;
    const zone_name &z = kZones[number];
    *info = {};
    info->name = z.name;
    if (number == kHighMem) {
        info->spanned = info->present = info->managed = pagoda_totalhigh_pages();
        info->free = pagoda_nr_free_highpages();
        return true;
    }
    if (z.z == nullptr || !kernel_api_enter(GFP_KERNEL))
        return true;
    slow_path scope;
    if (scope.nested())
        return true;
    zone_stats s = z.z->stats();
    info->spanned = s.spanned;
    info->present = info->managed = s.present;
    info->free = s.free;
    info->min = z.z->watermark_pages(watermark::min);
    info->low = z.z->watermark_pages(watermark::low);
    info->high = z.z->watermark_pages(watermark::high);
    return true;
}

PAGODA_EXPORT int pagoda_phys_contiguous(const void *address, size_t size) {
    auto start = reinterpret_cast<uintptr_t>(address);
    size_t os_page = sys::page_size();
    if (size == 0 || start > ~os_page || size > ~os_page - start) // rounded up it must not be 0
        return -EINVAL;
    uintptr_t at = align_down(start, os_page);
    uintptr_t end = align_up(start + size, os_page);
    uint64_t next = 0; // the frame that would continue the one before
    while (at < end) {
        uint64_t frames[32];
        size_t pages = min_of(sizeof frames / sizeof frames[0], (end - at) / os_page);
        if (int r = sys::read_pagemap(at, pages, frames); r != 0)
            return r == -EACCES ? -EPERM : r;
        for (size_t i = 0; i < pages; i++) {
            uint64_t frame = frames[i] & kFrameMask;
            if ((frames[i] & kPresent) == 0)
                return -ENODATA;
            if (frame == 0)
                return -EPERM; // hidden
            if (next != 0 && frame != next)
                return 0;
            next = frame + 1;
        }
        at += pages * os_page;
    }
    return 1;
}
