#include "lib/kmap.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/thread.h"

#include <pagoda/highmem.h>

#include <limits.h>
#include <sys/mman.h>

namespace pagoda {
namespace {

constexpr uint32_t kSlots = LAST_PKMAP;

mutex lock{lock_rank::maps};
std::atomic<uintptr_t> slots_at{0}; // of both kinds of slots, a guard behind each

// Users of what kmap() has mapped there.
struct shared_slot {
    page *mapped;
    uint32_t users;
};
shared_slot shared_slots[kSlots];

// The open mappings of a thread are a list from thread_state::kmap_top down.
struct local_slot {
    std::atomic<bool> taken;
    uint8_t depth;
    uint16_t below; // the slot before, + 1
};
constinit local_slot local_slots[kSlots] = {};

// Somebody waits for a slot while its number of waiters is not 0; each freed slot counts.
struct queue {
    std::atomic<uint32_t> freed{0};
    std::atomic<uint32_t> waiters{0};

    void wait(uint32_t seen) {
        waiters.fetch_add(1);
        sys::futex_wait(freed, seen);
        waiters.fetch_sub(1);
    }
    void wake() {
        freed.fetch_add(1);
        if (waiters.load() != 0)
            sys::futex_wake(freed, INT_MAX);
    }
};
queue shared_queue;
queue local_queue;

constexpr size_t kStride = 2 * kPageSize;
uintptr_t shared_address(uint32_t slot) { return slots_at.load() + slot * kStride; }
uintptr_t local_address(uint32_t slot) { return shared_address(kSlots + slot); }

bool reach_slots() {
    if (slots_at.load() != 0)
        return true;
    long at = sys::reserve_anywhere(2 * kSlots * kStride);
    if (sys::failed(at))
        return false;
    uintptr_t none = 0;
    if (!slots_at.compare_exchange_strong(none, static_cast<uintptr_t>(at)))
        sys::unmap(static_cast<uintptr_t>(at), 2 * kSlots * kStride); // another thread was first
    return true;
}

bool map(uintptr_t at, const page *p) {
    return map_memfd_pages(at, p, 1, PROT_READ | PROT_WRITE) == 0;
}

// kmap() of a page without an address, once. *full: there is no slot.
void *map_shared(page *p, bool *full) {
    slow_path scope;
    *full = false;
    if (scope.nested())
        return nullptr;
    lock_guard hold(lock);
    uint32_t slot = p->link - 1;
    if (p->link == 0) {
        for (slot = 0; slot < kSlots && shared_slots[slot].users != 0;)
            slot++;
        *full = slot == kSlots;
        if (*full || !map(shared_address(slot), p))
            return nullptr;
        shared_slots[slot] = {p, 0};
        p->link = slot + 1;
    }
    shared_slots[slot].users++;
    return reinterpret_cast<void *>(shared_address(slot));
}

// NULL, or why it cannot be.
const char *unmap_shared(page *p) {
    slow_path scope;
    if (!scope.nested())
        lock.lock();
    else if (!lock.try_lock())
        return "a signal handler interrupted kmap(): the page stays mapped";
    bool mapped = p->link != 0;
    uint32_t slot = p->link - 1;
    if (mapped && --shared_slots[slot].users == 0) {
        p->link = 0;
        shared_slots[slot].mapped = nullptr;
        sys::hide(shared_address(slot), kPageSize);
    }
    lock.unlock();
    return mapped ? nullptr : "the page is not mapped";
}

// A slot of this thread's; kSlots: all are taken.
uint32_t take_local() {
    // Threads begin their search at different places.
    uint32_t start =
        static_cast<uint32_t>(reinterpret_cast<uintptr_t>(&t_thread) >> 12) * KM_MAX_IDX % kSlots;
    for (uint32_t i = 0; i < kSlots; i++) {
        uint32_t slot = (start + i) % kSlots;
        if (!local_slots[slot].taken.load(std::memory_order_relaxed) &&
            !local_slots[slot].taken.exchange(true, std::memory_order_acquire))
            return slot;
    }
    return kSlots;
}

void free_local(uint32_t slot) {
    local_slots[slot].taken.store(false, std::memory_order_release);
    local_queue.wake();
}

// Whether the page's address comes and goes.
bool needs_mapping(const page *p) {
    return is_memfd_page(reinterpret_cast<const ::page *>(p)) && region_of(p)->home == 0;
}

void report(const char *what, const void *p, const char *why) {
    text_buffer<160> line;
    line << what << " of " << p << ": " << why;
    misuse(line);
}

} // namespace

void *address_of_page(const page *p) {
    if (!is_memfd_page(reinterpret_cast<const ::page *>(p)))
        return reinterpret_cast<void *>(
            g_pagemap.base +
            ((reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(g_pagemap.memmap)) /
                 sizeof(page)
             << kPageShift));
    if (uintptr_t home = region_of(p)->home)
        return reinterpret_cast<void *>(home + (uintptr_t{index_in_region(p)} << kPageShift));
    uint32_t link = __atomic_load_n(&p->link, __ATOMIC_RELAXED);
    return link != 0 ? reinterpret_cast<void *>(shared_address(link - 1)) : nullptr;
}

mutex &kmap_lock() { return lock; }

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT void *pagoda_highmem_address(const ::page *page) {
    return address_of_page(record_of(page));
}

PAGODA_EXPORT void *pagoda_kmap(::page *page) {
    pagoda::page *p = record_of(page);
    if (!needs_mapping(p))
        return address_of_page(p);
    if (!reach_slots())
        return nullptr;
    for (;;) {
        uint32_t seen = shared_queue.freed.load();
        bool full;
        void *address = map_shared(p, &full);
        if (!full)
            return address;
        shared_queue.wait(seen);
    }
}

PAGODA_EXPORT void pagoda_kunmap(::page *page) {
    pagoda::page *p = record_of(page);
    if (!needs_mapping(p))
        return;
    if (const char *fault = unmap_shared(p))
        report("kunmap", p, fault);
    else
        shared_queue.wake();
}

PAGODA_EXPORT void *pagoda_kmap_local_page(::page *page) {
    pagoda::page *p = record_of(page);
    if (!needs_mapping(p))
        return address_of_page(p);
    if (!reach_slots())
        return nullptr;
    uint16_t top = t_thread.kmap_top;
    uint8_t depth = top != 0 ? local_slots[top - 1].depth + 1 : 1;
    if (depth > KM_MAX_IDX) {
        report("kmap_local_page", p, "too many mappings of this thread are open");
        return nullptr;
    }
    uint32_t slot;
    for (;;) {
        uint32_t seen = local_queue.freed.load();
        slot = take_local();
        if (slot != kSlots)
            break;
        local_queue.wait(seen);
    }
    if (!map(local_address(slot), p)) {
        free_local(slot);
        return nullptr;
    }
    local_slots[slot].depth = depth;
    local_slots[slot].below = top;
    t_thread.kmap_top = static_cast<uint16_t>(slot + 1);
    return reinterpret_cast<void *>(local_address(slot));
}

PAGODA_EXPORT void pagoda_kunmap_local(const void *address) {
    uintptr_t offset = reinterpret_cast<uintptr_t>(address) - local_address(0);
    if (slots_at.load() == 0 || offset >= kSlots * kStride)
        return;
    uint32_t slot = static_cast<uint32_t>(offset / kStride);
    if (t_thread.kmap_top != slot + 1) {
        report("kunmap_local", address,
               local_slots[slot].taken.load() ? "not this thread's newest mapping"
                                              : "nothing is mapped there");
        return;
    }
    t_thread.kmap_top = local_slots[slot].below;
    sys::hide(local_address(slot), kPageSize);
    free_local(slot);
}
