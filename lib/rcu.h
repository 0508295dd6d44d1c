// Grace periods: what is deferred here is dealt with when every read-side section that was open has
// ended. The default counts sections in two sets that readers enter by turns (as SRCU): any thread,
// any context, no registration, no system call; pagoda_rcu_set_ops() puts another in its place.
//
// There is no thread of our own: grace periods end when somebody defers more, allocates in a slow
// path that may block, or asks for it.
#pragma once

#include "hugepage/lock.h"
#include "lib/rcu_item.h"

#include <pagoda/gfp.h>

namespace pagoda {

// item->done(item) after a grace period, on any thread, in a context that may block. Any context,
// never waits.
void rcu_defer(rcu_item *item, void (*done)(rcu_item *item));

// Deals with whatever grace periods have ended meanwhile. Blocking context, no locks held.
void rcu_poll();

// The same from an allocation with these flags.
inline void rcu_poll_if_blocking(gfp_t gfp) {
    if (gfpflags_allow_blocking(gfp))
        rcu_poll();
}

// Waits until everything deferred before is dealt with. Not inside a section. Blocking.
void rcu_barrier();

// Items that wait.
uint64_t rcu_waiting();

mutex &rcu_lock();
void rcu_after_fork_in_child();

} // namespace pagoda
