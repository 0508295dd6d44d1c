#include "hugepage/block_hold.h"

#include "hugepage/provider.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <errno.h>

namespace pagoda {

bool populate_memory(uintptr_t at, size_t bytes) {
    int r = may_give_back() ? sys::populate(at, bytes) : -EINVAL;
    if (r == -EINVAL) {
        // By hand where the kernel cannot (before 5.14) or no such call is wanted (in a noio
        // scope); whatever the program writes there stays.
        for (size_t i = 0; i < bytes; i += kPageSize)
            __atomic_fetch_or(reinterpret_cast<uint8_t *>(at + i), 0, __ATOMIC_RELAXED);
        return true;
    }
    return r == 0;
}

// Under the lock. False: part of the pageblock is not there, or not the zone's.
bool zone::complete(uint32_t number) {
    constexpr uint8_t kComplete = kBlockOrdinary | kBlockHugetlb;
    auto missing = static_cast<uint32_t>(align_up(end_, kPageblockPages) - end_);
    if ((buddy_.block(number).flags & kComplete) == 0 && end_ / kPageblockPages == number &&
        missing != 0)
        extend(missing);
    return (buddy_.block(number).flags & kComplete) != 0;
}

int zone::hold_block(uint32_t number) {
    for (int attempt = 0; attempt < 3; attempt++) {
        if (attempt > 0)
            give_back_for(kPageblockSize, attempt > 1);
        lock_guard no_purge(purge_lock_); // and nobody else who holds it
        lock_.lock();
        finish_frees_locked();
        pageblock &b = buddy_.block(number);
        bool there = complete(number);
        bool done = there && b.pins != 0;
        if (there && !done && reserve::has(number)) {
            lock_guard r(reserve_.lock());
            reserve_.pin(number, true); // all of it holds memory
            done = true;
        }
        bool room = !there || done || within_limit(b.nfree - b.ndirty);
        uint64_t clean[8];
        if (there && !done && room) {
            buddy_.take_clean(number, clean);
            buddy_.pin(number, true);
        }
        ever_held_ = ever_held_ || (there && room);
        unlock();
        if (!there)
            return -EFAULT;
        if (done)
            return 0;
        if (!room)
            continue;
        bool populated = populate(number * kPageblockPages, kPageblockPages);
        lock_.lock();
        if (!populated)
            buddy_.pin(number, false);
        for (uint32_t at = 0; at < kPageblockPages; at++)
            if ((clean[at / 64] >> (at % 64) & 1) != 0)
                buddy_.release(number * kPageblockPages + at, 1, true);
        unlock();
        return populated ? 0 : -ENOMEM;
    }
    return -ENOMEM;
}

bool zone::is_ordinary(uint32_t page) {
    lock_.lock();
    uint32_t number = page / kPageblockPages;
    bool begun = number == end_ / kPageblockPages; // the last pageblock, up to the end
    bool there = page < end_ &&
                 (begun || (buddy_.block(number).flags & (kBlockOrdinary | kBlockHugetlb)) != 0);
    unlock();
    return there;
}

void zone::unhold_block(uint32_t number) {
    lock_guard g(lock_);
    lock_guard r(reserve_.lock());
    unpin(number);
}

// Under the zone's lock and the reserve's.
void zone::unpin(uint32_t number) {
    if (reserve::has(number))
        reserve_.pin(number, false);
    else
        buddy_.pin(number, false);
}

bool zone::is_held(uint32_t first, uint32_t count) const {
    for (uint32_t n = first / kPageblockPages; n <= (first + count - 1) / kPageblockPages; n++)
        if (buddy_.block(n).pins != 0)
            return true;
    return false;
}

bool zone::let_go(uint64_t keep, bool may_wait) {
    const pagoda_dma_provider *provider = dma_provider();
    if (PAGODA_LIKELY(provider == nullptr) || !may_give_back() || !lock_as(may_wait))
        return false;
    bool locked = true;
    uint64_t released = 0; // pages
    uint32_t number = 0;
    for (uint64_t left = buddy_.held_blocks(may_wait); locked && left > 0; left--) {
        uint64_t kept = buddy_.purgeable_pages(may_wait);
        if ((kept - min_of(kept, released)) << kPageShift <= keep ||
            !buddy_.isolate_held(may_wait, &number))
            break;
        lock_.unlock();
        bool gone = provider->release(page_address(number * kPageblockPages), kPageblockSize);
        pageblock &b = buddy_.block(number);
        released += gone ? kPageblockPages : 0;
        locked = lock_as(may_wait);
        if (locked) {
            end_let_go(number, gone);
        } else {
            b.flags = static_cast<uint8_t>(b.flags | (gone ? 0 : kBlockRefused));
            b.pins = !gone; // no list has it, and it has no free pages
            b.purge_ended.store(purge_end::kept, std::memory_order_release);
            purges_left_.store(true, std::memory_order_seq_cst);
            leave_to_holder();
        }
    }
    if (locked)
        unlock();
    return released != 0;
}

void zone::end_let_go(uint32_t number, bool gone) {
    pageblock &b = buddy_.block(number);
    if (gone)
        buddy_.pin(number, false);
    else
        b.flags |= kBlockRefused;
    end_purge(number, purge_end::kept);
}

// One that somebody has set aside.
bool zone::let_go_block(uint32_t number) {
    if (!is_held(number * kPageblockPages, 1))
        return true;
    const pagoda_dma_provider *provider = dma_provider();
    if (provider == nullptr ||
        !provider->release(page_address(number * kPageblockPages), kPageblockSize))
        return false;
    unhold_block(number);
    return true;
}

void zone::forget_holds_in_child() {
    if (!ever_held_)
        return;
    for (uint32_t n = 0; n < (end_ + kPageblockPages - 1) / kPageblockPages; n++)
        if (buddy_.block(n).pins != 0)
            unpin(n);
    ever_held_ = false;
}

} // namespace pagoda
