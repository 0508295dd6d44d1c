#include "lib/cache_api.h"

#include "hugepage/sys.h"
#include "lib/cache_list.h"
#include "lib/debug_marks.h"
#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/heap.h"
#include "lib/hold.h"
#include "lib/kernel_api.h"
#include "lib/percpu_x86.h"
#include "lib/rcu.h"
#include "lib/reclaim.h"
#include "lib/thread.h"

#include <errno.h>
#include <string.h>

// The private array of kmem_cache_prefill_sheaf().
struct slab_sheaf {
    uint32_t size;
    uint32_t capacity;
    void *objects[];
};

namespace pagoda {
namespace {

kmem_cache &internal(::kmem_cache *c) { return *reinterpret_cast<kmem_cache *>(c); }

void warn_ctor_and_zero(const kmem_cache &c) {
    static std::atomic<bool> warned{false};
    if (warned.exchange(true))
        return;
    text_buffer<160> t;
    t << "kmem_cache " << c << ": __GFP_ZERO would undo its constructor; ignored";
    warn(t);
}

void report_wrong_cache(const kmem_cache &c, const void *object) {
    text_buffer<256> t;
    t << "kmem_cache_free " << c << ": " << object << " is an object of ";
    if (const kmem_cache *other = cache_of_pointer(object))
        t << "cache " << *other;
    else
        t << "no cache";
    t << "; it is leaked";
    misuse(t);
}

// Two of a name make reports and statistics hard to read; both serve. Pools of several devices are
// often alike.
void warn_of_namesake(const char *name, const kmem_cache_args &args) {
    static std::atomic<bool> warned{false};
    slow_path scope;
    if (args.device_mask != 0 || warned.load(std::memory_order_relaxed) || scope.nested())
        return;
    bool seen = false;
    for_each_cache([&](const kmem_cache &c) {
        seen = seen || (c.traits != nullptr &&
                        strncmp(c.traits->name, name, sizeof c.traits->name - 1) == 0);
    });
    if (!seen || warned.exchange(true))
        return;
    text_buffer<200> t;
    t << "kmem_cache_create " << name
      << ": there is a cache of this name; further ones like it are not mentioned";
    warn(t);
}

} // namespace

void *cache_alloc_object(kmem_cache &c, gfp_t gfp, const void *caller) {
    if (!kernel_api_enter(gfp))
        return nullptr;
    bool asked_for_zero = (gfp & __GFP_ZERO) != 0;
    gfp = current_gfp(gfp);
    rcu_poll_if_blocking(gfp);
    bool accounted = (gfp & __GFP_ACCOUNT) != 0 && current_group() != nullptr;
    auto attempt = [&]() -> void * {
        kmem_cache *from = accounted ? accounted_twin(c, gfp) : &c;
        slow_path scope;
        gfp_t now = scope.limit(gfp);
        if (from == nullptr || from->cls == kClassShared)
            return from != nullptr ? shared_alloc(*from, now, caller) : nullptr;
        void *p = cache_alloc(c.cls, now);
        if (kDebug && p != nullptr)
            PAGODA_INVARIANT(debug_mark_held(p));
        return p;
    };
    uint64_t mask = c.traits->device_mask;
    void *object = mask == 0
                       ? with_reclaim(gfp, c.info.size, attempt)
                       : with_device_pages(c.info.pages, c.info.start_order, mask, gfp, attempt);
    if (object != nullptr && (gfp & __GFP_ZERO) != 0) {
        if (c.traits->ctor == nullptr)
            memset(object, 0, c.traits->object_size);
        else if (asked_for_zero)
            warn_ctor_and_zero(c);
    }
    return object;
}

void cache_free_object(kmem_cache &c, void *object, const void *caller) {
    const kmem_cache *of = cache_of_pointer(object);
    if (!is_cache_or_twin(c, of)) {
        report_wrong_cache(c, object);
    } else if (of->cls == kClassShared) {
        {
            slow_path scope;
            if (!hold_puts_off_free(object))
                shared_free(object, scope.limit(GFP_KERNEL), caller);
        }
        device_pages_settle();
    } else {
        heap_free(object, GFP_KERNEL);
    }
}

namespace {

PAGODA_NOINLINE void *alloc_slow(kmem_cache &c, gfp_t gfp) {
    return cache_alloc_object(c, gfp, __builtin_return_address(0));
}

PAGODA_NOINLINE void free_slow(kmem_cache &c, void *object) {
    cache_free_object(c, object, __builtin_return_address(0));
}

} // namespace
PAGODA_EXPORT void *pagoda_kmem_cache_alloc(::kmem_cache *cache, gfp_t flags) {
    kmem_cache &c = internal(cache);
#if defined(__x86_64__)
    if (PAGODA_LIKELY((flags & PAGODA_GFP_SPECIAL) == 0)) {
        void *p = rseq_pop(c.hot_cls);
        if (PAGODA_LIKELY(p != nullptr))
            return p;
    }
#endif
    return alloc_slow(c, flags);
}

PAGODA_EXPORT void *pagoda_kmem_cache_alloc_node(::kmem_cache *cache, gfp_t flags, int node) {
    if (!node_allowed(flags, node))
        return nullptr;
    return pagoda_kmem_cache_alloc(cache, flags);
}

PAGODA_EXPORT void pagoda_kmem_cache_free(::kmem_cache *cache, void *object) {
    kmem_cache &c = internal(cache);
#if defined(__x86_64__)
    // A cache without a word of its own has the value of no page here: 0.
    size_t page = page_index(object);
    if (PAGODA_LIKELY(page < g_pagemap.frontier && g_pagemap.page_class[page] == c.hot_cls))
        if (PAGODA_LIKELY(rseq_push(c.hot_cls, object)))
            return;
#endif
    if (object != nullptr)
        free_slow(c, object);
}

PAGODA_EXPORT int pagoda_kmem_cache_alloc_bulk(::kmem_cache *cache, gfp_t flags, size_t count,
                                               void **objects) {
    kmem_cache &c = internal(cache);
    if (count > INT_MAX)
        return 0;
    bool plain = (flags & PAGODA_GFP_SPECIAL) == 0 && c.hot_cls != 0;
    for (size_t got = 0; got < count;) {
        size_t n = plain ? percpu::pop_many(c.hot_cls, objects + got, count - got) : 0;
        if (n == 0) {
            objects[got] = alloc_slow(c, flags);
            n = objects[got] != nullptr;
        }
        if (n == 0) {
            pagoda_kmem_cache_free_bulk(cache, got, objects);
            return 0;
        }
        got += n;
    }
    return static_cast<int>(count);
}

PAGODA_EXPORT void pagoda_kmem_cache_free_bulk(::kmem_cache *cache, size_t count, void **objects) {
    for (size_t at = 0; at < count;) {
        uint8_t cls = marked_class(objects[at]);
        bool hot = !kDebug && cls != kClassNone && cls <= kLastUserClass &&
                   (cache == nullptr || internal(cache).hot_cls == cls);
        size_t end = at + 1;
        while (hot && end < count && marked_class(objects[end]) == cls)
            end++;
        size_t n = hot ? percpu::push_many(cls, objects + at, end - at) : 0;
        at += n;
        if (at == end)
            continue;
        if (cache != nullptr && objects[at] != nullptr)
            free_slow(internal(cache), objects[at]);
        else
            pagoda_kfree(objects[at]);
        at++;
    }
}

PAGODA_EXPORT ::kmem_cache *pagoda_kmem_cache_create(const char *name, unsigned int size,
                                                     const kmem_cache_args *args,
                                                     slab_flags_t flags) {
    const kmem_cache_args none = {};
    const kmem_cache_args &a = args != nullptr ? *args : none;
    const char *why = cache_fault(name, size, a, flags);
    kmem_cache *c = nullptr;
    if (why == nullptr && kernel_api_enter(GFP_KERNEL)) {
        warn_of_namesake(name, a);
        c = with_reclaim(GFP_KERNEL, sizeof(kmem_cache),
                         [&] { return cache_create(name, size, a, flags); });
    }
    if (c == nullptr) {
        text_buffer<256> t;
        t << "kmem_cache_create " << (name != nullptr ? name : "(null)") << ": refused, "
          << (why != nullptr ? why : "memory is short");
        t << ((flags & SLAB_PANIC) != 0 ? " (SLAB_PANIC)" : "");
        warn(t);
    }
    if (c == nullptr && (flags & SLAB_PANIC) != 0)
        sys::abort_process();
    return reinterpret_cast<::kmem_cache *>(c);
}

PAGODA_EXPORT void pagoda_kmem_cache_destroy(::kmem_cache *cache) {
    if (cache != nullptr)
        cache_destroy(&internal(cache));
}

PAGODA_EXPORT int pagoda_kmem_cache_shrink(::kmem_cache *cache) {
    return cache_shrink(internal(cache)) ? 0 : 1;
}

PAGODA_EXPORT unsigned int pagoda_kmem_cache_size(::kmem_cache *cache) {
    return internal(cache).traits->object_size;
}

PAGODA_EXPORT bool pagoda_kmem_cache_charge(void *object, gfp_t flags) {
    group *payer = current_group();
    if (payer == nullptr)
        return true;
    const kmem_cache *c = cache_of_pointer(object);
    if (c == nullptr || c->cls != kClassShared)
        return false;
    slow_path scope;
    slab_position at = slab_find(c->info, static_cast<char *>(object) - c->traits->lead);
    if (group_owner(at) != nullptr)
        return true;
    if (!group_charge(payer, c->info.size))
        return false;
    if (group_set_owner(at, payer, scope.limit(flags)))
        return true;
    group_uncharge(payer, c->info.size);
    return false;
}

// Sheaves of the caller's own.

namespace {

slab_sheaf *new_sheaf(gfp_t flags, uint32_t capacity) {
    size_t bytes = sizeof(slab_sheaf) + size_t{capacity} * sizeof(void *);
    auto *sheaf = static_cast<slab_sheaf *>(pagoda_kmalloc(bytes, flags & ~PAGODA_GFP_SPECIAL));
    if (sheaf != nullptr) {
        sheaf->size = 0;
        sheaf->capacity = capacity;
    }
    return sheaf;
}

// All or nothing.
bool fill(::kmem_cache *cache, gfp_t flags, slab_sheaf &sheaf, uint32_t count) {
    if (sheaf.size >= count)
        return true;
    uint32_t more = count - sheaf.size;
    if (pagoda_kmem_cache_alloc_bulk(cache, flags & ~__GFP_ZERO, more,
                                     sheaf.objects + sheaf.size) == 0)
        return false;
    sheaf.size = count;
    return true;
}

} // namespace

PAGODA_EXPORT slab_sheaf *pagoda_kmem_cache_prefill_sheaf(::kmem_cache *cache, gfp_t flags,
                                                          unsigned int count) {
    uint32_t capacity = max_of<uint32_t>(count, internal(cache).info.capacity);
    slab_sheaf *sheaf = new_sheaf(flags, capacity);
    if (sheaf != nullptr && !fill(cache, flags, *sheaf, count)) {
        pagoda_kfree(sheaf);
        return nullptr;
    }
    return sheaf;
}

PAGODA_EXPORT void *pagoda_kmem_cache_alloc_from_sheaf(::kmem_cache *cache, gfp_t flags,
                                                       slab_sheaf *sheaf) {
    if (sheaf->size == 0)
        return nullptr;
    void *object = sheaf->objects[--sheaf->size];
    kmem_cache &c = internal(cache);
    if ((flags & __GFP_ZERO) != 0 && c.traits->ctor == nullptr)
        memset(object, 0, c.traits->object_size);
    return object;
}

PAGODA_EXPORT int pagoda_kmem_cache_refill_sheaf(::kmem_cache *cache, gfp_t flags,
                                                 slab_sheaf **sheaf, unsigned int count) {
    slab_sheaf *old = *sheaf;
    if (count <= old->capacity)
        return fill(cache, flags, *old, count) ? 0 : -ENOMEM;
    slab_sheaf *larger = new_sheaf(flags, count);
    if (larger == nullptr)
        return -ENOMEM;
    memcpy(larger->objects, old->objects, old->size * sizeof(void *));
    larger->size = old->size;
    if (!fill(cache, flags, *larger, count)) {
        pagoda_kfree(larger);
        return -ENOMEM;
    }
    pagoda_kfree(old);
    *sheaf = larger;
    return 0;
}

PAGODA_EXPORT void pagoda_kmem_cache_return_sheaf(::kmem_cache *cache, gfp_t, slab_sheaf *sheaf) {
    if (sheaf == nullptr)
        return;
    pagoda_kmem_cache_free_bulk(cache, sheaf->size, sheaf->objects);
    pagoda_kfree(sheaf);
}

PAGODA_EXPORT unsigned int pagoda_kmem_cache_sheaf_size(slab_sheaf *sheaf) { return sheaf->size; }

} // namespace pagoda
