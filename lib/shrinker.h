// The registered shrinkers, and one step of reclaim over them. The arithmetic is the kernel's; see
// include/pagoda/shrinker.h.
#pragma once

#include "hugepage/lock.h"

#include <pagoda/gfp.h>

namespace pagoda {

// Reclaim begins with a small part of every shrinker's objects and ends with all of them.
inline constexpr int kFirstPriority = 12;

struct shrink_result {
    uint64_t freed;    // objects, as the shrinkers say
    uint64_t freeable; // objects that there were
};

// Calls every shrinker that these flags allow. Not inside a slow_path, and with
// PAGODA_SCOPE_NORECLAIM open.
shrink_result shrink_all(gfp_t gfp, int priority);

bool shrinkers_registered();

// Objects to look at now, of `freeable`, with `deferred` ones left over from earlier calls.
uint64_t shrink_share(uint64_t freeable, uint64_t deferred, int priority, int seeks);

mutex &shrinkers_lock();
// Forgets the callbacks that ran on the parent's other threads.
void shrinkers_after_fork_in_child();

} // namespace pagoda
