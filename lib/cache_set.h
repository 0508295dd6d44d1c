// A set of kmem_caches, one per size class, made as they are needed: what kmem_buckets and heaps of
// one's own are made of.
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

class cache_set {
  public:
    // For every size up to 128 MiB, in the steps of lib/size_class.h.
    static constexpr size_t kMaxSize = size_t{128} << 20;

    // The cache for `size` bytes, 0 < size <= kMaxSize; `make`(name of the class, its bytes) where
    // there is none yet. NULL: that failed, or the flags may not block.
    template <class Make> kmem_cache *cache_for(size_t size, gfp_t gfp, Make make) {
        std::atomic<kmem_cache *> &at = caches_[kmalloc_class(size)];
        kmem_cache *c = at.load(std::memory_order_acquire);
        if (PAGODA_LIKELY(c != nullptr) || !gfpflags_allow_blocking(gfp))
            return c;
        return add(at, make(static_cast<uint32_t>(class_size(kmalloc_class(size)))));
    }
    template <class F> void for_each(F fn) {
        for (std::atomic<kmem_cache *> &at : caches_)
            if (kmem_cache *c = at.load(std::memory_order_acquire))
                fn(*c);
    }

  private:
    kmem_cache *add(std::atomic<kmem_cache *> &at, kmem_cache *made);
    std::atomic<kmem_cache *> caches_[170];
};
static_assert(class_for_size(cache_set::kMaxSize) == 169);

} // namespace pagoda
