// The slab side of a kmem_cache: objects to and from its slabs, under its lock, which a free never
// waits for.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

// Up to `want` objects into out[], lowest addresses first within a slab. Zero when memory is short,
// or when the flags forbid to wait for the lock.
uint32_t take_from_slabs(kmem_cache &c, void **out, uint32_t want, gfp_t gfp);

// Returns objects to their slabs; slabs that become surplus go back to the zone. Where the flags
// may not block, or the lock stays taken, the objects are left to its next holder.
void give_to_slabs(kmem_cache &c, void *const *objects, uint32_t count, gfp_t gfp);

// Gives empty slabs beyond `keep` back to the zone, whatever the cache's flags say. Returns how
// many. Blocking.
uint64_t slabs_release(kmem_cache &c, uint64_t keep);

// Calls fn for every object in use of a cache without sheaves, under its lock: fn must not come
// back to the cache.
void slabs_walk(kmem_cache &c, void (*fn)(void *object, size_t size, void *arg), void *arg);
// All its slabs are somebody else's business, with what is in use of them.
void cache_forget_slabs(kmem_cache &c);
// Gives all its slabs back, objects in use or not. Nobody uses the cache any more. Blocking.
void slabs_drop(kmem_cache &c);

} // namespace pagoda
