// Direct reclaim: what a blocking allocation does when memory is short. The allocators below try
// once (growing, and taking back what caches keep); this decides by the flags whether and how often
// to try again, and calls the shrinkers in between.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

namespace pagoda {

// The flags with the calling thread's scopes (memalloc_noio_save and friends) applied.
gfp_t current_gfp(gfp_t gfp);

// One allocation's attempts. Not inside a slow_path scope: shrinkers free memory.
class reclaim_loop {
  public:
    // `bytes`: of the allocation, for the costly-order rule and the failure report.
    reclaim_loop(gfp_t gfp, uint64_t bytes) : gfp_(gfp), bytes_(bytes) {}
    // After a failed attempt: true when another one is worth it. False has reported the failure
    // unless __GFP_NOWARN.
    bool again();

  private:
    gfp_t gfp_;
    uint64_t bytes_;
    unsigned round_ = 0;
};

// attempt() until it succeeds or the flags say that it failed. attempt marks its own slow_path.
template <class Attempt> auto with_reclaim(gfp_t gfp, uint64_t bytes, Attempt attempt) {
    auto result = attempt();
    if (PAGODA_LIKELY(static_cast<bool>(result)))
        return result;
    reclaim_loop loop(gfp, bytes);
    while (!result && loop.again())
        result = attempt();
    return result;
}

} // namespace pagoda
