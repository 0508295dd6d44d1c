// A hook of the program's that makes allocations fail, for its tests (pagoda/pagoda.h).
#pragma once

#include "hugepage/base.h"

#include <pagoda/pagoda.h>

#include <atomic>

namespace pagoda {

extern PAGODA_INTERNAL std::atomic<pagoda_failure_hook *> g_failure_hook;
bool failure_hook_says(size_t size, gfp_t gfp);

// Asked before every allocation that enters a slow path, which with a hook is every one.
inline bool must_fail(size_t size, gfp_t gfp) {
    return PAGODA_UNLIKELY(g_failure_hook.load(std::memory_order_relaxed) != nullptr) &&
           failure_hook_says(size, gfp);
}

} // namespace pagoda
