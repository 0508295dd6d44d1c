// Pages by index: page_class (what free() reads) and the memmap (struct page, read by slow paths).
#pragma once

#include "hugepage/address_space.h"
#include "hugepage/base.h"

#include <atomic>

namespace pagoda {

// page_class values. 1..kLastClass are the classes of lib/size_class.h, and kFirstUserClass..
// kLastUserClass belong to one kmem_cache each; the objects of both are cached per CPU. The rest
// keep free() on its slow path, because their per-CPU words stay empty and full.
inline constexpr uint8_t kClassNone = 0; // not ours, or free
inline constexpr uint8_t kFirstUserClass = 98;
inline constexpr uint8_t kLastUserClass = 249;
// The page on which an object of a slab, or a run, begins that devices use or used a moment ago;
// page::held_class has the class. See lib/hold.h.
inline constexpr uint8_t kClassHeld = 250;
inline constexpr uint8_t kClassShared =
    251;                                    // slabs of the kmem_caches without a value of their own
inline constexpr uint8_t kClassPages = 252; // pages of the page allocator's callers (mm.h)
inline constexpr uint8_t kClassBigRun = 253;  // first page of a page run that no cache holds
inline constexpr uint8_t kClassRunTail = 254; // later pages of any run

inline constexpr uint32_t kNoPage = 0xffffffffu;

// Cold data of one page; a slab's and a run's stand in their first page. Lazily touched.
struct page {
    union {
        struct slab *slab; // slab: its bookkeeping
        void *owner;
    };
    union {
        uint32_t npages; // run: its length; mm.h: see lib/page_hold.cc, as `link`
        uint32_t payer;  // HIGHMEM: number of the group that is charged for it
    };
    std::atomic<uint32_t> refs;  // mm.h: references to the page or, at a head, to its block
    uint32_t link;               // runs whose free waits for the zone: the next one's index + 1
    uint32_t flags;              // of whoever has the page
    uint32_t head;               // mm.h: index of a compound page's first page
    uint8_t order;               // mm.h: of the block that begins here
    uint8_t held_class;          // where page_class says kClassHeld: what it said before
    std::atomic<uint16_t> holds; // lib/hold.h; 0 while nobody has the page
};
static_assert(sizeof(page) == 32);

// What free() reads, in one cache line. Zero until initialisation publishes it: `frontier` last.
// Read as a plain word, which the compiler can compare in place: an older value is as good.
struct alignas(64) pagemap {
    size_t frontier = 0; // pages whose page_class may be read; stored atomically
    uintptr_t base = 0;
    uint8_t *page_class = nullptr;
    page *memmap = nullptr;
};
extern PAGODA_INTERNAL pagemap g_pagemap;

inline size_t page_index(const void *p) {
    return (reinterpret_cast<uintptr_t>(p) - g_pagemap.base) >> kPageShift;
}
inline bool in_zone(const void *p) { return page_index(p) < g_pagemap.frontier; }
inline void *page_address(uint32_t index) {
    return reinterpret_cast<void *>(g_pagemap.base + (static_cast<uintptr_t>(index) << kPageShift));
}
inline page &page_at(uint32_t index) { return g_pagemap.memmap[index]; }

// What page_class says, 0 for anything outside the zones.
inline uint8_t marked_class(const void *p) {
    return in_zone(p) ? g_pagemap.page_class[page_index(p)] : kClassNone;
}
// The class of what is there, whether it is held or not.
inline uint8_t class_of_pointer(const void *p) {
    uint8_t cls = marked_class(p);
    if (PAGODA_LIKELY(cls != kClassHeld))
        return cls;
    std::atomic_thread_fence(std::memory_order_acquire);
    return std::atomic_ref<uint8_t>(page_at(static_cast<uint32_t>(page_index(p))).held_class)
        .load(std::memory_order_relaxed);
}

} // namespace pagoda
