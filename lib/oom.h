// The out-of-memory notifiers: the last resort of reclaim. See include/pagoda/shrinker.h.
#pragma once

#include "hugepage/lock.h"

namespace pagoda {

// Calls the chain and returns the pages that it says it freed; where another thread is at it, waits
// for that one and returns 1. Not inside a slow_path, and with PAGODA_SCOPE_NORECLAIM open.
uint64_t call_oom_notifiers();

mutex &oom_lock();
void oom_after_fork_in_child();

} // namespace pagoda
