// The kmem_caches that programs create: their layout, merging, and end.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

// kmem_cache_create's alignment of objects: what was asked for, 8 at least, and with
// SLAB_HWCACHE_ALIGN a cache line, halved while two objects fit into it.
uint32_t cache_alignment(slab_flags_t flags, uint32_t align, uint32_t size);

// Contracts in pagoda/slab.h. What is wrong with the arguments of cache_create(); NULL: nothing.
const char *cache_fault(const char *name, uint32_t size, const kmem_cache_args &args,
                        slab_flags_t flags);
// With arguments that are right; NULL when memory is short.
kmem_cache *cache_create(const char *name, uint32_t size, const kmem_cache_args &args,
                         slab_flags_t flags);
// The same for a part of something larger: never shared, and without sheaves, so that all its
// objects in use are known from its slabs. May hold objects larger than KMALLOC_MAX_SIZE.
kmem_cache *cache_create_private(const char *name, uint32_t size, uint32_t align);
// Ends a cache that is private, or that nobody has seen yet, with whatever is left in it. Waits for
// no grace period.
void cache_drop(kmem_cache *c);
void cache_destroy(kmem_cache *c);
bool cache_shrink(kmem_cache &c);

} // namespace pagoda
