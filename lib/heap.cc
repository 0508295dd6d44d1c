#include "lib/heap.h"

#include "hugepage/meta.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/area_hold.h"
#include "lib/debug_marks.h"
#include "lib/device_pages.h"
#include "lib/drain.h"
#include "lib/highmem.h"
#include "lib/hold.h"
#include "lib/hot_path.h"
#include "lib/kernel_api.h"
#include "lib/kmem_cache.h"
#include "lib/misuse.h"
#include "lib/oom.h"
#include "lib/page_run.h"
#include "lib/pages.h"
#include "lib/rcu.h"
#include "lib/reclaim.h"
#include "lib/shrinker.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <string.h>

namespace pagoda {
namespace {

mutex init_lock{lock_rank::init};
std::atomic<bool> ready{false};
bool (*foreign_free)(void *) = nullptr;

// What the zone may ask for when a mapping was refused. The purge lock alone is held.
void reclaim() {
    caches_reclaim();
    vmalloc_purge(0);
}

constexpr uint32_t pages_for(size_t size) {
    return static_cast<uint32_t>((size + kPageSize - 1) >> kPageShift);
}

// Sizes of uncached runs in steps of 1/8 of a power of two, so that freed ones fit again.
size_t run_size(size_t size) {
    size_t step = (size_t{1} << log2_floor(size - 1)) / 8;
    return align_up(size, step);
}

// Above 1 MiB, or aligned above a pageblock.
void *alloc_large(size_t size, size_t align, gfp_t gfp, bool *zeroed) {
    if (size > kZoneSpan / 2)
        return nullptr;
    if (align <= kPageSize && options().hugetlb_shift != 0) {
        // What there is of a 1 GiB page first, then another page.
        if (void *p = run_alloc(pages_for(size), 0, GFP_NOWAIT | kGfpMayFault, zeroed))
            return p;
        if (zone_normal().hugetlb_left())
            if (void *p = run_alloc(pages_for(size), 0, gfp, zeroed))
                return p;
    }
    if (void *p = vmalloc_alloc(size, align, gfp, zeroed))
        return p;
    // No further mapping to be had (vm.max_map_count): the zone grows inside the one it has.
    return align <= kPageblockSize
               ? run_alloc(pages_for(size), order_of(align >> kPageShift), gfp, zeroed)
               : nullptr;
}

void *alloc_class(unsigned cls, gfp_t gfp, bool *zeroed) {
    const class_info &info = kClassTable.info[cls];
    // Fresh runs may be known to be zero; cached ones are not.
    if (info.is_run && (gfp & __GFP_ZERO) != 0) {
        void *cached = percpu::pop(cls);
        return cached != nullptr ? cached : run_alloc(info.pages, 0, gfp, zeroed);
    }
    return cache_alloc(cls, gfp);
}

// Debug builds: the object must not be the program's already, and is from now on.
void note_alloc(void *p) {
    if (kDebug && p != nullptr)
        PAGODA_INVARIANT(debug_mark_held(p));
}

void *finish(void *p, size_t size, gfp_t gfp, bool zeroed) {
    note_alloc(p);
    bool wanted = (gfp & __GFP_ZERO) != 0 || PAGODA_UNLIKELY(options().init_on_alloc);
    if (p != nullptr && wanted && !zeroed)
        memset(p, 0, size);
    return p;
}

// Reports a pointer that is no live block's start, as far as memory of ours is concerned. False: it
// is not ours.
bool report_not_live(const void *p, gfp_t gfp) {
    if (class_of_pointer(p) == kClassRunTail) {
        const char *head = static_cast<const char *>(run_head(p));
        report_interior(p, size_t{run_pages(head)} << kPageShift,
                        static_cast<size_t>(static_cast<const char *>(p) - head));
        return true;
    }
    if (class_of_pointer(p) == kClassPages) {
        report_page_freed(p);
        return true;
    }
    size_t bytes = 0;
    void *start = nullptr;
    switch (vmalloc_classify(p, &bytes, &start, gfp)) {
    case vm_pointer::interior:
        report_interior(
            p, bytes,
            static_cast<size_t>(static_cast<const char *>(p) - static_cast<char *>(start)));
        return true;
    case vm_pointer::freed_area:
    case vm_pointer::area: // freed and allocated again since we looked: a race of the program's own
        report_double_free(p);
        return true;
    case vm_pointer::none:
        break;
    }
    if (!in_zone(p))
        return false;
    report_double_free(p); // our page, but nobody's
    return true;
}

// A pointer outside slabs and runs.
void free_elsewhere(void *p, gfp_t gfp) {
    if (vmalloc_free(p, gfp) || report_not_live(p, gfp))
        return;
    if (foreign_free == nullptr || !foreign_free(p))
        report_foreign(p);
}

} // namespace

bool heap_ready() { return ready.load(std::memory_order_acquire); }

bool heap_init() {
    if (PAGODA_LIKELY(heap_ready()))
        return true;
    slow_path scope;
    if (!scope.nested())
        init_lock.lock();
    else if (!init_lock.try_lock())
        return false; // a handler that interrupted the initialisation
    if (!heap_ready()) {
        read_options_from_environment();
        uint32_t cpus = sys::cpu_slots();
        if (address_space_init((size_t{cpus} + 2) * kSlotSize) && zones_init()) {
            caches_init();
            percpu::init(cpus);
            if (!percpu::has_rseq())
                thread_slots_init();
            zone_normal().set_reclaim(reclaim, vmalloc_purge, vmalloc_purge_held);
            ready.store(true, std::memory_order_release);
            if (options().reserve_bytes != 0)
                zone_normal().set_reserve(options().reserve_bytes);
            if (options().init_on_alloc)
                hot_paths_close();
            hot_path_open(g_percpu.small_limit); // last
        }
    }
    init_lock.unlock();
    return heap_ready();
}

namespace {

// One attempt each.
void *try_alloc(size_t size, gfp_t gfp) {
    if (!heap_init())
        return nullptr;
    slow_path scope;
    gfp = scope.limit(gfp);
    bool zeroed = false;
    void *p = nullptr;
    if (size <= kMaxClass)
        p = alloc_class(class_for_size(size), gfp, &zeroed);
    else if (size <= kVmallocFrom)
        p = run_alloc(pages_for(run_size(size)), 0, gfp, &zeroed);
    else
        p = alloc_large(size, kPageSize, gfp, &zeroed);
    return finish(p, size, gfp, zeroed);
}

void *try_alloc_aligned(size_t size, size_t align, gfp_t gfp) {
    if (!heap_init())
        return nullptr;
    slow_path scope;
    gfp = scope.limit(gfp);
    bool zeroed = false;
    void *p = nullptr;
    size_t round = max_of(size, size_t{1});
    if (max_of(size, align) <= kVmallocFrom)
        p = run_alloc(pages_for(max_of(round, kMaxSmall + 1)), order_of(align >> kPageShift), gfp,
                      &zeroed);
    else
        p = alloc_large(max_of(round, kVmallocFrom + 1), align, gfp, &zeroed);
    return finish(p, size, gfp, zeroed);
}

} // namespace

void *heap_alloc(size_t size, gfp_t gfp) {
    return with_reclaim(gfp, size, [=] { return try_alloc(size, gfp); });
}

void *heap_alloc_aligned(size_t size, size_t align, gfp_t gfp) {
    if (align <= 16)
        return heap_alloc(size, gfp);
    // Slabs start on pages, so objects of a class are aligned to what divides its size.
    if (align <= kPageSize && size <= kMaxSmall)
        for (unsigned cls = class_for_size(max_of(size, align)); cls <= kSmallClasses; cls++)
            if (kClassTable.info[cls].size % align == 0)
                return heap_alloc(kClassTable.info[cls].size, gfp);
    return with_reclaim(gfp, size, [=] { return try_alloc_aligned(size, align, gfp); });
}

// A run of a class that is aligned: a cached one where it happens to be.
static void *aligned_run(unsigned cls, size_t align, gfp_t gfp, bool *zeroed) {
    void *cached = percpu::pop(cls);
    if (cached != nullptr && reinterpret_cast<uintptr_t>(cached) % align == 0)
        return cached;
    void *p = run_alloc(kClassTable.info[cls].pages, order_of(align >> kPageShift), gfp, zeroed);
    if (cached != nullptr)
        cache_free(cls, cached, gfp);
    return p;
}

void *heap_alloc_natural(size_t size, gfp_t gfp) {
    if (!heap_init())
        return nullptr;
    slow_path scope;
    gfp = scope.limit(gfp);
    size_t align = max_of(size & -size, kPageSize);
    bool zeroed = false;
    void *p = nullptr;
    if (size > kMaxClass)
        p = run_alloc(pages_for(run_size(size)), order_of(align >> kPageShift), gfp, &zeroed);
    else if (size > kMaxSmall && align > kPageSize)
        p = aligned_run(class_for_size(size), align, gfp, &zeroed);
    else
        p = alloc_class(kmalloc_class(size), gfp, &zeroed);
    return finish(p, heap_good_natural_size(size), gfp, zeroed);
}

void heap_free(void *p, gfp_t gfp) {
    if (p == nullptr)
        return;
    slow_path scope;
    gfp = scope.limit(gfp);
    if (PAGODA_UNLIKELY(hold_puts_off_free(p)))
        return;
    uint8_t cls = class_of_pointer(p);
    if (kDebug && cls != kClassNone && cls != kClassRunTail && cls != kClassShared &&
        cls != kClassPages && !debug_mark_freed(p))
        return; // reported
    if (cls != kClassNone && cls <= kLastUserClass) {
        cache_free(cls, p, gfp);
    } else if (cls == kClassShared) {
        shared_free(p, gfp, __builtin_return_address(0));
    } else if (cls == kClassBigRun) {
        run_free_big(p, gfp);
    } else if (cls == kClassRunTail) {
        report_not_live(p, gfp);
    } else {
        free_elsewhere(p, gfp);
    }
    note_freed(gfp);
}

size_t heap_usable_size(const void *p) {
    uint8_t cls = class_of_pointer(p);
    if (cls != kClassNone && cls <= kLastClass)
        return kClassTable.info[cls].size;
    if (const kmem_cache *c = cache_of_pointer(p))
        return c->traits->object_size;
    if (cls == kClassBigRun)
        return size_t{run_pages(p)} << kPageShift;
    return p != nullptr && cls == kClassNone && heap_ready() ? vmalloc_size(p) : 0;
}

size_t heap_good_size(size_t size) {
    if (size <= kMaxClass)
        return class_size(class_for_size(size));
    return align_up(size <= kVmallocFrom ? run_size(size) : size, kPageSize);
}

size_t heap_good_natural_size(size_t size) {
    return size <= kMaxClass ? class_size(kmalloc_class(size))
                             : align_up(run_size(size), kPageSize);
}

bool heap_owns(const void *p) { return heap_usable_size(p) != 0; }

// A block that grows is not wanted again in its old size: a run goes back to the zone at once,
// where its memory serves other sizes, and past the caches.
static void free_outgrown(void *p, gfp_t gfp) {
    uint8_t cls = marked_class(p);
    if (cls <= kSmallClasses || cls > kLastClass) { // not a run of a class, or held
        heap_free(p, gfp);
        return;
    }
    slow_path scope;
    if (kDebug && !debug_mark_freed(p))
        return; // reported
    run_free_class(g_caches[cls], p, scope.limit(gfp));
}

// The area in place, or by moving its page tables.
static void *resize_area(void *p, size_t size, gfp_t gfp) {
    slow_path scope;
    return class_of_pointer(p) == kClassNone ? vmalloc_resize(p, size, scope.limit(gfp)) : nullptr;
}

static void *try_grow(void *p, size_t old, size_t size, gfp_t gfp) {
    if (old > kVmallocFrom)
        if (void *moved = resize_area(p, size, gfp))
            return moved;
    void *fresh = try_alloc(size, gfp);
    if (fresh == nullptr)
        return nullptr;
    memcpy(fresh, p, old);
    free_outgrown(p, gfp);
    return fresh;
}

static void *try_shrink(void *p, size_t old, size_t size, gfp_t gfp) {
    if (old > kVmallocFrom && size > kVmallocFrom) {
        if (void *moved = resize_area(p, size, gfp))
            return moved;
    } else if (size > kMaxClass && class_of_pointer(p) == kClassBigRun) {
        slow_path scope;
        if (run_shrink(p, pages_for(run_size(size)), scope.limit(gfp)))
            return p;
    }
    void *fresh = try_alloc(size, gfp);
    if (fresh == nullptr)
        return p;
    memcpy(fresh, p, size);
    heap_free(p, gfp);
    return fresh;
}

void *heap_realloc(void *p, size_t size, gfp_t gfp) {
    size_t old = heap_usable_size(p);
    if (old == 0) {
        slow_path scope;
        if (!report_not_live(p, scope.limit(gfp)))
            report_foreign(p);
        return nullptr;
    }
    if (cache_of_pointer(p) == nullptr && reinterpret_cast<uintptr_t>(p) % kPageSize != 0) {
        slow_path scope; // in a run's first page: what is copied would begin and end too late
        report_interior(p, old, reinterpret_cast<uintptr_t>(p) % kPageSize);
        return nullptr;
    }
    if (size <= old) // it still fits: no reason to press others for memory
        return size > old / 2 ? p : try_shrink(p, old, size, gfp);
    return with_reclaim(gfp, size, [=] { return try_grow(p, old, size, gfp); });
}

bool heap_trim(size_t keep) {
    if (!heap_ready())
        return false;
    {
        slow_path scope;
        if (scope.nested())
            return false;
        caches_drain();
    }
    device_pages_trim(0); // to the zone
    slow_path scope;
    uint64_t done = vmalloc_purge(0) + vmalloc_purge_held(0);
    done += zone_normal().purge(keep);
    return done != 0;
}

void heap_set_foreign_free(bool (*hook)(void *)) { foreign_free = hook; }

heap_stats heap_get_stats() {
    heap_stats s = {};
    slow_path scope; // a handler must not wait for the locks taken here
    if (!heap_ready() || scope.nested())
        return s;
    for_each_cache([&](const kmem_cache &c) {
        if (c.served == 0)
            return;
        uint64_t cached = c.cls == kClassShared ? 0 : cache_cached(c);
        uint64_t live = c.in_use > cached ? c.in_use - cached : 0;
        s.live_objects += live;
        s.live_bytes += live * c.info.size;
        s.cached_objects += cached;
        s.cached_bytes += cached * c.info.size;
        s.served += c.served;
    });
    run_stats runs = runs_stats();
    vmalloc_stats vm = vmalloc_get_stats();
    pages_stats pages = pages_get_stats();
    zone_stats zone = zone_normal().stats();
    s.live_objects += runs.big_runs + vm.areas + pages.blocks;
    s.live_bytes += ((runs.big_pages + pages.pages) << kPageShift) + vm.bytes;
    s.served += runs.served + vm.served + pages.served;
    s.committed = ((zone.present - zone.set_aside) << kPageShift) + vm.bytes + vm.slack + vm.cached;
    s.committed += device_pages_get_stats(0, ~uint64_t{0}).present << kPageShift; // set aside, too
    s.free_pages = zone.free << kPageShift;
    s.reserve_bytes = zone.reserved << kPageShift;
    s.dirty_bytes = (zone.dirty << kPageShift) + vm.slack + vm.cached;
    s.peak_committed = zone.peak_bytes;
    s.purged_bytes = zone.purged << kPageShift;
    s.vmalloc_areas = vm.areas;
    s.vmalloc_bytes = vm.bytes;
    return s;
}

void heap_before_fork() {
    t_thread.depth++; // a handler in between must not wait for what we hold
    if (t_thread.depth > 1)
        return; // fork in a handler that interrupted us: the locks may be our own
    device_growth_lock().lock_for_fork();
    shrinkers_lock().lock_for_fork();
    oom_lock().lock_for_fork();
    init_lock.lock_for_fork();
    drain_lock().lock_for_fork();
    thread_slot_lock().lock_for_fork();
    caches_lock_for_fork();
    vmalloc_lock().lock_for_fork();
    zone_normal().lock().lock_for_fork();
    zone_normal().reserve_lock().lock_for_fork();
    device_lock().lock_for_fork();
    meta_lock().lock_for_fork();
    sheaf_lock().lock_for_fork();
    rcu_lock().lock_for_fork();
    maps_lock_for_fork();
}

void heap_after_fork(bool child) {
    auto unlock = [child](mutex &m) {
        if (child)
            m.reset_in_child();
        else
            m.unlock_after_fork();
    };
    if (t_thread.depth == 1) {
        // Before the locks are free: a handler may come at once and allocate.
        if (child) {
            shrinkers_after_fork_in_child();
            oom_after_fork_in_child();
            reclaim_after_fork_in_child();
            kernel_api_after_fork_in_child();
            zone_normal().after_fork_in_child();
            device_pages_after_fork_in_child();
            thread_slots_after_fork_in_child();
            rcu_after_fork_in_child();
            holds_after_fork_in_child();
            areas_after_fork_in_child();
        }
        maps_unlock_after_fork(child);
        for (mutex *m : {&rcu_lock(), &sheaf_lock(), &meta_lock(), &device_lock(),
                         &zone_normal().reserve_lock(), &zone_normal().lock()})
            unlock(*m);
        for (mutex *m : {&vmalloc_lock(), &thread_slot_lock(), &drain_lock(), &init_lock,
                         &oom_lock(), &shrinkers_lock(), &device_growth_lock()})
            unlock(*m);
        caches_unlock_after_fork(child);
    }
    t_thread.depth--;
}

} // namespace pagoda
