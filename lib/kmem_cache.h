// A cache of objects of one class: sheaves per CPU, the barn (sheaves in common), slabs or page
// runs behind. This file is the slow path of malloc and free for everything up to 1 MiB; the hot
// path is lib/percpu_x86.h. All of it may run in a signal handler that interrupted it: a nested
// entry is served without waiting (see lib/thread.h).
#pragma once

#include "hugepage/lock.h"
#include "hugepage/report.h"
#include "lib/percpu.h"
#include "lib/sheaf.h"
#include "lib/slab.h"

#include <pagoda/slab.h>

namespace pagoda {

// What kmem_cache_create() asked for beyond a size; a size class of malloc's has none.
struct cache_traits {
    slab_flags_t flags;
    uint64_t device_mask; // devices reach its pages at addresses up to this; 0: ordinary memory
    uint32_t object_size;
    uint32_t align;
    uint32_t lead; // bytes of each slot before the object: a red zone
    uint32_t references;
    void (*ctor)(void *);
    void (*dtor)(void *);
    kmem_cache *next; // on the list of caches without a page_class value
    char name[64];
};

struct kmem_cache {
    constexpr kmem_cache() = default;

    mutex lock{lock_rank::cache};
    uint8_t cls = 0; // its page_class value; kClassShared: no sheaves, every call takes the lock
    // The class whose word holds its sheaves; 0, whose word is empty and full, closes the hot path.
    uint8_t hot_cls = 0;
    class_info info = {};
    cache_traits *traits = nullptr;
    slab_lists partial;
    slab *all = nullptr;               // with traits: every slab
    uint64_t slabs = 0;                // slabs, or runs that exist
    uint64_t empty_slabs = 0;          // among them with no object in use
    uint64_t in_use = 0;               // objects out of the slabs: the program's and the sheaves'
    uint64_t served = 0;               // objects that ever left the slabs
    std::atomic<slab *> late{nullptr}; // slabs with frees that could not lock
    sheaf_stack barn;                  // full sheaves that no CPU keeps
};

// By page_class value: the size classes, then the kmem_caches that have one of their own.
extern PAGODA_INTERNAL kmem_cache g_caches[kLastUserClass + 1];
// One past the last value that was ever in use.
extern PAGODA_INTERNAL std::atomic<uint32_t> g_cache_end;

mutex &caches_list_lock();
kmem_cache *first_shared_cache(); // under the list's lock

// Every cache there is. Takes the list's lock.
template <class F> void for_each_cache(F fn) {
    lock_guard g(caches_list_lock());
    for (uint32_t cls = 1, end = g_cache_end.load(std::memory_order_acquire); cls < end; cls++)
        if (g_caches[cls].info.size != 0)
            fn(g_caches[cls]);
    for (kmem_cache *c = first_shared_cache(); c != nullptr; c = c->traits->next)
        fn(*c);
}

// The cache whose slab a pointer lies in; NULL for runs and whatever else is no slab's.
inline kmem_cache *cache_of_pointer(const void *p) {
    uint8_t cls = class_of_pointer(p);
    if (cls == kClassShared) {
        slab *s = page_at(static_cast<uint32_t>(page_index(p))).slab;
        return s != nullptr ? s->cache : nullptr;
    }
    bool is_slab = cls != kClassNone && cls <= kLastUserClass &&
                   (cls <= kSmallClasses || cls >= kFirstUserClass);
    return is_slab ? &g_caches[cls] : nullptr;
}

// "kmalloc-64" into a line.
text &operator<<(text &t, const kmem_cache &c);

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

// An object of a cache without a page_class value: from and to its slabs, past the sheaves.
// `caller`: for SLAB_STORE_USER.
void *shared_alloc(kmem_cache &c, gfp_t gfp, const void *caller);
void shared_free(void *object, gfp_t gfp, const void *caller);

void caches_lock_for_fork();
void caches_unlock_after_fork(bool child);

} // namespace pagoda
