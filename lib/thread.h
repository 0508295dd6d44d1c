// Marks a thread as being in a slow path. A second entry on the same thread can only be a signal
// handler (or a callback of libc's that allocates): it is served as GFP_ATOMIC, without waiting.
#pragma once

#include "hugepage/base.h"
#include "hugepage/watermark.h"
#include "lib/percpu.h"
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
        t_thread.depth--;
    }
    slow_path(const slow_path &) = delete;
    slow_path &operator=(const slow_path &) = delete;

    bool nested() const { return nested_; }
    // The flags to go on with.
    gfp_t limit(gfp_t gfp) const {
        if (!nested_)
            return gfp;
        gfp_t fault = gfpflags_allow_blocking(gfp) ? kGfpMayFault : 0;
        return (gfp & ~(__GFP_RECLAIM | __GFP_IO | __GFP_FS)) | GFP_ATOMIC | fault;
    }

  private:
    bool nested_;
};

} // namespace pagoda
