#include "hugepage/purge.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

namespace pagoda {

namespace {

constexpr uint64_t kCleanKept = uint64_t{4} << 20; // in whole pageblocks, for the next growth

bool is_set(const uint64_t *map, uint32_t bit) { return (map[bit / 64] >> (bit % 64) & 1) != 0; }

} // namespace

// The bonus halves with every second since it last changed.
uint64_t zone::decayed_bonus() {
    uint64_t bonus = bonus_.load(std::memory_order_relaxed);
    if (bonus == 0)
        return 0;
    uint64_t second = sys::now_ms() / 1000;
    uint64_t last = bonus_second_.load(std::memory_order_relaxed);
    if (second <= last ||
        !bonus_second_.compare_exchange_strong(last, second, std::memory_order_relaxed))
        return bonus;
    uint64_t kept = second - last < 64 ? bonus >> (second - last) : 0;
    bonus_.fetch_sub(bonus - kept, std::memory_order_relaxed);
    return kept;
}

void zone::note_refault(uint64_t bytes) {
    if (decayed_bonus() == 0)
        bonus_second_.store(sys::now_ms() / 1000, std::memory_order_relaxed);
    bonus_.fetch_add(bytes, std::memory_order_relaxed);
}

uint64_t zone::dirty_bound() {
    return min_of(base_bound() + min_of(decayed_bonus(), bonus_cap_), limit_bound(0));
}

uint64_t zone::base_bound() const {
    return max_of(options().dirty_bytes, min_of(live_bytes() / 8, kDirtyCap));
}

void zone::make_room() {
    uint64_t base = base_bound();
    if (buddy_.purgeable_pages() << kPageShift > base)
        purge(base / 2);
}

bool zone::over_dirty_bound() {
    uint64_t dirty = (buddy_.purgeable_pages() << kPageShift) +
                     static_cast<uint64_t>(vmalloc_dirty_.load(std::memory_order_relaxed));
    return (dirty > options().dirty_bytes || limit_ != kNoLimit) && dirty > dirty_bound();
}

void zone::balance() {
    if (PAGODA_LIKELY(!over_dirty_bound()) || !may_give_back())
        return;
    if (sys::now_ms() < purge_pause_until_.load(std::memory_order_relaxed))
        return;
    purge(dirty_bound() / 2, false);
}

void zone::squeeze(uint64_t wanted) {
    // An ordinary growth was refused: addresses are what is short from now on. A request for more
    // than there ever was says nothing.
    if (wanted <= peak_bytes_.load(std::memory_order_relaxed))
        tight_.store(true, std::memory_order_relaxed);
    reclaim();
    if (!may_give_back())
        return;
    if (purge_held_areas_ != nullptr)
        purge_held_areas_(0);
    let_go(0, true);
    lock_guard g(purge_lock_);
    purge_dirty(0, true, true);
    unmap_clean(0, true);
}

bool zone::purge_once(uint64_t keep, bool may_wait, uint64_t *done) {
    if (!may_give_back() || !purge_lock_.try_lock())
        return false; // one at a time; whoever is at it sees the newest counts
    bool addresses_too = tight_.load(std::memory_order_relaxed);
    *done += purge_dirty(keep, addresses_too, may_wait);
    if (addresses_too)
        *done += unmap_clean(min_of(keep, kCleanKept), may_wait);
    purge_lock_.unlock();
    return true;
}

uint64_t zone::purge(uint64_t keep, bool may_wait) {
    uint64_t done = 0;
    if (purge_once(keep, may_wait, &done) && let_go(keep, may_wait))
        purge_once(keep, may_wait, &done);
    return done;
}

void zone::reclaim() {
    lock_guard g(purge_lock_);
    if (reclaim_ != nullptr)
        reclaim_();
}

// With it comes what earlier purges left: a pageblock must not be isolated a second time meanwhile.
bool zone::lock_as(bool may_wait) {
    if (may_wait)
        lock_.lock();
    else if (!lock_.try_lock_briefly())
        return false;
    if (PAGODA_UNLIKELY(purges_left_.load(std::memory_order_relaxed)))
        finish_purges_locked();
    return true;
}

// Gives the isolated pages back to the kernel, each run shrunk to OS pages: what is left at the
// edges stays as it was. False: the kernel refused.
bool zone::discard_isolated(uint32_t number, uint64_t *done) {
    size_t os_page = sys::page_size();
    const uint64_t *pages = buddy_.block(number).isolated;
    uintptr_t base = reinterpret_cast<uintptr_t>(page_address(number * kPageblockPages));
    bool ok = true;
    for (uint32_t at = 0; at < kPageblockPages;) {
        uint32_t from = at;
        bool isolated = is_set(pages, at);
        while (at < kPageblockPages && is_set(pages, at) == isolated)
            at++;
        uintptr_t lo = align_up(base + (uintptr_t{from} << kPageShift), os_page);
        uintptr_t hi = align_down(base + (uintptr_t{at} << kPageShift), os_page);
        if (!isolated || lo >= hi)
            continue;
        if (sys::discard(lo, hi - lo) == 0)
            *done += hi - lo;
        else
            ok = false;
    }
    return ok;
}

// The lock is held, but not during the calls. False: it is not held any more, and the next holder
// will do the rest.
bool zone::purge_isolated(uint32_t number, bool unmap, bool may_wait, uint64_t *done,
                          purge_end *end) {
    bool leaving = unmap && begin_leaving(number);
    lock_.unlock();
    if (leaving && unmap_block(number)) {
        *end = purge_end::absent;
        *done += kPageblockSize;
    } else {
        *end = discard_isolated(number, done) ? purge_end::clean : purge_end::kept;
    }
    if (lock_as(may_wait)) {
        end_purge(number, *end);
        return true;
    }
    buddy_.block(number).purge_ended.store(*end, std::memory_order_release);
    purges_left_.store(true, std::memory_order_seq_cst);
    leave_to_holder();
    return false;
}

// `addresses_too`: whole pageblocks are unmapped.
uint64_t zone::purge_dirty(uint64_t keep, bool addresses_too, bool may_wait) {
    uint64_t done = 0;
    if (!lock_as(may_wait))
        return 0;
    bool locked = true;
    while (locked && buddy_.purgeable_pages(may_wait) << kPageShift > keep) {
        uint32_t number = 0;
        if (!buddy_.isolate_dirty(&number))
            break;
        purge_end end = purge_end::none;
        locked = purge_isolated(number, addresses_too, may_wait, &done, &end);
        if (end == purge_end::kept) { // mlocked: ask again later
            purge_pause_until_.store(sys::now_ms() + 1000, std::memory_order_relaxed);
            break;
        }
    }
    purged_.fetch_add(done >> kPageShift, std::memory_order_relaxed);
    if (locked)
        lock_.unlock();
    return done;
}

// Unmaps whole free pageblocks that hold no memory, until those are at most `keep` bytes.
uint64_t zone::unmap_clean(uint64_t keep, bool may_wait) {
    uint64_t done = 0;
    if (!lock_as(may_wait))
        return 0;
    bool locked = true;
    uint32_t number = 0;
    while (locked && buddy_.free_blocks(kPageblockOrder) << kPageblockShift > keep &&
           buddy_.isolate_clean(&number)) {
        uint64_t before = done;
        purge_end end = purge_end::none;
        locked = purge_isolated(number, true, may_wait, &done, &end);
        if (end != purge_end::absent) {
            done = before;
            break;
        }
    }
    if (locked)
        lock_.unlock();
    return done;
}

void zone::end_purge(uint32_t number, purge_end end) {
    pageblock &b = buddy_.block(number);
    uint32_t now = max_of(static_cast<uint32_t>(sys::now_ms()), 1u); // 0 means never
    if (end == purge_end::absent) {
        b.purged_at = now;
        note_absent(number);
        return;
    }
    if ((b.flags & kBlockLeaving) != 0) {
        b.flags &= static_cast<uint8_t>(~kBlockLeaving);
        tail_extensible_ = tail_extensible_ || is_last(number);
    }
    buddy_.unisolate(number, end == purge_end::kept);
    if (end == purge_end::clean)
        b.purged_at = now;
}

// What purges left behind that could not have the lock.
void zone::finish_purges_locked() {
    purges_left_.store(false, std::memory_order_seq_cst);
    for (uint32_t n = buddy_.any_isolated(); n != kNoPage;) {
        uint32_t next = buddy_.next_isolated(n);
        purge_end end = buddy_.block(n).purge_ended.exchange(purge_end::none);
        if (end != purge_end::none)
            end_purge(n, end);
        n = next;
    }
}

} // namespace pagoda
