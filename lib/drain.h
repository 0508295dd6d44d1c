// Objects in other CPUs' sheaves: taking them back, counting them, and looking for objects that are
// free twice.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

// Takes the sheaves of every CPU and of the barn back, returns all objects to their slabs and the
// empty slabs to the zone. Double frees still hidden in sheaves are reported. Where there is no
// rseq only this thread's own sheaves are taken; where there are other threads and no membarrier,
// or a seccomp filter that may forbid it, only those of this CPU and of the barn. Blocking; one
// caller at a time. True: nothing is left in any sheaf that nobody used meanwhile.
bool caches_drain();

// The same for when memory is short: of the CPUs' sheaves only this CPU's, by no other call than
// those that give memory back.
void caches_reclaim();

// Objects that wait in sheaves. Exact when nobody allocates meanwhile.
uint64_t cache_cached(const kmem_cache &c);

// Looks for objects that are free twice (in two sheaves, or in a sheaf and in their slab) without
// taking any; other threads may go on. Returns how many it reported; without memory for its notes
// it sees nothing. Blocking.
uint64_t caches_audit();

// False: this process never had a second thread.
bool maybe_multithreaded();

mutex &drain_lock();

} // namespace pagoda
