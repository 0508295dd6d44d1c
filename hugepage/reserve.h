// The reserve of a zone: pageblocks of its own, populated, from which allocations that may not
// block are served when the zone itself has no backed pages left. It has a lock of its own, so that
// whoever holds the zone's does not stand between GFP_ATOMIC and the reserve. A page that came from
// a reserved pageblock goes back to it.
#pragma once

#include "hugepage/buddy.h"
#include "hugepage/lock.h"
#include "hugepage/watermark.h"

namespace pagoda {

inline constexpr uint64_t kDefaultReserve = uint64_t{2} << 20;

class reserve {
  public:
    // What it shall hold; a whole number of pageblocks.
    void set_target(uint64_t pages) { target_.store(pages, std::memory_order_relaxed); }
    uint64_t target() const { return target_.load(std::memory_order_relaxed); }
    uint64_t free_pages() const { return free_.load(std::memory_order_relaxed); }
    bool is_short() const { return free_pages() < target(); }

    // `count` pages in a row, aligned to 2^align_order, as far as the flags allow. Never waits.
    uint32_t alloc(uint32_t count, unsigned align_order, gfp_t gfp);
    // False: another thread is at it. Never waits.
    bool free(uint32_t first, uint32_t count);
    // Pages of this pageblock come back here. True for as long as one of them is out.
    static bool has(uint32_t block);

    // A whole pageblock, populated, becomes part of it: it is to be freed next.
    void add(uint32_t block);
    // A wholly free pageblock that is not needed leaves; kNoPage: none, or another thread is at it.
    uint32_t take_surplus();

    // Holds a pageblock of which a page is out, or ends that. Under the lock.
    void pin(uint32_t block, bool held);

    // Whoever gets true refills the reserve, and says so when he is done.
    bool begin_refill() { return !refilling_.exchange(true, std::memory_order_acquire); }
    void end_refill() { refilling_.store(false, std::memory_order_release); }

    mutex &lock() { return lock_; }
    void after_fork_in_child() { refilling_.store(false, std::memory_order_relaxed); }
    bool consistent(uint32_t blocks);

  private:
    mutex lock_{lock_rank::reserve};
    buddy buddy_;
    std::atomic<uint64_t> target_{0};
    std::atomic<uint64_t> free_{0};
    std::atomic<bool> refilling_{false};
};

} // namespace pagoda
