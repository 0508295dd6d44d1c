// The kmem_cache functions of pagoda/slab.h that hand objects out and take them back. Their hit
// path is malloc's: one restartable sequence on the cache's own word.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

// One object of a cache, whatever kind; the whole slow path of kmem_cache_alloc.
void *cache_alloc_object(kmem_cache &c, gfp_t gfp, const void *caller);
// One back. Reports an object of another cache and leaks it.
void cache_free_object(kmem_cache &c, void *object, const void *caller);

} // namespace pagoda
