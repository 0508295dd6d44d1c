#include "lib/area_hold.h"

#include "hugepage/block_hold.h"
#include "hugepage/provider.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/hold.h"
#include "lib/kmem_cache.h"
#include "lib/misuse.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <errno.h>
#include <string.h>

namespace pagoda {
namespace {

std::atomic<bool> any_hold{false}; // a fork child has something to clear

size_t size_of(uint32_t words) { return sizeof(granule_holds) + 2 * words * sizeof(uint64_t); }

// The granule of an area that p lies in.
struct granule {
    uint32_t number;
    uintptr_t at;
    size_t bytes; // that are mapped
    bool populated;
};

granule granule_at(const vm_area *a, uint32_t number) {
    uintptr_t offset = uintptr_t{number} << kPageblockShift;
    return {number, vm_range::address(a) + offset, min_of(a->mapped - offset, kPageblockSize),
            false};
}

uint32_t number_of(const vm_area *a, const void *p) {
    return static_cast<uint32_t>((reinterpret_cast<uintptr_t>(p) - vm_range::address(a)) >>
                                 kPageblockShift);
}

// The live area that p lies in, with the lock held.
vm_area *live_area(const void *p) {
    vm_area *a = vmalloc_range().containing(p);
    return a != nullptr && !a->lost && a->state == vm_state::busy && a->bytes != 0 &&
                   reinterpret_cast<uintptr_t>(p) - vm_range::address(a) < a->bytes
               ? a
               : nullptr;
}

bool is_set(const uint64_t *bits, uint32_t n) { return (bits[n / 64] >> (n % 64) & 1) != 0; }

void set(granule_holds *h, uint32_t n, bool held) {
    if (is_set(h->held(), n) == held)
        return;
    h->held()[n / 64] ^= uint64_t{1} << (n % 64);
    h->populated()[n / 64] &= ~(uint64_t{1} << (n % 64));
    h->count += held ? 1 : ~0u;
}

// Room to note holds in, for an area that may have become longer. The old record, or what was not
// needed, is in *unused.
granule_holds *make_room(vm_area *a, granule_holds *fresh, granule_holds **unused) {
    granule_holds *old = a->granules_held;
    *unused = fresh;
    uint32_t words = (a->granules + 63) / 64;
    if (old != nullptr && old->words >= words)
        return old;
    if (fresh == nullptr || fresh->words < words)
        return nullptr;
    if (old != nullptr) {
        fresh->count = old->count;
        memcpy(fresh->held(), old->held(), old->words * sizeof(uint64_t));
        memcpy(fresh->populated(), old->populated(), old->words * sizeof(uint64_t));
    }
    *unused = old;
    return a->granules_held = fresh;
}

void free_record(granule_holds *h) {
    if (h != nullptr)
        cache_free(class_for_size(size_of(h->words)), h, GFP_KERNEL);
}

granule_holds *new_record(uint32_t words) {
    size_t bytes = size_of(words);
    if (bytes > kMaxClass)
        return nullptr;
    void *p = cache_alloc(class_for_size(bytes), GFP_KERNEL);
    if (p == nullptr)
        return nullptr;
    memset(p, 0, bytes);
    auto *h = static_cast<granule_holds *>(p);
    h->words = words;
    return h;
}

// Notes that p's granule is held.
int note_held(const void *p, granule *g) {
    for (uint32_t words = 0;;) {
        granule_holds *record = words != 0 ? new_record(words) : nullptr;
        if (words != 0 && record == nullptr)
            return -ENOMEM;
        granule_holds *unused = record;
        granule_holds *h = nullptr;
        vmalloc_lock().lock();
        vm_area *a = live_area(p);
        if (a != nullptr) {
            h = make_room(a, record, &unused);
            words = (a->granules + 63) / 64;
            *g = granule_at(a, number_of(a, p));
        }
        if (h != nullptr) {
            set(h, g->number, true);
            g->populated = is_set(h->populated(), g->number);
        }
        vmalloc_lock().unlock();
        free_record(unused);
        if (a == nullptr)
            return -EFAULT;
        if (h != nullptr)
            return 0;
    }
}

void note_populated(const void *p, uint32_t number) {
    lock_guard l(vmalloc_lock());
    vm_area *a = live_area(p);
    if (a != nullptr && area_is_held(a) && is_set(a->granules_held->held(), number))
        a->granules_held->populated()[number / 64] |= uint64_t{1} << (number % 64);
}

} // namespace

bool area_let_go(vm_area *a) {
    if (!area_is_held(a))
        return true;
    const pagoda_dma_provider *provider = dma_provider();
    granule_holds *h = a->granules_held;
    for (uint32_t n = 0; n < a->granules && h->count != 0; n++) {
        if (!is_set(h->held(), n))
            continue;
        granule g = granule_at(a, n);
        if (provider == nullptr || !provider->release(reinterpret_cast<void *>(g.at), g.bytes))
            return false;
        lock_guard l(vmalloc_lock());
        set(h, n, false);
    }
    return true;
}

bool any_area_was_held() { return any_hold.load(std::memory_order_relaxed); }

void area_forget_holds(vm_area *a) {
    if (PAGODA_LIKELY(a->granules_held == nullptr))
        return;
    free_record(a->granules_held);
    a->granules_held = nullptr;
}

int area_hold_block(const void *p, void **start, size_t *bytes) {
    granule g = {};
    if (int r = note_held(p, &g); r != 0)
        return r;
    if (!any_hold.load(std::memory_order_relaxed))
        any_hold.store(true, std::memory_order_relaxed);
    // Its owner sees to it that the area stays. Where this fails the hold stays noted, for another
    // thread may have mapped the granule meanwhile: it costs a question later on. Once is enough:
    // whoever closed pages of it since would take this for a touch.
    if (!g.populated) {
        if (!populate_memory(g.at, g.bytes))
            return -ENOMEM;
        note_populated(p, g.number);
    }
    *start = reinterpret_cast<void *>(g.at);
    *bytes = g.bytes;
    return 0;
}

void area_release_block(const void *p) {
    lock_guard l(vmalloc_lock());
    vm_area *a = vmalloc_range().containing(p);
    if (a == nullptr || a->lost || !area_is_held(a))
        return;
    uint32_t n = number_of(a, p);
    if (n / 64 < a->granules_held->words)
        set(a->granules_held, n, false);
}

int area_hold_object(const void *p, size_t bytes) {
    slow_path scope;
    lock_guard l(vmalloc_lock());
    vm_area *a = live_area(p);
    if (a == nullptr)
        return vmalloc_range().containing(p) != nullptr ? -ENOENT : -EFAULT;
    if (bytes > vm_range::address(a) + a->bytes - reinterpret_cast<uintptr_t>(p))
        return -ERANGE;
    if (!any_hold.load(std::memory_order_relaxed))
        any_hold.store(true, std::memory_order_relaxed);
    return hold_raise(a->holds);
}

// What is held stays where it is in the books: this needs no lock.
bool area_release_object(const void *p) {
    vm_area *a = vmalloc_range().containing(p);
    if (a == nullptr || a->state != vm_state::busy)
        return false;
    hold_end end = hold_lower(a->holds);
    auto *start = reinterpret_cast<void *>(vm_range::address(a));
    if (end == hold_end::last_sensitive)
        explicit_bzero(start, a->bytes);
    if (is_last(end)) {
        slow_path scope;
        vmalloc_free(start, scope.limit(GFP_KERNEL));
    }
    return end != hold_end::none;
}

bool area_puts_off_free(vm_area *a, bool overwrite) {
    const void *p = reinterpret_cast<const void *>(vm_range::address(a));
    switch (hold_note_free(a->holds, overwrite)) {
    case held_free::put_off:
        report_free_held(nullptr, p, a->bytes);
        return true;
    case held_free::again:
        report_double_free(p);
        return true;
    case held_free::now:
        break;
    }
    return false;
}

void areas_after_fork_in_child() {
    if (!any_hold.load(std::memory_order_relaxed))
        return;
    any_hold.store(false, std::memory_order_relaxed);
    vmalloc_range().for_each([](vm_area *a) {
        a->holds.store(0, std::memory_order_relaxed);
        if (granule_holds *h = a->granules_held) {
            h->count = 0;
            memset(h->bits, 0, 2 * h->words * sizeof(uint64_t));
        }
    });
}

} // namespace pagoda
