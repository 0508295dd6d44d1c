#include "hugepage/lock.h"

#include "hugepage/sys.h"

namespace pagoda {

static inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void mutex::lock_contended() {
    for (int spin = 0; spin < 100; spin++) {
        uint32_t free = 0;
        if (state_.load(std::memory_order_relaxed) == 0 &&
            state_.compare_exchange_weak(free, 1, std::memory_order_acquire))
            return;
        relax();
    }
    while (state_.exchange(2, std::memory_order_acquire) != 0)
        sys::futex_wait(state_, 2);
}

bool mutex::try_lock_briefly() {
    for (int spin = 0; spin < 100; spin++) {
        if (!is_locked() && try_lock())
            return true;
        relax();
    }
    return false;
}

void mutex::wake() { sys::futex_wake(state_, 1); }

void mutex::lock_for_fork() {
    uint32_t free = 0;
    if (!state_.compare_exchange_strong(free, 1, std::memory_order_acquire))
        lock_contended();
}

void mutex::unlock_after_fork() {
    if (state_.exchange(0, std::memory_order_release) == 2)
        wake();
}

#if PAGODA_DEBUG
// Four bits per rank: how many locks of it this thread holds. A signal handler that interrupted a
// holder may take another of the same rank by try_lock().
using rank_counts = unsigned __int128;
static thread_local rank_counts held_ranks __attribute__((tls_model("initial-exec")));
static_assert(4 * static_cast<unsigned>(lock_rank::report) < 8 * sizeof held_ranks);

void mutex::check_order() const {
    PAGODA_INVARIANT(held_ranks >> (4 * static_cast<unsigned>(rank_)) == 0);
}
void mutex::note_taken() { held_ranks += rank_counts{1} << (4 * static_cast<unsigned>(rank_)); }
void mutex::note_released() {
    PAGODA_INVARIANT((held_ranks >> (4 * static_cast<unsigned>(rank_)) & 15) != 0);
    held_ranks -= rank_counts{1} << (4 * static_cast<unsigned>(rank_));
}
#endif

} // namespace pagoda
