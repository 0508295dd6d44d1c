// Direct reclaim: what a blocking allocation does when memory is short. The allocators below try
// once (growing, and taking back what caches keep); this decides by the flags whether and how often
// to try again, and calls the shrinkers in between.
#pragma once

#include "lib/alloc_failure.h"
#include "lib/failure_hook.h"
#include "lib/scope.h"

#include <atomic>

namespace pagoda {

// How often an allocation that failed is tried again.
struct retry_rule {
    uint8_t rounds;   // over the shrinkers, at most; 0: none, it has failed
    uint8_t idle;     // rounds in a row that may free nothing
    bool waits;       // after such a round, for memory that others free
    bool last_resort; // calls the out-of-memory notifiers before it fails
    bool for_ever;
};
// By the flags, with scopes applied, and the size: above 32 KiB an allocation is costly.
retry_rule retry_rule_for(gfp_t gfp, uint64_t bytes);

// What scopes, and an interrupted slow path, leave of the flags.
inline gfp_t gfp_now(gfp_t gfp) { return t_thread.depth != 0 ? as_atomic(gfp) : scoped_gfp(gfp); }

// One allocation's attempts. Not inside a slow_path: shrinkers free memory.
class reclaim_loop {
  public:
    reclaim_loop(gfp_t gfp, uint64_t bytes);
    // After a failed attempt: true when another one is worth it. False has reported the failure
    // unless __GFP_NOWARN.
    bool again();

  private:
    bool shrink_step();
    bool end_round();

    gfp_t gfp_;
    uint64_t bytes_;
    retry_rule rule_;
    int8_t priority_;
    uint8_t idle_ = 0;
    uint8_t resorts_ = 0;
    bool drained_ = false;
    bool progress_ = false;
    uint32_t seen_; // free events before the last attempt
};

// Threads that wait until memory is free.
extern PAGODA_INTERNAL std::atomic<uint32_t> g_memory_waiters;
void wake_memory_waiters();
// Those of the parent's other threads do not wait here.
void reclaim_after_fork_in_child();
// After a free that took a slow path, still inside it. A free that did not, or may make no system
// call, is found by the waiters themselves a little later.
inline void note_freed(gfp_t gfp) {
    if (PAGODA_UNLIKELY(g_memory_waiters.load(std::memory_order_relaxed) != 0) &&
        gfpflags_allow_blocking(gfp))
        wake_memory_waiters();
}

struct reclaim_stats {
    uint64_t rounds; // over the shrinkers, from the lowest priority on
    uint64_t freed;  // objects, as the shrinkers say
    uint64_t waits;
};
reclaim_stats reclaim_get_stats();

// attempt() until it succeeds or the flags say that it failed. attempt marks its own slow_path.
template <class Attempt> auto with_reclaim(gfp_t gfp, uint64_t bytes, Attempt attempt) {
    might_alloc(gfp);
    if (PAGODA_UNLIKELY(alloc_failure_waits()) && gfpflags_allow_blocking(gfp_now(gfp)))
        write_alloc_failure();
    if (must_fail(bytes, gfp))
        return decltype(attempt()){};
    auto result = attempt();
    if (PAGODA_LIKELY(static_cast<bool>(result)))
        return result;
    reclaim_loop loop(gfp, bytes);
    while (!result && loop.again())
        result = attempt();
    return result;
}

} // namespace pagoda
