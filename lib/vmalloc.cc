#include "lib/vmalloc.h"

#include "hugepage/meta.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/area_hold.h"
#include "lib/group.h"
#include "lib/vm_range.h"

#include <errno.h>

namespace pagoda {
namespace {

constexpr size_t kHugeArea = kPageblockSize; // smaller areas do not ask for huge pages
constexpr int kMaxScan = 64;                 // cached areas looked at for a fit
constexpr size_t kMissingCost = 16;          // of a page to map, in idle ones

mutex lock{lock_rank::vmalloc};
vm_range range;
vm_area *cached_newest = nullptr;
vm_area *cached_oldest = nullptr;
vmalloc_stats stats_now = {};
uint64_t refused_bytes = 0;  // cached, held, and not let go of
uint64_t unmapped_bytes = 0; // lately, and when
uint64_t unmapped_at = 0;
std::atomic<vm_area *> deferred{nullptr}; // what waits for the lock, linked by `next`

size_t page_round(size_t bytes) { return align_up(bytes, sys::page_size()); }

// At least one page of the last granule stays unmapped: the guard.
uint32_t granules_for(size_t bytes) {
    return static_cast<uint32_t>((bytes + sys::page_size() + kPageblockSize - 1) >>
                                 kPageblockShift);
}

void uncache(vm_area *a) {
    if (a->next != nullptr)
        a->next->prev = a->prev;
    else
        cached_oldest = a->prev;
    if (a->prev != nullptr)
        a->prev->next = a->next;
    else
        cached_newest = a->next;
    a->next = a->prev = nullptr;
    stats_now.cached -= a->mapped;
    if (a->refused)
        refused_bytes -= a->mapped;
    else
        zone_normal().note_vmalloc(0, -static_cast<int64_t>(a->mapped));
    a->refused = false;
}

// `refused`: it is held, and stays. It does not count as kept, or every free would ask again.
void cache(vm_area *a, bool refused = false) {
    a->state = vm_state::cached;
    a->refused = refused;
    a->prev = nullptr;
    a->next = cached_newest;
    if (cached_newest != nullptr)
        cached_newest->prev = a;
    else
        cached_oldest = a;
    cached_newest = a;
    stats_now.cached += a->mapped;
    if (refused)
        refused_bytes += a->mapped;
    else
        zone_normal().note_vmalloc(0, static_cast<int64_t>(a->mapped));
}

// The busy area that starts at p, or NULL. A live area's entry and record do not change under its
// owner, so this needs no lock for a pointer that the caller holds.
vm_area *busy_area(const void *p) {
    vm_area *a = range.at(p);
    return a != nullptr && vm_range::address(a) == reinterpret_cast<uintptr_t>(p) &&
                   a->state == vm_state::busy && !a->lost
               ? a
               : nullptr;
}

// Accounts for an area that is in use with the sizes it has now; `sign` -1: that it had till now.
void account(const vm_area *a, int64_t sign) {
    int64_t bytes = sign * static_cast<int64_t>(a->bytes);
    int64_t slack = sign * static_cast<int64_t>(a->mapped - a->bytes);
    stats_now.bytes += static_cast<uint64_t>(bytes);
    stats_now.slack += static_cast<uint64_t>(slack);
    zone_normal().note_vmalloc(bytes, slack);
}

// Of two threads that free an area at once one loses here, with the lock or without.
bool end_use(vm_area *a, vm_state as) {
    vm_state busy = vm_state::busy;
    return std::atomic_ref<vm_state>(a->state).compare_exchange_strong(busy, as);
}

void free_locked(vm_area *a) {
    stats_now.areas--;
    account(a, -1);
    group_uncharge(a->owner, a->bytes);
    a->owner = nullptr;
    cache(a);
}

void defer(vm_area *a) {
    a->next = deferred.load(std::memory_order_relaxed);
    while (!deferred.compare_exchange_weak(a->next, a, std::memory_order_release,
                                           std::memory_order_relaxed)) {
    }
}

void free_deferred() {
    vm_area *a = deferred.load(std::memory_order_relaxed) == nullptr
                     ? nullptr
                     : deferred.exchange(nullptr, std::memory_order_acquire);
    while (a != nullptr) {
        vm_area *next = a->next;
        if (a->state == vm_state::unmapped)
            range.release(a);
        else
            free_locked(a);
        a = next;
    }
}

// The freed area that fits best: its pages serve again. One that is too small costs the pages that
// it lacks, one that is too large (at most twice) only keeps some idle. What is held keeps its
// length, which a guard may not allow.
vm_area *find_cached(size_t bytes, size_t align, bool guarded) {
    vm_area *best = nullptr;
    size_t best_distance = 0;
    int left = kMaxScan;
    for (vm_area *a = cached_newest; a != nullptr && left-- > 0; a = a->next) {
        size_t distance =
            a->mapped >= bytes ? a->mapped - bytes : kMissingCost * (bytes - a->mapped);
        if (distance > bytes || vm_range::address(a) % align != 0)
            continue;
        if ((guarded ? a->mapped != bytes : a->mapped < bytes) && area_is_held(a))
            continue;
        if (best == nullptr || distance < best_distance) {
            best = a;
            best_distance = distance;
        }
    }
    return best;
}

void ask_for_huge_pages(uintptr_t at, size_t bytes, bool wanted) {
    thp_policy thp = options().thp;
    if (thp == thp_policy::never || bytes < kHugeArea || !may_give_back())
        return;
    if (wanted || thp == thp_policy::always || zone_normal().live_bytes() + bytes >= kHugeHeap)
        sys::hint_huge(at, bytes, true);
}

// Takes addresses and maps `bytes` there, stepping over what others have mapped.
vm_area *map_new(size_t bytes, size_t align, bool huge) {
    for (int attempt = 0; attempt < 64; attempt++) {
        lock.lock();
        vm_area *a = range.take(granules_for(bytes),
                                static_cast<uint32_t>(max_of(align >> kPageblockShift, size_t{1})));
        lock.unlock();
        if (a == nullptr)
            return nullptr;
        int r = sys::map_at(vm_range::address(a), bytes);
        if (r == 0) {
            ask_for_huge_pages(vm_range::address(a), bytes, huge);
            a->mapped = bytes;
            return a;
        }
        lock.lock();
        if (r == -EEXIST)
            a->lost = true; // stays busy: never ours
        else
            range.release(a);
        lock.unlock();
        if (r != -EEXIST)
            return nullptr;
    }
    return nullptr;
}

void unmap_and_release(vm_area *a) {
    area_forget_holds(a);
    // The range is busy in the books until nothing is mapped there any more.
    int r = sys::unmap(vm_range::address(a), a->mapped);
    if (r != 0)
        sys::discard(vm_range::address(a), a->mapped);
    zone_normal().uncharge(a->mapped);
    if (r != 0) { // sealed by the program: the mapping stays, its memory does not
        a->lost = true;
    } else if (lock.try_lock_briefly()) {
        range.release(a);
        lock.unlock();
    } else {
        a->state = vm_state::unmapped;
        defer(a);
    }
}

void note_unmapped(uint64_t bytes) {
    uint64_t now = sys::now_ms();
    unmapped_bytes = now - unmapped_at < kRefaultWindowMs ? unmapped_bytes + bytes : bytes;
    unmapped_at = now;
}

// Memory that was unmapped a moment ago is wanted again: keep more of it next time.
void note_miss(uint64_t bytes) {
    if (unmapped_bytes == 0 || sys::now_ms() - unmapped_at >= kRefaultWindowMs)
        return;
    uint64_t again = min_of(bytes, unmapped_bytes);
    unmapped_bytes -= again;
    zone_normal().note_refault(again);
}

uint64_t kept() { return stats_now.cached - refused_bytes + stats_now.slack; }

vm_area *oldest_free_to_go() {
    vm_area *a = cached_oldest;
    while (a != nullptr && area_is_held(a))
        a = a->prev;
    return a;
}

// Unmaps until at most `keep` bytes are kept, or until get_lock(lock) says no.
template <class GetLock> uint64_t purge(uint64_t keep, GetLock get_lock) {
    uint64_t done = 0;
    for (;;) {
        if (!may_give_back() || !get_lock(lock))
            return done;
        free_deferred();
        vm_area *a = kept() > keep ? oldest_free_to_go() : nullptr;
        if (a != nullptr) {
            uncache(a);
            a->state = vm_state::busy; // nobody finds it until it is unmapped
            note_unmapped(a->mapped);
        }
        lock.unlock();
        if (a == nullptr)
            return done;
        done += a->mapped;
        unmap_and_release(a);
    }
}

// The held area that waited longest, with `again` also one that was refused before.
vm_area *oldest_held(bool again) {
    vm_area *a = cached_oldest;
    while (a != nullptr && (!area_is_held(a) || (a->refused && !again)))
        a = a->prev;
    return a;
}

// The same for held areas. Those that the library above does not let go of are asked for once.
template <class GetLock> uint64_t purge_held(uint64_t keep, bool again, GetLock get_lock) {
    uint64_t done = 0;
    for (uint64_t asked = 0, there = 0; any_area_was_held(); asked++) {
        if (!may_give_back() || !get_lock(lock))
            return done;
        bool more = kept() + (again ? refused_bytes : 0) > keep;
        for (const vm_area *a = more && asked == 0 ? cached_oldest : nullptr; a != nullptr;
             a = a->prev)
            there += area_is_held(a);
        vm_area *a = more && asked < there ? oldest_held(again) : nullptr;
        if (a != nullptr) {
            uncache(a);
            a->state = vm_state::busy;
        }
        lock.unlock();
        if (a == nullptr)
            return done;
        if (area_let_go(a)) {
            done += a->mapped;
            unmap_and_release(a);
        } else {
            lock_guard g(lock);
            cache(a, true);
        }
    }
    return done;
}

// Maps fewer pages, or more behind the last one.
bool map_in_place(vm_area *a, size_t bytes) {
    uintptr_t start = vm_range::address(a);
    if (bytes != a->mapped && area_is_held(a))
        return false;
    if (bytes <= a->mapped) {
        if (bytes != a->mapped && sys::unmap(start + bytes, a->mapped - bytes) != 0)
            return false;
        zone_normal().uncharge(a->mapped - bytes);
    } else {
        if (granules_for(bytes) > a->granules) {
            lock_guard g(lock);
            if (!range.widen(a, granules_for(bytes)))
                return false;
        }
        size_t more = bytes - a->mapped;
        zone_normal().pay_for(more);
        if (!zone_normal().charge(more))
            return false;
        if (sys::extend(start + a->mapped, more) != 0) {
            zone_normal().uncharge(more);
            return false;
        }
    }
    a->mapped = bytes;
    return true;
}

// Makes a freed area serve `bytes`. What it has beyond stays mapped, except behind guards: sizes
// that vary would map and unmap for ever.
bool fit(vm_area *a, size_t bytes, bool guarded) {
    return (bytes <= a->mapped && !guarded) || map_in_place(a, bytes);
}

} // namespace

mutex &vmalloc_lock() { return lock; }
vm_range &vmalloc_range() { return range; }

namespace {

struct area_kind {
    bool guarded;
    bool huge;
};

void *alloc_area(size_t bytes, size_t align, area_kind kind, gfp_t gfp, bool *zeroed) {
    if (!gfpflags_allow_blocking(gfp) || bytes > kVmallocSpan / 2 || align > kVmallocSpan / 4)
        return nullptr;
    bytes = page_round(bytes);
    lock.lock();
    free_deferred();
    vm_area *a = find_cached(bytes, align, kind.guarded);
    if (a != nullptr) {
        uncache(a);
        a->state = vm_state::busy;
    }
    size_t there = a != nullptr ? a->mapped : 0;
    if (there < bytes)
        note_miss(bytes - there);
    lock.unlock();
    if (a != nullptr && !fit(a, bytes, kind.guarded)) {
        lock_guard g(lock); // a neighbour, or a limit: it waits for another size
        cache(a);
        a = nullptr;
    }
    bool fresh = a == nullptr;
    if (fresh) {
        zone_normal().make_room();
        zone_normal().pay_for(bytes);
        if (!zone_normal().charge(bytes))
            return nullptr;
        a = map_new(bytes, align, kind.huge);
        if (a == nullptr) {
            zone_normal().squeeze(bytes);
            a = map_new(bytes, align, kind.huge);
        }
        if (a == nullptr) {
            zone_normal().uncharge(bytes);
            return nullptr;
        }
    }
    lock.lock();
    a->bytes = bytes;
    a->guarded = kind.guarded;
    stats_now.areas++;
    stats_now.served++;
    account(a, 1);
    lock.unlock();
    if (zeroed != nullptr)
        *zeroed = fresh;
    return reinterpret_cast<void *>(vm_range::address(a));
}

// The charge of an area that is so many bytes longer, or shorter, than it was.
bool charge_more(group *owner, size_t bytes) {
    if (!group_charge(owner, bytes))
        return false;
    group_uncharge(owner, 0); // the area is one object all the same
    return true;
}

void uncharge_some(group *owner, size_t bytes) {
    if (owner == nullptr || bytes == 0)
        return;
    owner->references.fetch_add(1, std::memory_order_relaxed);
    group_uncharge(owner, bytes);
}

void *alloc_charged(size_t bytes, size_t align, area_kind kind, gfp_t gfp, bool *zeroed) {
    group *owner = (gfp & __GFP_ACCOUNT) != 0 ? current_group() : nullptr;
    if (!group_charge(owner, page_round(bytes)))
        return nullptr;
    void *p = alloc_area(bytes, align, kind, gfp, zeroed);
    if (p == nullptr)
        group_uncharge(owner, page_round(bytes));
    else
        busy_area(p)->owner = owner;
    return p;
}

} // namespace

void *vmalloc_alloc(size_t bytes, size_t align, gfp_t gfp, bool *zeroed) {
    return alloc_charged(bytes, align, {false, false}, gfp, zeroed);
}

void *vmalloc_alloc_guarded(size_t bytes, bool huge, gfp_t gfp, bool *zeroed) {
    return alloc_charged(bytes, kPageSize, {true, huge}, gfp, zeroed);
}

bool vmalloc_guard(void *p) {
    lock.lock();
    vm_area *a = busy_area(p);
    if (a != nullptr && a->mapped != a->bytes && !may_give_back())
        a = nullptr;
    if (a != nullptr)
        account(a, -1);
    lock.unlock();
    if (a == nullptr)
        return false;
    bool done = map_in_place(a, a->bytes);
    lock_guard g(lock);
    a->guarded = a->guarded || done;
    account(a, 1);
    return done;
}

vm_pointer vmalloc_classify(const void *p, size_t *bytes, void **start, gfp_t gfp) {
    if (gfpflags_allow_blocking(gfp))
        lock.lock();
    else if (!lock.try_lock())
        return vm_pointer::none;
    vm_area *a = range.containing(p);
    bool known = a != nullptr && !a->lost;
    *bytes = known ? a->bytes : 0;
    *start = known ? reinterpret_cast<void *>(vm_range::address(a)) : nullptr;
    vm_state state = known ? a->state : vm_state::free;
    lock.unlock();
    if (!known)
        return vm_pointer::none;
    if (state != vm_state::busy)
        return vm_pointer::freed_area;
    return *start == p ? vm_pointer::area : vm_pointer::interior;
}

bool vmalloc_puts_off_free(const void *p, bool overwrite) {
    vm_area *a = busy_area(p);
    return PAGODA_UNLIKELY(a != nullptr && area_in_use(a)) && area_puts_off_free(a, overwrite);
}

bool vmalloc_free(void *p, gfp_t gfp) {
    bool may_block = gfpflags_allow_blocking(gfp);
    if (vmalloc_puts_off_free(p, false))
        return true;
    if (!(may_block ? lock.try_lock_briefly() : lock.try_lock())) {
        vm_area *a = busy_area(p);
        if (a == nullptr || !end_use(a, vm_state::deferred))
            return false;
        defer(a);
        if (lock.try_lock()) { // the holder may have gone before he could see it
            free_deferred();
            lock.unlock();
        }
        return true;
    }
    free_deferred();
    vm_area *a = busy_area(p);
    bool freed = a != nullptr && end_use(a, vm_state::cached);
    if (freed)
        free_locked(a);
    lock.unlock();
    if (!freed)
        return false;
    if (may_block && zone_normal().over_dirty_bound()) {
        auto briefly = [](mutex &m) { return m.try_lock_briefly(); };
        purge(zone_normal().dirty_bound() / 2, briefly);
        purge_held(zone_normal().dirty_bound() / 2, false, briefly);
    }
    return true;
}

size_t vmalloc_size(const void *p) {
    vm_area *a = busy_area(p);
    return a != nullptr ? a->bytes : 0;
}

namespace {

// The area elsewhere, with room for the next growth. NULL, and nothing changed, when that cannot
// be.
vm_area *move_area(vm_area *a, size_t bytes) {
    size_t more = bytes - a->mapped;
    if (!zone_normal().charge(more))
        return nullptr;
    lock.lock();
    vm_area *to = range.take(granules_for(bytes + bytes / 2), 1);
    lock.unlock();
    if (to == nullptr) {
        zone_normal().uncharge(more);
        return nullptr;
    }
    // Reserved first: MREMAP_FIXED would replace whatever somebody else has there.
    uintptr_t target = vm_range::address(to);
    int r = sys::reserve_at(target, bytes);
    if (r == 0) {
        r = sys::move_pages(vm_range::address(a), a->mapped, target, bytes);
        if (r != 0)
            sys::unmap(target, bytes);
    }
    if (r == 0)
        area_forget_holds(a);
    lock_guard g(lock);
    if (r == 0) {
        to->mapped = bytes;
        to->guarded = a->guarded;
        to->owner = a->owner;
        range.release(a);
        stats_now.moved++;
        return to;
    }
    zone_normal().uncharge(more);
    if (r == -EEXIST)
        to->lost = true;
    else
        range.release(to);
    return nullptr;
}

} // namespace

void *vmalloc_resize(void *p, size_t bytes, gfp_t gfp) {
    if (!gfpflags_allow_blocking(gfp) || bytes > kVmallocSpan / 4)
        return nullptr;
    bytes = page_round(bytes);
    vm_area *a = busy_area(p);
    if (a == nullptr || area_in_use(a))
        return nullptr;
    // What becomes slack stays mapped.
    bool remaps = bytes > a->mapped || (a->guarded && bytes != a->mapped);
    if (remaps && !area_let_go(a))
        return nullptr;
    group *owner = a->owner;
    size_t charged = max_of(a->bytes, bytes);
    if (!charge_more(owner, charged - a->bytes))
        return nullptr;
    lock.lock();
    account(a, -1);
    lock.unlock();
    bool fits = bytes <= a->mapped;
    if (bytes < a->bytes) {
        if ((!may_give_back() || !map_in_place(a, bytes)) && a->guarded)
            bytes = a->bytes; // sealed by the program, or no __GFP_IO: it stays as long as it is
        // Without guards the rest is slack.
    } else if (!fits) {
        fits = map_in_place(a, bytes);
    }
    vm_area *now = fits ? a : move_area(a, bytes);
    lock_guard g(lock);
    if (now != nullptr)
        now->bytes = bytes;
    account(now != nullptr ? now : a, 1);
    uncharge_some(owner, charged - (now != nullptr ? now : a)->bytes);
    return now != nullptr ? reinterpret_cast<void *>(vm_range::address(now)) : nullptr;
}

uint64_t vmalloc_purge(uint64_t keep) {
    return purge(keep, [](mutex &m) {
        m.lock();
        return true;
    });
}

uint64_t vmalloc_purge_held(uint64_t keep) {
    return purge_held(keep, true, [](mutex &m) {
        m.lock();
        return true;
    });
}

vmalloc_stats vmalloc_get_stats() {
    lock_guard g(lock);
    return stats_now;
}

} // namespace pagoda
