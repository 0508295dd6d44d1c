#include "lib/cache_set.h"

#include "hugepage/meta.h"
#include "lib/cache_api.h"
#include "lib/cache_list.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/reclaim.h"
#include "lib/slab_cache.h"
#include "lib/thread.h"

#include <pagoda/pagoda.h>

#include <string.h>

namespace pagoda {

kmem_cache *cache_set::add(std::atomic<kmem_cache *> &at, kmem_cache *made) {
    kmem_cache *first = nullptr;
    if (made == nullptr || at.compare_exchange_strong(first, made, std::memory_order_acq_rel))
        return made;
    cache_drop(made); // another thread was faster
    return first;
}

namespace {

constexpr size_t kNameMax = 40; // leaves room for the class

// "requests-64"
struct class_name : text_buffer<64> {
    class_name(const char *name, uint32_t size) { *this << name << '-' << size << '\0'; }
};

struct named_set {
    cache_set set;
    void (*ctor)(void *);
    slab_flags_t flags;
    char name[kNameMax];
};
static_assert(sizeof(named_set) <= kMetaMax);

named_set *create_set(const char *name) {
    if (name == nullptr || name[0] == 0 || strchr(name, ' ') != nullptr ||
        !kernel_api_enter(GFP_KERNEL))
        return nullptr;
    return with_reclaim(GFP_KERNEL, sizeof(named_set), [&] {
        slow_path scope;
        auto *s = static_cast<named_set *>(meta_alloc(sizeof(named_set), scope.limit(GFP_KERNEL)));
        if (s != nullptr)
            strncpy(s->name, name, sizeof s->name - 1);
        return s;
    });
}

named_set *internal(pagoda_kmem_buckets *b) { return reinterpret_cast<named_set *>(b); }
named_set *internal(pagoda_heap *h) { return reinterpret_cast<named_set *>(h); }

} // namespace

PAGODA_EXPORT kmem_buckets *pagoda_kmem_buckets_create(const char *name, slab_flags_t flags,
                                                       unsigned int, unsigned int,
                                                       void (*ctor)(void *)) {
    kmem_cache_args args = {};
    args.ctor = ctor;
    named_set *s = cache_fault(name, 8, args, flags) == nullptr ? create_set(name) : nullptr;
    if (s != nullptr) {
        s->flags = flags;
        s->ctor = ctor;
    }
    return reinterpret_cast<kmem_buckets *>(s);
}

PAGODA_EXPORT void *pagoda_kmem_buckets_alloc(kmem_buckets *buckets, size_t size, gfp_t flags) {
    if (buckets == nullptr || size > KMALLOC_MAX_CACHE_SIZE) // as the kernel: large ones are pages
        return pagoda_kmalloc(size, flags);
    if (size == 0)
        return ZERO_SIZE_PTR;
    named_set *s = internal(buckets);
    kmem_cache *c = s->set.cache_for(size, flags, [&](uint32_t bytes) {
        kmem_cache_args args = {};
        args.align = bytes & -bytes;
        args.ctor = s->ctor;
        return cache_create(class_name(s->name, bytes).data(), bytes, args,
                            s->flags | SLAB_NO_MERGE);
    });
    return c == nullptr ? nullptr
                        : pagoda_kmem_cache_alloc(reinterpret_cast<::kmem_cache *>(c), flags);
}

PAGODA_EXPORT pagoda_heap *pagoda_heap_create(const char *name) {
    return reinterpret_cast<pagoda_heap *>(create_set(name));
}

PAGODA_EXPORT void *pagoda_heap_alloc(pagoda_heap *heap, size_t size, gfp_t flags) {
    static_assert(PAGODA_HEAP_MAX == cache_set::kMaxSize);
    if (size == 0 || size > cache_set::kMaxSize)
        return nullptr;
    named_set *s = internal(heap);
    kmem_cache *c = s->set.cache_for(size, flags, [&](uint32_t bytes) {
        return cache_create_private(class_name(s->name, bytes).data(), bytes,
                                    min_of<uint32_t>(bytes & -bytes, kPageblockSize));
    });
    return c == nullptr ? nullptr : cache_alloc_object(*c, flags, __builtin_return_address(0));
}

PAGODA_EXPORT void pagoda_heap_free(void *block) { heap_free(block, GFP_KERNEL); }

PAGODA_EXPORT void pagoda_heap_walk(pagoda_heap *heap, void (*visit)(void *, size_t, void *),
                                    void *argument) {
    slow_path scope;
    if (!scope.nested())
        internal(heap)->set.for_each([&](kmem_cache &c) { slabs_walk(c, visit, argument); });
}

PAGODA_EXPORT void pagoda_heap_destroy(pagoda_heap *heap) {
    if (heap == nullptr)
        return;
    internal(heap)->set.for_each([](kmem_cache &c) { cache_drop(&c); });
    slow_path scope;
    meta_free(internal(heap), sizeof(named_set));
}

} // namespace pagoda
