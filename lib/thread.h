// Marks a thread as being in a slow path. A second entry on the same thread can only be a signal
// handler (or a callback of libc's that allocates): it is served as GFP_ATOMIC, without waiting.
#pragma once

#include "hugepage/base.h"
#include "hugepage/watermark.h"
#include "hugepage/zone.h"
#include "lib/percpu.h"
#include "lib/scope.h"
#include "lib/thread_slot.h"

#include <pagoda/gfp.h>

namespace pagoda {

class slow_path {
  public:
    slow_path() : nested_(t_thread.depth++ != 0) {
        // The mark must be visible to a handler before anything else happens.
        std::atomic_signal_fence(std::memory_order_seq_cst);
        if (!nested_ && !percpu::has_rseq())
            thread_slot_enter();
    }
    ~slow_path() {
        std::atomic_signal_fence(std::memory_order_seq_cst);
        if (PAGODA_UNLIKELY(keeps_memory_))
            t_keeps_memory--;
        t_thread.depth--;
    }
    slow_path(const slow_path &) = delete;
    slow_path &operator=(const slow_path &) = delete;

    bool nested() const { return nested_; }
    // The flags to go on with. Without __GFP_IO nothing is given back to the system till the end of
    // this scope. A handler that asked for memory that may block gets such as may fault.
    gfp_t limit(gfp_t gfp) {
        if (nested_)
            gfp = as_atomic(gfp) | (gfpflags_allow_blocking(gfp) ? kGfpMayFault : 0);
        else
            gfp = scoped_gfp(gfp);
        if (PAGODA_UNLIKELY((gfp & (__GFP_DIRECT_RECLAIM | __GFP_IO)) == __GFP_DIRECT_RECLAIM) &&
            !keeps_memory_) {
            keeps_memory_ = true;
            t_keeps_memory++;
        }
        return gfp;
    }

  private:
    bool nested_;
    bool keeps_memory_ = false;
};

} // namespace pagoda
