#include "lib/scope.h"

#include "hugepage/report.h"
#include "lib/gfp_words.h"
#include "lib/thread_slot.h"

#include <atomic>

namespace pagoda {

gfp_t apply_scopes(gfp_t gfp, unsigned scopes) {
    if ((scopes & kScopeAtomic) != 0)
        gfp = as_atomic(gfp);
    if ((scopes & PAGODA_SCOPE_NOIO) != 0)
        gfp &= ~(__GFP_IO | __GFP_FS);
    if ((scopes & PAGODA_SCOPE_NOFS) != 0)
        gfp &= ~__GFP_FS;
    if ((scopes & PAGODA_SCOPE_NORECLAIM) != 0 && (gfp & __GFP_NOMEMALLOC) == 0)
        gfp |= __GFP_MEMALLOC;
    return gfp;
}

void report_blocking(gfp_t gfp) {
    static std::atomic<bool> said[2];
    bool in_scope = (t_thread.scopes & kScopeAtomic) != 0;
    if (!in_scope && t_thread.slot_state == kGettingSlot)
        return; // libc, which we called ourselves
    if (said[in_scope].exchange(true))
        return;
    text_buffer<256> line;
    line << "a blocking allocation (";
    describe_gfp(line, gfp);
    line << (in_scope ? ") between pagoda_atomic_begin and pagoda_atomic_end"
                      : ") in a signal handler that interrupted the allocator")
         << " is served as GFP_ATOMIC";
    warn(line);
}

} // namespace pagoda

using pagoda::kScopeAtomic;
using pagoda::t_thread;

PAGODA_EXPORT unsigned int pagoda_memalloc_save(unsigned int scopes) {
    unsigned known = PAGODA_SCOPE_NOIO | PAGODA_SCOPE_NOFS | PAGODA_SCOPE_NORECLAIM;
    unsigned opened = scopes & known & ~unsigned{t_thread.scopes};
    t_thread.scopes = static_cast<uint8_t>(t_thread.scopes | opened);
    return opened;
}

PAGODA_EXPORT void pagoda_memalloc_restore(unsigned int opened) {
    t_thread.scopes = static_cast<uint8_t>(t_thread.scopes & (~opened | kScopeAtomic));
}

PAGODA_EXPORT void pagoda_atomic_begin(void) {
    t_thread.atomics++;
    t_thread.scopes |= kScopeAtomic;
}

PAGODA_EXPORT void pagoda_atomic_end(void) {
    if (t_thread.atomics == 0)
        return;
    if (--t_thread.atomics == 0)
        t_thread.scopes = static_cast<uint8_t>(t_thread.scopes & ~kScopeAtomic);
}
