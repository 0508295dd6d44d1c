// The zone under limits: what it may keep free, and the addresses that it gives back.
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <errno.h>

namespace pagoda {
namespace {

constexpr uint64_t kLeastKept = uint64_t{1} << 20;
constexpr uint64_t kCleanKept = uint64_t{4} << 20; // in whole pageblocks, for the next growth

uintptr_t address_of_block(uint64_t block) {
    return g_space.zone_base + (block << kPageblockShift);
}

} // namespace

void zone::set_limits(const memory_limits &limits) {
    limit_ = min_of(limits.addresses, limits.memory);
    // What is kept here is then kept from every other process.
    bonus_cap_ = limits.commit_counts ? 0 : kDirtyCap;
    tight_.store(limits.addresses != kNoLimit || limits.commit_counts, std::memory_order_relaxed);
}

// An eighth of what the limit leaves.
uint64_t zone::limit_bound(uint64_t wanted) const {
    if (PAGODA_LIKELY(limit_ == kNoLimit))
        return kNoLimit;
    uint64_t live = live_bytes() + wanted;
    return max_of(kLeastKept, (limit_ - min_of(limit_, live)) / 8);
}

void zone::pay_under_limit(uint64_t bytes) {
    uint64_t bound = limit_bound(bytes);
    uint64_t areas = static_cast<uint64_t>(vmalloc_dirty_.load(std::memory_order_relaxed));
    uint64_t pages = buddy_.dirty_pages() << kPageShift;
    if (areas + pages <= bound)
        return;
    if (pages > bound / 2)
        purge(bound / 4);
    if (areas > bound / 2 && purge_areas_ != nullptr)
        purge_areas_(bound / 4);
}

void zone::squeeze(uint64_t wanted) {
    // An ordinary growth was refused: addresses are what is short from now on. A request for more
    // than there ever was says nothing.
    if (wanted <= peak_bytes_.load(std::memory_order_relaxed))
        tight_.store(true, std::memory_order_relaxed);
    reclaim();
    lock_guard g(purge_lock_);
    purge_locked(0, true);
    unmap_clean(0);
}

uint64_t zone::purge(uint64_t keep) {
    if (!purge_lock_.try_lock())
        return 0; // one at a time; whoever is at it sees the newest counts
    bool addresses_too = tight_.load(std::memory_order_relaxed);
    uint64_t done = purge_locked(keep, addresses_too);
    if (addresses_too)
        done += unmap_clean(min_of(keep, kCleanKept));
    purge_lock_.unlock();
    return done;
}

void zone::reclaim() {
    lock_guard g(purge_lock_);
    if (reclaim_ != nullptr)
        reclaim_();
}

// Unmaps whole free pageblocks that hold no memory, until those are at most `keep` bytes.
uint64_t zone::unmap_clean(uint64_t keep) {
    uint64_t done = 0;
    lock_guard g(lock_);
    uint32_t number = 0;
    while (buddy_.free_blocks(kPageblockOrder) << kPageblockShift > keep &&
           buddy_.isolate_clean(&number)) {
        if (!unmap_isolated(number)) {
            buddy_.unisolate(number, false);
            break;
        }
        done += kPageblockSize;
    }
    return done;
}

// The lock is held, but not during the call. False: nothing changed, the pages are still isolated.
bool zone::unmap_isolated(uint32_t number) {
    pageblock &b = buddy_.block(number);
    for (uint64_t w : b.isolated)
        if (w != ~uint64_t{0})
            return false;
    // The first one stays: where no more mappings are to be had (vm.max_map_count), the others
    // grow out of it again.
    if (number == 0 || !absent_.room_for(number))
        return false;
    b.flags |= kBlockLeaving;
    if (uint64_t{number} * kPageblockPages + kPageblockPages == end_)
        tail_extensible_ = false;
    lock_.unlock();
    int r = sys::unmap(address_of_block(number), kPageblockSize);
    lock_.lock();
    if (r != 0) {
        b.flags &= static_cast<uint8_t>(~kBlockLeaving);
        return false;
    }
    b.purged_at = static_cast<uint32_t>(sys::now_ms()) | 1;
    note_absent(number);
    return true;
}

void zone::note_absent(uint32_t number) {
    buddy_.block(number).flags &= static_cast<uint8_t>(~(kBlockLeaving | kBlockOrdinary));
    buddy_.forget_isolated(number);
    absent_.add(number);
    present_ -= kPageblockPages;
}

bool zone::map_absent_at(uint32_t first, uint32_t blocks, int *error) {
    size_t bytes = size_t{blocks} << kPageblockShift;
    uintptr_t at = address_of_block(first);
    // The mapping below grows where there is one: that needs no further one.
    bool below = first > 0 && (buddy_.block(first - 1).flags & kBlockOrdinary) != 0;
    *error = below ? sys::extend(at, bytes) : -EFAULT;
    if (*error != 0) {
        *error = sys::map_at(at, bytes);
        if (*error != 0)
            return false;
        sys::hint_huge(at, bytes, options().thp == thp_policy::always);
    }
    uint32_t pages = blocks * kPageblockPages;
    for (uint32_t i = 0; i < blocks; i++) {
        absent_.remove(first + i);
        buddy_.block(first + i).flags |= kBlockOrdinary;
    }
    tail_extensible_ = tail_extensible_ || uint64_t{first + blocks} * kPageblockPages == end_;
    buddy_.release(first * kPageblockPages, pages, false);
    present_ += pages;
    note_peak();
    return true;
}

// Maps as many absent pageblocks in a row again. A block where somebody else has mapped something
// meanwhile is lost.
bool zone::map_absent(uint32_t blocks) {
    uint32_t end = static_cast<uint32_t>(end_ / kPageblockPages);
    for (uint32_t first; (first = absent_.find(blocks, end)) != kNoPage;) {
        int error = 0;
        if (map_absent_at(first, blocks, &error))
            return true;
        if (error != -EEXIST)
            return false;
        for (uint32_t i = 0; i < blocks; i++)
            if (blocks == 1 || (!map_absent_at(first + i, 1, &error) && error == -EEXIST))
                absent_.remove(first + i);
    }
    return false;
}

} // namespace pagoda
