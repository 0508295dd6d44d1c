#include "lib/page_run.h"

#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/misuse.h"

namespace pagoda {
namespace {

std::atomic<uint64_t> big_runs{0};
std::atomic<uint64_t> big_pages{0};
std::atomic<uint64_t> big_served{0};

uint32_t take(uint32_t pages, unsigned align_order, uint8_t cls, gfp_t gfp, bool *zeroed) {
    page_state state = {};
    if (cls != kClassBigRun) // the caches are malloc's as well
        gfp &= ~(__GFP_DMA | __GFP_DMA32);
    uint32_t first = pages_take(pages, align_order, device_mask(gfp), gfp, &state);
    if (first == kNoPage)
        return kNoPage;
    page_at(first).npages = pages;
    page_at(first).slab = nullptr;
    __builtin_memset(g_pagemap.page_class + first + 1, kClassRunTail, pages - 1);
    g_pagemap.page_class[first] = cls;
    if (zeroed != nullptr)
        *zeroed = state.zeroed;
    return first;
}

void count(kmem_cache &c, int64_t runs) {
    std::atomic_ref<uint64_t>(c.slabs).fetch_add(static_cast<uint64_t>(runs),
                                                 std::memory_order_relaxed);
    std::atomic_ref<uint64_t>(c.in_use).fetch_add(static_cast<uint64_t>(runs),
                                                  std::memory_order_relaxed);
    if (runs > 0)
        std::atomic_ref<uint64_t>(c.served).fetch_add(1, std::memory_order_relaxed);
}

void count_big(uint32_t pages) {
    big_runs.fetch_add(1, std::memory_order_relaxed);
    big_pages.fetch_add(pages, std::memory_order_relaxed);
    big_served.fetch_add(1, std::memory_order_relaxed);
}

// The run class with exactly this many pages; 0: none.
unsigned class_of_pages(uint32_t pages) {
    size_t size = size_t{pages} << kPageShift;
    if (size <= kMaxSmall || size > kMaxClass)
        return 0;
    unsigned cls = class_for_size(size);
    return kClassTable.info[cls].pages == pages ? cls : 0;
}

} // namespace

void *run_alloc(uint32_t pages, unsigned align_order, gfp_t gfp, bool *zeroed) {
    unsigned cls = class_of_pages(pages);
    uint32_t first =
        take(pages, align_order, static_cast<uint8_t>(cls != 0 ? cls : kClassBigRun), gfp, zeroed);
    if (first == kNoPage)
        return nullptr;
    if (cls != 0)
        count(g_caches[cls], 1);
    else
        count_big(pages);
    return page_address(first);
}

void *run_alloc_owned(uint32_t pages, unsigned align_order, gfp_t gfp, bool *zeroed, group *owner) {
    uint32_t first = take(pages, align_order, kClassBigRun, gfp, zeroed);
    if (first == kNoPage)
        return nullptr;
    page_at(first).owner = owner;
    count_big(pages);
    return page_address(first);
}

void run_free_big(void *p, gfp_t gfp) {
    uint32_t first = static_cast<uint32_t>(page_index(p));
    uint32_t pages = page_at(first).npages;
    if (reinterpret_cast<uintptr_t>(p) % kPageSize != 0) {
        report_interior(p, size_t{pages} << kPageShift, 0);
        return;
    }
    uint8_t was = kClassBigRun; // two threads that free it at once: one of them loses here
    if (!std::atomic_ref<uint8_t>(g_pagemap.page_class[first])
             .compare_exchange_strong(was, kClassRunTail)) {
        report_double_free(p);
        return;
    }
    big_runs.fetch_sub(1, std::memory_order_relaxed);
    big_pages.fetch_sub(pages, std::memory_order_relaxed);
    group_uncharge(static_cast<group *>(page_at(first).owner), uint64_t{pages} << kPageShift);
    pages_give(first, pages, gfp);
}

bool run_shrink(void *p, uint32_t pages, gfp_t gfp) {
    uint32_t first = static_cast<uint32_t>(page_index(p));
    uint32_t have = page_at(first).npages;
    if (g_pagemap.page_class[first] != kClassBigRun || pages >= have || pages == 0 ||
        page_at(first).owner != nullptr)
        return false;
    page_at(first).npages = pages;
    big_pages.fetch_sub(have - pages, std::memory_order_relaxed);
    pages_give(first + pages, have - pages, gfp);
    return true;
}

uint32_t run_pages(const void *p) { return page_at(static_cast<uint32_t>(page_index(p))).npages; }

void *run_head(const void *p) {
    uint32_t at = static_cast<uint32_t>(page_index(p));
    while (at > 0 && g_pagemap.page_class[at] == kClassRunTail)
        at--;
    return page_address(at);
}

void *run_alloc_class(kmem_cache &c, gfp_t gfp) {
    uint32_t first = take(c.info.pages, 0, c.cls, gfp, nullptr);
    if (first == kNoPage)
        return nullptr;
    count(c, 1);
    return page_address(first);
}

void run_free_class(kmem_cache &c, void *run, gfp_t gfp) {
    if (reinterpret_cast<uintptr_t>(run) % kPageSize != 0) {
        report_interior(c, run, 0);
        return;
    }
    uint32_t first = static_cast<uint32_t>(page_index(run));
    uint8_t was = c.cls;
    if (!std::atomic_ref<uint8_t>(g_pagemap.page_class[first])
             .compare_exchange_strong(was, kClassRunTail)) {
        report_double_free(c, run);
        return;
    }
    count(c, -1);
    zone_normal().free(first, c.info.pages, true, gfp);
}

run_stats runs_stats() { return {big_runs.load(), big_pages.load(), big_served.load()}; }

} // namespace pagoda
