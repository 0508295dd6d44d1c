// A 4-byte lock that spins briefly and then sleeps on a futex. Locks have ranks: a thread takes
// them in ascending order only, which debug builds check and fork relies on.
#pragma once

#include "hugepage/base.h"

#include <atomic>

namespace pagoda {

enum class lock_rank : uint8_t {
    growth,  // of the memory for devices, held while it is made reachable for them
    store,   // a cold store's, held while its keeper is asked
    hooks,   // lists of what reclaim calls; nothing is taken inside
    init,    // the once-only initialisation
    purge,   // one thread at a time gives memory back
    drain,   // one remote drainer at a time
    slots,   // thread slots where there is no rseq
    caches,  // the list of kmem_caches
    cache,   // a kmem_cache's slab lists (one lock per class)
    vmalloc, // areas and their address space
    zone,    // buddy
    reserve, // of a zone
    device,  // pages for devices
    meta,    // metadata of the layers above
    sheaves, // the pool of sheaves
    grace,   // grace periods
    maps,    // memfd pages and where they are mapped; several, never two at a time
    report,  // output, leaf
};

class mutex {
  public:
#if PAGODA_DEBUG
    constexpr explicit mutex(lock_rank rank) : rank_(rank) {}
#else
    constexpr explicit mutex(lock_rank) {
    } // all zeros: what holds it costs no page until it is used
#endif
    mutex(const mutex &) = delete;
    mutex &operator=(const mutex &) = delete;

    void lock() {
        check_order();
        uint32_t free = 0;
        if (PAGODA_UNLIKELY(!state_.compare_exchange_strong(free, 1, std::memory_order_acquire)))
            lock_contended();
        note_taken();
    }

    // Never waits: for signal handlers and GFP_ATOMIC.
    bool try_lock() {
        uint32_t free = 0;
        if (!state_.compare_exchange_strong(free, 1, std::memory_order_acquire))
            return false;
        note_taken();
        return true;
    }

    // Waits a moment for a holder who is about to be done, never sleeps: for frees, and what can be
    // done later as well. Any context.
    bool try_lock_briefly();

    void unlock() {
        note_released();
        if (PAGODA_UNLIKELY(state_.exchange(0, std::memory_order_release) == 2))
            wake();
    }

    // Around fork: several locks of one rank are taken, and the child starts with fresh ones.
    void lock_for_fork();
    void unlock_after_fork();
    void reset_in_child() { state_.store(0, std::memory_order_relaxed); }

    bool is_locked() const { return state_.load(std::memory_order_relaxed) != 0; }

  private:
    void lock_contended();
    void wake();
#if PAGODA_DEBUG
    void check_order() const;
    void note_taken();
    void note_released();
#else
    void check_order() const {}
    void note_taken() {}
    void note_released() {}
#endif

    std::atomic<uint32_t> state_{0}; // 0 free, 1 held, 2 held and somebody sleeps
#if PAGODA_DEBUG
    lock_rank rank_;
#endif
};

class lock_guard {
  public:
    explicit lock_guard(mutex &m) : m_(m) { m_.lock(); }
    ~lock_guard() { m_.unlock(); }
    lock_guard(const lock_guard &) = delete;
    lock_guard &operator=(const lock_guard &) = delete;

  private:
    mutex &m_;
};

} // namespace pagoda
