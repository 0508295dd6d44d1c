#include "hugepage/reserve.h"

#include "hugepage/block_hold.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <errno.h>

namespace pagoda {

namespace {
bool is_set(const uint64_t *map, uint32_t bit) { return (map[bit / 64] >> (bit % 64) & 1) != 0; }
} // namespace

bool reserve::has(uint32_t block) {
    return g_space.pageblocks.as<pageblock>()[block].reserved.load(std::memory_order_acquire);
}

uint32_t reserve::alloc(uint32_t count, unsigned align_order, gfp_t gfp) {
    if (count > kPageblockPages || align_order > kPageblockOrder)
        return kNoPage;
    uint64_t floor = reserve_floor(gfp, target());
    if (free_pages() < floor + count || !lock_.try_lock())
        return kNoPage;
    uint32_t first = kNoPage;
    if (buddy_.free_pages() >= floor + count)
        first = buddy_.take_backed(count, align_order);
    free_.store(buddy_.free_pages(), std::memory_order_relaxed);
    lock_.unlock();
    return first;
}

bool reserve::free(uint32_t first, uint32_t count) {
    if (!lock_.try_lock_briefly())
        return false;
    buddy_.release(first, count, true);
    free_.store(buddy_.free_pages(), std::memory_order_relaxed);
    lock_.unlock();
    return true;
}

void reserve::add(uint32_t block) {
    buddy_.block(block).reserved.store(true, std::memory_order_release);
}

uint32_t reserve::take_surplus() {
    if (free_pages() < target() + kPageblockPages)
        return kNoPage;
    if (!lock_.try_lock_briefly())
        return kNoPage;
    uint32_t dirty = 0;
    uint32_t first = kNoPage;
    if (buddy_.free_pages() >= target() + kPageblockPages &&
        buddy_.free_blocks(kPageblockOrder) != 0)
        first = buddy_.take(kPageblockOrder, &dirty);
    free_.store(buddy_.free_pages(), std::memory_order_relaxed);
    lock_.unlock();
    if (first == kNoPage)
        return kNoPage;
    buddy_.block(first / kPageblockPages).reserved.store(false, std::memory_order_release);
    return first / kPageblockPages;
}

void reserve::pin(uint32_t block, bool held) { buddy_.pin(block, held); }

bool reserve::consistent(uint32_t blocks) {
    lock_guard g(lock_);
    return buddy_.consistent(blocks, true) && buddy_.dirty_pages() == buddy_.free_pages();
}

// The zone's part: whence the reserve comes.

bool zone::set_reserve(uint64_t bytes) {
    reserve_.set_target(align_up(bytes, kPageblockSize) >> kPageShift);
    restock(true);
    return !reserve_.is_short();
}

// One thread does it, the others go on.
void zone::restock(bool may_wait) {
    constexpr uint64_t kPauseMs = 10; // where there was nothing to refill it with
    if (sys::now_ms() < refill_pause_until_.load(std::memory_order_relaxed) ||
        !reserve_.begin_refill())
        return;
    // What is added may wait for the reserve's lock on the list of frees.
    uint64_t missing = reserve_.target() - min_of(reserve_.target(), reserve_.free_pages());
    for (uint64_t got = 0; got < missing; got += kPageblockPages) {
        uint32_t block = take_for_reserve(may_wait);
        if (block == kNoPage) {
            if (may_wait) // or it was the lock that could not be had
                refill_pause_until_.store(sys::now_ms() + kPauseMs, std::memory_order_relaxed);
            break;
        }
        reserve_.add(block);
        give_back(block * kPageblockPages, kPageblockPages, true, true);
    }
    for (uint32_t block; (block = reserve_.take_surplus()) != kNoPage;)
        give_back(block * kPageblockPages, kPageblockPages, true, true);
    reserve_.end_refill();
}

// A whole pageblock that holds memory.
uint32_t zone::take_for_reserve(bool may_wait) {
    if (may_wait)
        pay_for(kPageblockSize);
    if (!lock_as(may_wait))
        return kNoPage;
    uint32_t dirty = 0;
    uint32_t first = kNoPage;
    if (within_limit(kPageblockPages)) {
        first = buddy_.take(kPageblockOrder, &dirty);
        if (first == kNoPage && grow(1, kPageblockOrder, 0))
            first = buddy_.take(kPageblockOrder, &dirty);
    }
    lock_.unlock();
    if (first == kNoPage || dirty == kPageblockPages)
        return first == kNoPage ? kNoPage : first / kPageblockPages;
    bool huge = options().thp != thp_policy::never &&
                (buddy_.block(first / kPageblockPages).flags & kBlockHugetlb) == 0;
    uintptr_t at = reinterpret_cast<uintptr_t>(page_address(first));
    if (huge)
        sys::hint_huge(at, kPageblockSize, true);
    bool populated = populate(first, kPageblockPages);
    if (huge)
        sys::hint_huge(at, kPageblockSize, false);
    if (populated)
        return first / kPageblockPages;
    give_back(first, kPageblockPages, true, true);
    return kNoPage;
}

void zone::keep_backed() {
    if (keep_backed_.exchange(true, std::memory_order_relaxed))
        return;
    lock_.lock();
    g_space.memmap.keep_populated();
    g_space.pageblocks.keep_populated();
    g_space.page_class.keep_populated();
    uint64_t end = end_;
    lock_.unlock();
    // What was handed out or freed before. Without purges nothing is unmapped while it may be
    // touched by hand; a page that leaves meanwhile has memory without need.
    for (uint64_t start = 0; start < end; start += kPageblockPages) {
        uint32_t count = static_cast<uint32_t>(min_of(end - start, uint64_t{kPageblockPages}));
        uint64_t dirty[kPageblockPages / 64];
        lock_guard no_purge(purge_lock_);
        lock_.lock();
        uint32_t number = static_cast<uint32_t>(start / kPageblockPages);
        const pageblock &b = buddy_.block(number);
        bool absent = absent_.has(number);
        for (uint32_t w = 0; w < kPageblockPages / 64; w++)
            dirty[w] = b.dirty[w];
        lock_.unlock();
        // What is set aside has no class.
        auto wanted = [&](uint32_t at) {
            return is_set(dirty, at) || g_pagemap.page_class[start + at] != kClassNone;
        };
        for (uint32_t at = 0; at < count && !absent;) {
            uint32_t from = at;
            bool populating = wanted(at++);
            while (at < count && wanted(at) == populating)
                at++;
            if (populating)
                populate(static_cast<uint32_t>(start) + from, at - from);
        }
    }
}

// Pages that somebody has get memory. Not under the lock.
bool zone::populate(uint32_t first, uint32_t count) {
    return populate_memory(reinterpret_cast<uintptr_t>(page_address(first)),
                           size_t{count} << kPageShift);
}

} // namespace pagoda
