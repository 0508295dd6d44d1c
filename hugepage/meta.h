// Metadata of the layers above (slab records, vmalloc areas): small zeroed pieces in a window of
// their own, out of reach of stray writes to objects. Never given back to the kernel, reused by
// size.
#pragma once

#include "hugepage/base.h"
#include "hugepage/lock.h"

#include <pagoda/gfp.h>

namespace pagoda {

inline constexpr size_t kMetaMax = 2048;

// A zeroed piece of `bytes` (<= kMetaMax), 64-byte aligned; NULL at a limit, or when the lock is
// taken and the flags do not allow to wait.
void *meta_alloc(size_t bytes, gfp_t gfp);
// Returns it; `bytes` as at allocation. Never waits: any context.
void meta_free(void *piece, size_t bytes);

// From now on the window holds memory, and blocking callers keep so many bytes beyond what was ever
// used for those who may not wait.
void meta_keep_stock(size_t bytes);

mutex &meta_lock();

} // namespace pagoda
