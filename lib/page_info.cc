#include "lib/page_info.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/device_pages.h"
#include "lib/kernel_api.h"
#include "lib/thread.h"

#include <pagoda/highmem.h>

#include <errno.h>

namespace pagoda {
namespace {

constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kFrameMask = (uint64_t{1} << 55) - 1;

enum zone_number : unsigned { kDma, kDma32, kNormal, kHighMem, kMovable, kZones };
constexpr const char *kNames[kZones] = {"DMA", "DMA32", "Normal", "HighMem", "Movable"};

constexpr uint64_t kDmaEnd = uint64_t{1} << 24;
constexpr uint64_t kDma32End = uint64_t{1} << 32;

// Of all zones but HIGHMEM. All zero in a handler that interrupted the allocator, which may hold
// the locks.
zone_stats total() {
    zone_stats sum = {};
    if (!kernel_api_enter(GFP_KERNEL))
        return sum;
    slow_path scope;
    if (scope.nested())
        return sum;
    sum = zone_normal().stats(); // devices' pages are set aside there
    sum.free += device_pages_get_stats(0, ~uint64_t{0}).free;
    return sum;
}

void describe_normal(pagoda_zone_info *info) {
    zone_stats s = zone_normal().stats();
    device_pages_stats elsewhere = device_pages_get_stats(0, kDma32End);
    info->spanned = s.spanned;
    info->present = info->managed = s.present - min_of(s.present, elsewhere.present);
    info->free = s.free + device_pages_get_stats(kDma32End, ~uint64_t{0}).free;
    info->min = zone_normal().watermark_pages(watermark::min);
    info->low = zone_normal().watermark_pages(watermark::low);
    info->high = zone_normal().watermark_pages(watermark::high);
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
    if (number >= kZones)
        return false;
    *info = {};
    info->name = kNames[number];
    if (number == kHighMem) {
        info->spanned = info->present = info->managed = pagoda_totalhigh_pages();
        info->free = pagoda_nr_free_highpages();
        return true;
    }
    if (number == kMovable || !kernel_api_enter(GFP_KERNEL))
        return true;
    slow_path scope;
    if (scope.nested())
        return true;
    if (number == kNormal) {
        describe_normal(info);
        return true;
    }
    device_pages_stats s = number == kDma ? device_pages_get_stats(0, kDmaEnd)
                                          : device_pages_get_stats(kDmaEnd, kDma32End);
    info->spanned = info->present = info->managed = s.present;
    info->free = s.free;
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
