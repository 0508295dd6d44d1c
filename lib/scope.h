// What the calling thread has opened around its allocations: pagoda_memalloc_save's scopes and
// pagoda_atomic_begin.
#pragma once

#include "hugepage/base.h"
#include "hugepage/options.h"
#include "lib/percpu.h"

#include <pagoda/gfp.h>

namespace pagoda {

// In thread_state::scopes, beside the PAGODA_SCOPE_* bits: atomics is not zero.
inline constexpr uint8_t kScopeAtomic = 0x80;

// Flags that may block become GFP_ATOMIC's; the others stay as they are.
inline gfp_t as_atomic(gfp_t gfp) {
    return gfpflags_allow_blocking(gfp)
               ? (gfp & ~(__GFP_RECLAIM | __GFP_IO | __GFP_FS | __GFP_NOFAIL)) | GFP_ATOMIC
               : gfp;
}

// The flags with these scopes applied.
gfp_t apply_scopes(gfp_t gfp, unsigned scopes);

inline gfp_t scoped_gfp(gfp_t gfp) {
    return PAGODA_LIKELY(t_thread.scopes == 0) ? gfp : apply_scopes(gfp, t_thread.scopes);
}

// Debug builds: reports, once each, a blocking allocation in an atomic scope and one in a handler
// that interrupted the allocator.
void report_blocking(gfp_t gfp);
inline void might_alloc(gfp_t gfp) {
    if (kDebug && gfpflags_allow_blocking(gfp) &&
        (t_thread.depth != 0 || (t_thread.scopes & kScopeAtomic) != 0))
        report_blocking(gfp);
}

// The flags of an allocation with the calling thread's scopes, and the options, applied.
inline gfp_t current_gfp(gfp_t gfp) {
    might_alloc(gfp);
    return scoped_gfp(gfp) | (PAGODA_UNLIKELY(options().init_on_alloc) ? __GFP_ZERO : 0);
}

} // namespace pagoda
