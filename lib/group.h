// Groups that accounted allocations are charged to (pagoda/pagoda.h).
#pragma once

#include "lib/kmem_cache.h"

#include <pagoda/pagoda.h>

namespace pagoda {

struct group {
    std::atomic<uint64_t> usage;
    std::atomic<uint64_t> peak;
    std::atomic<uint64_t> limit;
    std::atomic<uint64_t> failures;
    std::atomic<uint64_t> references; // its creator's and one per charged object
    char name[64];
};

// The calling thread's; NULL: it charges nothing.
group *current_group();

// One object of `bytes` more; false at the limit. NULL is always charged, and without a call to
// code that malloc does not need otherwise.
bool charge_to(group &g, uint64_t bytes);
void uncharge_from(group &g, uint64_t bytes);
inline bool group_charge(group *g, uint64_t bytes) {
    return PAGODA_LIKELY(g == nullptr) || charge_to(*g, bytes);
}
inline void group_uncharge(group *g, uint64_t bytes) {
    if (PAGODA_UNLIKELY(g != nullptr))
        uncharge_from(*g, bytes);
}
// A group in 32 bits; 0 is NULL.
uint32_t group_number(const group *g);
group *group_of_number(uint32_t number);

// Who pays for an object of a cache without sheaves. The objects that are paid for are the callers'
// own; `set` is false where there is no memory for the note.
bool group_set_owner(const slab_position &at, group *payer, gfp_t gfp);
group *group_owner(const slab_position &at);
// The one who paid for an object that goes.
group *group_take_owner(const slab_position &at);
// Of a slab that goes, with nobody charged.
void group_drop_owners(slab *s);

// kmalloc of `size` bytes that is charged to current_group(), which is not NULL.
void *accounted_alloc(size_t size, gfp_t gfp);

// The page run that kmalloc makes of so many bytes, and one whose `payer` is charged for it; NULL:
// nobody is.
struct run_shape {
    uint32_t pages;
    unsigned align_order;
};
run_shape natural_run(size_t size);
void *owned_run(size_t size, gfp_t gfp, group *payer);

// The cache that serves a cache's accounted allocations: itself if it has no sheaves, or one of the
// same layout without, made on first use. NULL: that failed.
kmem_cache *accounted_twin(kmem_cache &c, gfp_t gfp);
// c has no twin any more; returns the one it had.
kmem_cache *forget_twin(kmem_cache &c);
// Whether `object_cache` is c or its twin.
bool is_cache_or_twin(const kmem_cache &c, const kmem_cache *object_cache);

} // namespace pagoda
