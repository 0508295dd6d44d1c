// A cache of objects of one class: sheaves per CPU, the barn (sheaves in common), slabs or page
// runs behind. This file is the slow path of malloc and free for everything up to 1 MiB; the hot
// path is lib/percpu_x86.h. All of it may run in a signal handler that interrupted it: a nested
// entry is served without waiting (see lib/thread.h).
#pragma once

#include "hugepage/lock.h"
#include "lib/percpu.h"
#include "lib/sheaf.h"
#include "lib/slab.h"

#include <pagoda/gfp.h>

namespace pagoda {

struct kmem_cache {
    constexpr kmem_cache() = default;

    mutex lock{lock_rank::cache};
    uint8_t cls = 0;
    class_info info = {};
    slab_lists partial;
    uint64_t slabs = 0;                // slabs, or runs that exist
    uint64_t empty_slabs = 0;          // among them with no object in use
    uint64_t in_use = 0;               // objects out of the slabs: the program's and the sheaves'
    uint64_t served = 0;               // objects that ever left the slabs
    std::atomic<slab *> late{nullptr}; // slabs with frees that could not lock
    sheaf_stack barn;                  // full sheaves that no CPU keeps
};

extern PAGODA_INTERNAL kmem_cache g_caches[kLastClass + 1];

void caches_init();

// One object, NULL when memory is short (or, with flags that may not block, when it would have to
// wait). Never sets errno.
void *cache_alloc(unsigned cls, gfp_t gfp);

// Takes an object back. Reports double and invalid frees as far as it sees them here.
void cache_free(unsigned cls, void *object, gfp_t gfp);

// Empties the sheaves of this CPU into the slabs, by the operations that any thread there uses.
void cache_drain_this_cpu();

// Empties a thread's own slot into the slabs (no rseq: at thread exit).
void cache_drain_own_slot(char *slot);

// Returns a sheaf's objects to the slabs and the sheaf to the pool. Blocking.
void cache_flush_sheaf(kmem_cache &c, uint32_t top);

// Gives empty slabs kept for reuse back to the zone. Returns how many.
uint64_t caches_release_empty();

void caches_lock_for_fork();
void caches_unlock_after_fork(bool child);

} // namespace pagoda
