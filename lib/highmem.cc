#include "lib/highmem.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/kmap.h"
#include "lib/thread.h"
#include "lib/vmap.h"

#include <pagoda/highmem.h>

namespace pagoda {
namespace {

constexpr uint32_t kChunk = 64;     // pages whose memory is had in one call
constexpr uint32_t kHeldMax = 1024; // free pages that keep their memory

// page::flags of the zone's pages.
constexpr uint32_t kFlagHighmem = 16; // not one of the flags of pages in other zones
constexpr uint32_t kFlagFree = 32;
constexpr uint32_t kFlagZero = 64; // free, and reads as zero

// Free pages, linked by page::link, which holds an index + 1.
struct page_stack {
    uint32_t top;
    uint32_t count;
};

struct highmem_zone {
    mutex lock{lock_rank::maps};
    std::atomic<memfd_region *> region{nullptr};
    uint32_t fresh = 0;                    // first page never used
    page_stack held = {};                  // with memory
    page_stack bare = {};                  // without
    std::atomic<page *> deferred{nullptr}; // freed where the lock was taken; linked by `owner`
    std::atomic<uint64_t> used{0};
};
highmem_zone zone_high;

uint32_t pages_in_all() {
    // A page of the file must be one of the system's to be mapped alone.
    return sys::page_size() == kPageSize
               ? static_cast<uint32_t>(
                     min_of(options().highmem_bytes >> kPageShift, uint64_t{1} << 31))
               : 0;
}

void push(page_stack &stack, memfd_region *region, page *p) {
    p->link = stack.top;
    stack.top = static_cast<uint32_t>(p - region->records) + 1;
    stack.count++;
}

page *pop(page_stack &stack, memfd_region *region) {
    if (stack.top == 0)
        return nullptr;
    page *p = region->records + (stack.top - 1);
    stack.top = p->link;
    stack.count--;
    p->link = 0;
    return p;
}

void collect_deferred(memfd_region *region) {
    page *p = zone_high.deferred.load(std::memory_order_relaxed) == nullptr
                  ? nullptr
                  : zone_high.deferred.exchange(nullptr, std::memory_order_acquire);
    while (p != nullptr) {
        page *next = static_cast<page *>(p->owner);
        p->owner = region;
        push(zone_high.held, region, p);
        p = next;
    }
}

// The zone's file, made by the first who wants a page and may wait.
memfd_region *region_for(gfp_t gfp) {
    memfd_region *region = zone_high.region.load(std::memory_order_acquire);
    if (region != nullptr || !gfpflags_allow_blocking(gfp) || pages_in_all() == 0)
        return region;
    memfd_region *mine = region_create("pagoda-highmem", pages_in_all(), false, gfp);
    if (mine == nullptr)
        return nullptr;
    if (zone_high.region.compare_exchange_strong(region, mine, std::memory_order_acq_rel))
        return mine;
    region_put(mine, 1);
    return region;
}

// A free page off the stacks; *first_fresh: pages to get memory for instead, kChunk or what is left
// of the zone. Both none: used up.
page *take_free(memfd_region *region, gfp_t gfp, bool *bare, uint32_t *fresh, uint32_t *count) {
    slow_path scope;
    gfp = scope.limit(gfp);
    if (gfpflags_allow_blocking(gfp))
        zone_high.lock.lock();
    else if (!zone_high.lock.try_lock())
        return nullptr;
    collect_deferred(region);
    page *p = pop(zone_high.held, region);
    if (p != nullptr && !gfpflags_allow_blocking(gfp) && (gfp & __GFP_ZERO) != 0 &&
        (p->flags & kFlagZero) == 0) {
        push(zone_high.held, region, p); // to clear it takes system calls
        p = nullptr;
    }
    if (p == nullptr && gfpflags_allow_blocking(gfp)) {
        *count = min_of(kChunk, region->pages - zone_high.fresh);
        *fresh = zone_high.fresh;
        zone_high.fresh += *count;
        if (*count == 0)
            *bare = (p = pop(zone_high.bare, region)) != nullptr;
    }
    zone_high.lock.unlock();
    return p;
}

void put_free(memfd_region *region, page *first, uint32_t count, page_stack &stack) {
    slow_path scope;
    lock_guard hold(zone_high.lock);
    for (uint32_t i = count; i-- > 0;)
        push(stack, region, first + i);
}

// Makes a page the caller's.
page *hand_out(memfd_region *region, page *p) {
    p->owner = region;
    p->refs.store(1, std::memory_order_relaxed);
    p->flags = kFlagHighmem;
    p->payer = 0;
    zone_high.used.fetch_add(1, std::memory_order_relaxed);
    return p;
}

} // namespace

mutex &highmem_lock() { return zone_high.lock; }

page *highmem_take(gfp_t gfp) {
    {
        slow_path scope;
        gfp = scope.limit(gfp);
    }
    memfd_region *region = region_for(gfp);
    if (region == nullptr)
        return nullptr;
    bool bare = false;
    uint32_t fresh = 0;
    uint32_t count = 0;
    page *p = take_free(region, gfp, &bare, &fresh, &count);
    if (count != 0) {
        bool got = region_reserve(region, fresh, count);
        for (uint32_t i = fresh; i < fresh + count; i++) {
            region->records[i].owner = region;
            region->records[i].flags = kFlagHighmem | kFlagFree | (got ? kFlagZero : 0);
        }
        p = got ? region->records + fresh : nullptr;
        put_free(region, region->records + fresh + got, count - got,
                 got ? zone_high.held : zone_high.bare);
    } else if (p != nullptr && !bare && (gfp & __GFP_ZERO) != 0 && (p->flags & kFlagZero) == 0) {
        region_release(region, index_in_region(p), 1);
        bare = true;
    }
    if (p == nullptr)
        return nullptr;
    if (bare && !region_reserve(region, index_in_region(p), 1)) {
        put_free(region, p, 1, zone_high.bare);
        return nullptr;
    }
    return hand_out(region, p);
}

bool highmem_free(page *p, gfp_t gfp) {
    memfd_region *region = region_of(p);
    if ((p->flags & kFlagFree) != 0 || p->link != 0) {
        text_buffer<120> line;
        line << "free of a HIGHMEM page " << static_cast<const void *>(p) << " that is "
             << ((p->flags & kFlagFree) != 0 ? "free already" : "still mapped by kmap()");
        misuse(line);
        return false;
    }
    p->flags = kFlagHighmem | kFlagFree;
    if (region != zone_high.region.load(std::memory_order_acquire))
        return true; // from before fork: the parent's to use again
    zone_high.used.fetch_sub(1, std::memory_order_relaxed);
    slow_path scope;
    gfp = scope.limit(gfp);
    if (gfpflags_allow_blocking(gfp)) {
        zone_high.lock.lock();
    } else if (!zone_high.lock.try_lock()) {
        page *head = zone_high.deferred.load(std::memory_order_relaxed);
        do
            p->owner = head;
        while (!zone_high.deferred.compare_exchange_weak(head, p, std::memory_order_release,
                                                         std::memory_order_relaxed));
        return true;
    }
    bool give_back = gfpflags_allow_blocking(gfp) && zone_high.held.count >= kHeldMax;
    if (!give_back)
        push(zone_high.held, region, p);
    zone_high.lock.unlock();
    if (!give_back)
        return true;
    region_release(region, index_in_region(p), 1);
    lock_guard hold(zone_high.lock);
    push(zone_high.bare, region, p);
    return true;
}

bool is_highmem(const page *p) { return (p->flags & kFlagHighmem) != 0; }

void highmem_after_fork_in_child() {
    zone_high.region.store(nullptr, std::memory_order_relaxed);
    zone_high.fresh = 0;
    zone_high.held = {};
    zone_high.bare = {};
    zone_high.deferred.store(nullptr, std::memory_order_relaxed);
    zone_high.used.store(0, std::memory_order_relaxed);
}

void maps_lock_for_fork() {
    for (mutex *m : {&memfd_lock(), &vmap_lock(), &zone_high.lock, &kmap_lock()})
        m->lock_for_fork();
}

void maps_unlock_after_fork(bool child) {
    if (child)
        highmem_after_fork_in_child();
    for (mutex *m : {&kmap_lock(), &zone_high.lock, &vmap_lock(), &memfd_lock()}) {
        if (child)
            m->reset_in_child();
        else
            m->unlock_after_fork();
    }
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT bool pagoda_page_highmem(const ::page *p) { return is_highmem_page(p); }

PAGODA_EXPORT unsigned long pagoda_totalhigh_pages(void) { return pages_in_all(); }

PAGODA_EXPORT unsigned long pagoda_nr_free_highpages(void) {
    return pages_in_all() - zone_high.used.load(std::memory_order_relaxed);
}
