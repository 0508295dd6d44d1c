#include "lib/hold.h"

#include "hugepage/provider.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/area_hold.h"
#include "lib/contig.h"
#include "lib/device_pages.h"
#include "lib/heap.h"
#include "lib/kmem_cache.h"
#include "lib/memblock.h"
#include "lib/misuse.h"
#include "lib/page_hold.h"
#include "lib/page_run.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <errno.h>
#include <string.h>

namespace pagoda {
namespace {

// page::holds of a page of a slab: somebody looks whether its class may come back; and how many
// objects were freed since it was asked last.
constexpr uint16_t kLooking = 1;
constexpr uint16_t kOneFree = 2;
constexpr uint16_t kPatience = 8 * kOneFree;

using counter = hold_bits<uint16_t>;

std::atomic<bool> any_hold{false}; // a fork child has something to clear

void note_any() {
    if (!any_hold.load(std::memory_order_relaxed))
        any_hold.store(true, std::memory_order_relaxed);
}

std::atomic_ref<uint8_t> class_mark(uint32_t page) {
    return std::atomic_ref<uint8_t>(g_pagemap.page_class[page]);
}

// A live object's counter, and what it belongs to.
struct place {
    std::atomic<uint16_t> *holds = nullptr; // NULL: of a slab that has none yet
    char *start = nullptr;
    size_t bytes = 0;
    slab_position at = {}; // of a slab's
    kmem_cache *cache = nullptr;
};

bool find_in_slab(kmem_cache &c, const void *p, place *o) {
    o->at = slab_find(c.info, p);
    if (o->at.slab == nullptr || o->at.object >= c.info.objects)
        return false;
    o->cache = &c;
    o->start =
        static_cast<char *>(page_address(o->at.slab->first)) + size_t{o->at.object} * c.info.size;
    o->bytes = c.info.size;
    if (c.traits != nullptr) {
        o->start += c.traits->lead;
        o->bytes = c.traits->object_size;
    }
    std::atomic<uint16_t> *holds = o->at.slab->holds.load(std::memory_order_acquire);
    o->holds = holds != nullptr ? holds + o->at.object : nullptr;
    return p >= o->start;
}

bool is_run(uint8_t cls) {
    return (cls > kSmallClasses && cls <= kLastClass) || cls == kClassBigRun;
}

bool find_run(const void *p, place *o) {
    void *head = run_head(p);
    uint8_t cls = class_of_pointer(head);
    if (!is_run(cls))
        return false;
    o->start = static_cast<char *>(head);
    o->bytes = size_t{run_pages(head)} << kPageShift;
    o->holds = &page_at(static_cast<uint32_t>(page_index(head))).holds;
    o->cache = cls != kClassBigRun ? &g_caches[cls] : nullptr;
    return true;
}

// Counters of a slab, when the first of its objects is held.
std::atomic<uint16_t> *make_counters(slab *s) {
    slow_path scope;
    size_t bytes = s->objects * sizeof(uint16_t);
    void *p = cache_alloc(class_for_size(bytes), scope.limit(GFP_KERNEL));
    if (p == nullptr)
        return nullptr;
    memset(p, 0, bytes);
    auto *fresh = static_cast<std::atomic<uint16_t> *>(p);
    std::atomic<uint16_t> *seen = nullptr;
    if (s->holds.compare_exchange_strong(seen, fresh))
        return fresh;
    cache_free(class_for_size(bytes), p, GFP_KERNEL);
    return seen;
}

template <class T> void set(T &field, T value) {
    __atomic_store_n(&field, value, __ATOMIC_RELAXED); // others may set the same
}

// The record of a page that says kClassHeld tells all that is needed to find the counter of an
// object on it; a slab's has no other use for these fields. No size: the long way.
void describe(page &pg, slab *s) {
    const kmem_cache &c = *s->cache;
    bool plain = c.traits == nullptr || c.traits->lead == 0;
    set(pg.slab, s);
    pg.refs.store(s->first, std::memory_order_relaxed);
    set(pg.link, c.info.reciprocal);
    set(pg.head, plain ? c.info.size : 0);
}

// The object's counter is up; no free of it may take the hot path from now on. No slab: a run.
void close_hot_path(uint32_t page, uint8_t cls, slab *s) {
    pagoda::page &pg = page_at(page);
    // Whoever looks whether the class may come back has seen this object's counter, or we see that
    // he looks, and must wait for what he does.
    for (int spins = 0; s != nullptr && (pg.holds.load() & kLooking) != 0; spins++)
        if (spins > 100)
            sys::nap(1);
    if (class_mark(page).load(std::memory_order_relaxed) == kClassHeld)
        return;
    if (s != nullptr)
        describe(pg, s);
    else
        set(pg.head, 0u);
    set(pg.held_class, cls);
    class_mark(page).store(kClassHeld, std::memory_order_release);
}

// The short way to the counter of an object of a slab, by the record of the page that p lies in.
struct short_way {
    slab *s;
    size_t object;
    size_t into; // from the object's start to p
    size_t size;
    uint32_t start_page;
    std::atomic<uint16_t> *holds;

    [[gnu::always_inline]] bool find(const void *p) {
        size_t at = page_index(p);
        if (at >= g_pagemap.frontier ||
            class_mark(static_cast<uint32_t>(at)).load(std::memory_order_acquire) != kClassHeld)
            return false;
        const page &pg = page_at(static_cast<uint32_t>(at));
        size = pg.head;
        if (size == 0)
            return false;
        s = pg.slab;
        uint32_t first = pg.refs.load(std::memory_order_relaxed);
        size_t offset =
            reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(page_address(first));
        object = offset * pg.link >> 32;
        into = offset - object * size;
        start_page = first + static_cast<uint32_t>((offset - into) >> kPageShift);
        holds = s->holds.load(std::memory_order_relaxed) + object;
        return true;
    }
    [[gnu::always_inline]] bool reaches(size_t bytes) const {
        size_t usable = PAGODA_LIKELY(s->cls <= kLastClass) ? size : s->cache->traits->object_size;
        return object < s->objects && into <= usable && bytes <= usable - into &&
               !slab_is_free({s, static_cast<uint32_t>(object), true});
    }
    // After the counter was raised: frees of the object take the slow path, and nobody looks
    // whether they need not.
    [[gnu::always_inline]] bool is_closed() const {
        return (page_at(start_page).holds.load() & kLooking) == 0 &&
               class_mark(start_page).load() == kClassHeld;
    }
};

// After a free of an object that nobody holds: the page, if nobody holds any that begins there,
// gets its class back; not at once, for who holds now and then would close it again each time. The
// caller's object is in use: the slab stays.
void open_hot_path(uint32_t page, const slab *s) {
    std::atomic<uint16_t> &state = page_at(page).holds;
    uint16_t seen = state.load(std::memory_order_relaxed);
    if (seen < kPatience) {
        state.compare_exchange_strong(seen, static_cast<uint16_t>(seen + kOneFree));
        return;
    }
    if ((seen & kLooking) != 0 || !state.compare_exchange_strong(seen, kLooking))
        return;
    const kmem_cache &c = *s->cache;
    size_t size = c.info.size;
    size_t lead = c.traits != nullptr ? c.traits->lead : 0;
    size_t from = size_t{page - s->first} << kPageShift;
    size_t first = from > lead ? (from - lead + size - 1) / size : 0;
    size_t last = min_of<size_t>((from + kPageSize - lead + size - 1) / size, s->objects);
    const std::atomic<uint16_t> *holds = s->holds.load(std::memory_order_relaxed);
    bool held = false;
    for (size_t i = first; i < last && !held; i++)
        held = holds[i].load() != 0;
    if (!held)
        class_mark(page).store(page_at(page).held_class, std::memory_order_release);
    state.store(0, std::memory_order_release);
}

int hold_slab_object(kmem_cache &c, const void *p, size_t bytes, uint8_t cls) {
    place o;
    if (!find_in_slab(c, p, &o) || slab_is_free(o.at))
        return -ENOENT;
    auto offset = static_cast<size_t>(static_cast<const char *>(p) - o.start);
    if (offset > o.bytes || bytes > o.bytes - offset)
        return -ERANGE;
    if (PAGODA_UNLIKELY(o.holds == nullptr)) {
        std::atomic<uint16_t> *counters = make_counters(o.at.slab);
        if (counters == nullptr)
            return -ENOMEM;
        o.holds = counters + o.at.object;
    }
    note_any(); // each time: a child of fork has the counters, and begins without holds
    int r = hold_raise(*o.holds);
    if (PAGODA_LIKELY(r == 0))
        close_hot_path(static_cast<uint32_t>(page_index(o.start)), cls, o.at.slab);
    return r;
}

int hold_run(const void *p, size_t bytes) {
    place o;
    if (!find_run(p, &o))
        return -ENOENT;
    auto offset = static_cast<size_t>(static_cast<const char *>(p) - o.start);
    if (bytes > o.bytes - min_of(offset, o.bytes))
        return -ERANGE;
    int r = hold_raise(*o.holds);
    if (r == 0)
        close_hot_path(static_cast<uint32_t>(page_index(o.start)), class_of_pointer(o.start),
                       nullptr);
    return r;
}

bool find(const void *p, place *o) {
    uint8_t cls = class_of_pointer(p);
    kmem_cache *c = cache_of_pointer(p);
    return c != nullptr ? find_in_slab(*c, p, o) : cls != kClassNone && find_run(p, o);
}

} // namespace

bool hold_puts_off(const void *p, bool overwrite) {
    short_way w;
    if (w.find(p) && w.into == 0 && w.object < w.s->objects &&
        w.holds->load(std::memory_order_acquire) == 0) {
        open_hot_path(w.start_page, w.s);
        return false;
    }
    place o;
    if (!find(p, &o) || o.start != p || o.holds == nullptr)
        return false; // what is wrong with it is said further on
    switch (hold_note_free(*o.holds, overwrite)) {
    case held_free::put_off:
        report_free_held(o.cache, p, o.bytes);
        return true;
    case held_free::again:
        if (o.cache != nullptr)
            report_double_free(*o.cache, p);
        else
            report_double_free(p, o.bytes);
        return true;
    case held_free::now:
        break;
    }
    auto page = static_cast<uint32_t>(page_index(p));
    if (o.at.slab != nullptr)
        open_hot_path(page, o.at.slab);
    else // a run is alone there
        class_mark(page).store(page_at(page).held_class, std::memory_order_release);
    return false;
}

bool hold_puts_off_sensitive(const void *p) {
    slow_path scope;
    uint8_t cls = marked_class(p);
    if (cls == kClassHeld)
        return hold_puts_off(p, true);
    return cls == kClassNone && heap_ready() && vmalloc_puts_off_free(p, true);
}

void hold_forget_slab(slab *s) {
    std::atomic<uint16_t> *holds = s->holds.load(std::memory_order_acquire);
    if (PAGODA_LIKELY(holds == nullptr))
        return;
    for (uint32_t page = s->first; page < s->first + s->cache->info.pages; page++) {
        if (class_mark(page).load(std::memory_order_relaxed) == kClassHeld)
            class_mark(page).store(s->cls, std::memory_order_relaxed);
        // A free may have been counted after the page had its class back.
        page_at(page).holds.store(0, std::memory_order_relaxed);
    }
    for (uint32_t i = 1; s->cache->info.aligned && i < s->cache->info.pages; i++)
        page_at(s->first + i).slab = nullptr;
    s->holds.store(nullptr, std::memory_order_relaxed);
    cache_free(class_for_size(s->objects * sizeof(uint16_t)), holds, GFP_KERNEL);
}

void holds_after_fork_in_child() {
    if (!any_hold.load(std::memory_order_relaxed))
        return;
    for (uint32_t at = 0; at < g_pagemap.frontier; at++) {
        uint8_t cls = g_pagemap.page_class[at];
        if (cls == kClassNone)
            continue;
        page &pg = page_at(at);
        if (cls == kClassPages) {
            if (pages_are_held(at))
                pages_begin_unheld(pg);
            continue;
        }
        // A thread that was about to close the page has raised its object's counter already.
        const void *p = page_address(at);
        const kmem_cache *c = cache_of_pointer(p);
        slab *s = c != nullptr ? slab_find(c->info, p).slab : nullptr;
        void *holds =
            s != nullptr && s->first == at ? s->holds.load(std::memory_order_relaxed) : nullptr;
        if (holds != nullptr)
            memset(holds, 0, s->objects * sizeof(uint16_t));
        if (cls == kClassHeld)
            g_pagemap.page_class[at] = pg.held_class;
        if (pg.holds.load(std::memory_order_relaxed) != 0)
            pg.holds.store(0, std::memory_order_relaxed);
    }
    any_hold.store(false, std::memory_order_relaxed);
}

} // namespace pagoda

using namespace pagoda;

// Free memory of the zone, an area, what was set aside, or nothing of ours.
static PAGODA_COLD int hold_classless(const void *p, size_t bytes) {
    if (!heap_ready())
        return -EFAULT;
    if (!in_zone(p))
        return area_hold_object(p, bytes);
    slow_path scope;
    auto at = static_cast<uint32_t>(page_index(p));
    bool freed = device_state(at) == kDeviceBlock ||
                 (zone_normal().is_ordinary(at) && !memblock_has(p) && !contig_has(p));
    return freed ? -ENOENT : -EFAULT;
}

static int hold_pages(const void *p, size_t bytes) {
    note_any();
    return pages_hold(p, bytes);
}

static PAGODA_NOINLINE int hold_slow(const void *p, size_t bytes) {
    uint8_t cls = class_of_pointer(p);
    if (cls == kClassPages)
        return hold_pages(p, bytes);
    if (t_thread.depth != 0)
        return -EAGAIN;
    if (PAGODA_UNLIKELY(cls == kClassNone))
        return hold_classless(p, bytes);
    if (auto *c = cache_of_pointer(p))
        return hold_slab_object(*c, p, bytes, cls);
    note_any();
    return hold_run(p, bytes);
}

// What the end of a hold leaves to do. True: there was one.
static bool finish(void *start, size_t bytes, hold_end end) {
    if (end == hold_end::last_sensitive)
        explicit_bzero(start, bytes);
    if (is_last(end))
        heap_free(start, GFP_KERNEL);
    return end != hold_end::none;
}

static PAGODA_NOINLINE bool release_slow(const void *p) {
    uint8_t cls = class_of_pointer(p);
    if (cls == kClassNone || cls == kClassPages)
        return (cls == kClassNone ? area_release_object : pages_unhold)(p);
    place o;
    if (!find(p, &o) || o.holds == nullptr)
        return false;
    return finish(o.start, o.bytes, hold_lower(*o.holds));
}

// What the short ways leave over. They end with a call of these, and give them their figures
// singly: so they save no register, and no short_way is in memory.

// The counter is up, but the object was freed, or its page is open, or somebody looks whether to
// open it. Who looks may be who this thread interrupted.
static PAGODA_COLD int hold_afterwards(const void *p, size_t bytes, uint16_t before, slab *s,
                                       uint32_t start_page) {
    if (!counter::freed(before) && t_thread.depth == 0) {
        close_hot_path(start_page, page_at(static_cast<uint32_t>(page_index(p))).held_class, s);
        return 0;
    }
    release_slow(p);
    return hold_slow(p, bytes);
}

// One was taken from the counter of an object that was freed, or from none: two undo what one did.
static PAGODA_COLD bool release_end(const void *p, std::atomic<uint16_t> &holds, uint16_t before) {
    bool none = !counter::freed(before) || (before & counter::kCount) == 0;
    auto left = static_cast<uint16_t>(none ? holds.fetch_add(1) + 1 : before - 1);
    place o;
    // Of a freed object nobody is left. He who really was the last may have found this one below
    // that: then it is for this one to finish.
    if (counter::freed(left) && (left & counter::kCount) == 0 && find(p, &o) &&
        holds.compare_exchange_strong(left, 0))
        finish(o.start, o.bytes, hold_end_of(left));
    return !none;
}

// No compare and exchange on the short ways: it would wait for what it compares with. What comes
// out is looked at instead, and mended where it should not have been.

PAGODA_EXPORT int pagoda_object_hold(const void *p, size_t bytes) {
    short_way o;
    if (PAGODA_UNLIKELY(!o.find(p)))
        return marked_class(p) == kClassPages ? hold_pages(p, bytes) : hold_slow(p, bytes);
    if (PAGODA_UNLIKELY(!o.reaches(bytes) ||
                        o.holds->load(std::memory_order_relaxed) >= counter::kMany))
        return hold_slow(p, bytes);
    uint16_t before = o.holds->fetch_add(1);
    if (PAGODA_LIKELY(!counter::freed(before) && o.is_closed()))
        return 0;
    return hold_afterwards(p, bytes, before, o.s, o.start_page);
}

PAGODA_EXPORT bool pagoda_object_release(const void *p) {
    short_way o;
    if (PAGODA_UNLIKELY(!o.find(p)))
        return marked_class(p) == kClassPages ? pages_unhold(p) : release_slow(p);
    if (PAGODA_UNLIKELY(o.holds->load(std::memory_order_relaxed) == 0))
        return release_slow(p);
    uint16_t before = o.holds->fetch_sub(1);
    return PAGODA_LIKELY(before - 1u < counter::kCount) || release_end(p, *o.holds, before);
}

PAGODA_EXPORT int pagoda_block_hold(const void *p, void **start, size_t *bytes) {
    if (!heap_ready())
        return -EFAULT;
    slow_path scope;
    if (scope.nested())
        return -EAGAIN;
    if (class_of_pointer(p) == kClassNone)
        return area_hold_block(p, start, bytes);
    auto number = static_cast<uint32_t>(page_index(p) / kPageblockPages);
    if (int r = zone_normal().hold_block(number); r != 0)
        return r;
    *start = page_address(number * kPageblockPages);
    *bytes = kPageblockSize;
    return 0;
}

PAGODA_EXPORT void pagoda_block_release(const void *p) {
    slow_path scope;
    if (in_zone(p))
        zone_normal().unhold_block(static_cast<uint32_t>(page_index(p) / kPageblockPages));
    else
        area_release_block(p);
}
