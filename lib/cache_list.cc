#include "lib/cache_list.h"

#include "hugepage/meta.h"
#include "hugepage/sys.h"
#include "lib/debug_layout.h"
#include "lib/device_pages.h"
#include "lib/drain.h"
#include "lib/group.h"
#include "lib/hot_path.h"
#include "lib/rcu.h"
#include "lib/slab_cache.h"
#include "lib/thread.h"

#include <new>
#include <string.h>

namespace pagoda {
namespace {

constexpr uint32_t kCacheLine = 64;
constexpr slab_flags_t kKnownFlags = SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE | SLAB_POISON |
                                     SLAB_HWCACHE_ALIGN | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 |
                                     SLAB_STORE_USER | SLAB_PANIC | SLAB_TYPESAFE_BY_RCU |
                                     SLAB_TRACE | SLAB_NOLEAKTRACE | SLAB_NO_MERGE | SLAB_ACCOUNT |
                                     SLAB_NO_USER_FLAGS | SLAB_RECLAIM_ACCOUNT | SLAB_NO_REAP;
constexpr slab_flags_t kNeverMerged = kDebugFlags | SLAB_CONSISTENCY_CHECKS | SLAB_TRACE |
                                      SLAB_TYPESAFE_BY_RCU | SLAB_NOLEAKTRACE | SLAB_NO_MERGE;
// Their objects pass through more than a sheaf, or are gone after a fork.
constexpr slab_flags_t kWithoutSheaves =
    kDebugFlags | SLAB_CONSISTENCY_CHECKS | SLAB_ACCOUNT | SLAB_CACHE_DMA | SLAB_CACHE_DMA32;
// Alike caches agree in these.
constexpr slab_flags_t kMergeSame =
    SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_ACCOUNT | SLAB_RECLAIM_ACCOUNT | SLAB_NO_REAP;

mutex list_lock{lock_rank::caches};
kmem_cache *first_shared = nullptr;

bool mergeable(const cache_traits &t) {
    return (t.flags & kNeverMerged) == 0 && t.ctor == nullptr && t.dtor == nullptr;
}

bool alike(const kmem_cache &c, const class_info &info, const cache_traits &t) {
    return c.traits != nullptr && c.traits->references != 0 && mergeable(*c.traits) &&
           c.info.size == info.size && c.info.capacity == info.capacity &&
           c.info.size - t.object_size < sizeof(void *) &&
           ((c.traits->flags ^ t.flags) & kMergeSame) == 0 &&
           c.traits->device_mask == t.device_mask && c.traits->align % t.align == 0;
}

// Under the list's lock.
kmem_cache *find_alike(const class_info &info, const cache_traits &t) {
    for (uint32_t cls = kFirstUserClass; cls < g_cache_end; cls++)
        if (alike(g_caches[cls], info, t))
            return &g_caches[cls];
    for (kmem_cache *c = first_shared; c != nullptr; c = c->traits->next)
        if (alike(*c, info, t))
            return c;
    return nullptr;
}

// A cache with a page_class value of its own; NULL: they are used up. Under the list's lock. A CPU
// or thread that could not be drained may still have sheaves of the value's last cache, which are
// of its capacity.
kmem_cache *take_value(const class_info &info, cache_traits *t) {
    for (uint32_t cls = kFirstUserClass; cls <= kLastUserClass; cls++) {
        kmem_cache &c = g_caches[cls];
        if (c.info.size != 0 || (c.info.capacity != 0 && c.info.capacity != info.capacity))
            continue;
        c.cls = static_cast<uint8_t>(cls);
        c.info = info;
        c.traits = t;
        c.served = 0;
        if (cls >= g_cache_end)
            g_cache_end.store(cls + 1, std::memory_order_release);
        c.hot_cls = hot_paths_closed() ? 0 : c.cls;
        return &c;
    }
    return nullptr;
}

// Under the list's lock.
void unlink_shared(kmem_cache *c) {
    kmem_cache **at = &first_shared;
    while (*at != c)
        at = &(*at)->traits->next;
    *at = c->traits->next;
}

void report_left(const kmem_cache &c, uint64_t left) {
    text_buffer<256> t;
    t << "kmem_cache_destroy " << c << ": " << left << " objects are still in use; it is leaked";
    warn(t);
}

} // namespace

mutex &caches_list_lock() { return list_lock; }
kmem_cache *first_shared_cache() { return first_shared; }

const char *cache_fault(const char *name, uint32_t size, const kmem_cache_args &a,
                        slab_flags_t flags) {
    if (name == nullptr || name[0] == 0)
        return "it has no name";
    if (strchr(name, ' ') != nullptr)
        return "its name has a space";
    if (size == 0 || size > KMALLOC_MAX_SIZE)
        return "its objects are empty or larger than KMALLOC_MAX_SIZE";
    if (a.align != 0 && (!is_power_of_two(a.align) || a.align > kPageblockSize))
        return "its alignment is no power of two up to 2 MiB";
    if (a.sheaf_capacity > class_capacity(0))
        return "its sheaf_capacity is above 127";
    if (a.use_freeptr_offset && ((flags & SLAB_TYPESAFE_BY_RCU) == 0 || a.ctor != nullptr))
        return "it has a freeptr_offset without SLAB_TYPESAFE_BY_RCU, or with a ctor";
    if (a.usersize > size || a.useroffset > size - a.usersize)
        return "its user region reaches beyond the object";
    if ((flags & ~kKnownFlags) != 0)
        return "it has flags that do not exist";
    return nullptr;
}

uint32_t cache_alignment(slab_flags_t flags, uint32_t align, uint32_t size) {
    if ((flags & SLAB_HWCACHE_ALIGN) != 0) {
        uint32_t line = kCacheLine;
        while (size <= line / 2)
            line /= 2;
        align = max_of(align, line);
    }
    return max_of<uint32_t>(align, ARCH_SLAB_MINALIGN);
}

namespace {

kmem_cache *create(const char *name, uint32_t size, const kmem_cache_args &args, slab_flags_t flags,
                   bool is_private) {
    slow_path scope;
    auto *t = scope.nested()
                  ? nullptr
                  : static_cast<cache_traits *>(meta_alloc(sizeof(cache_traits), GFP_KERNEL));
    auto *shared = t == nullptr ? nullptr : meta_alloc(sizeof(kmem_cache), GFP_KERNEL);
    if (shared == nullptr) {
        if (t != nullptr)
            meta_free(t, sizeof *t);
        return nullptr;
    }
    t->flags = flags;
    t->device_mask = args.device_mask;
    if ((flags & (SLAB_CACHE_DMA | SLAB_CACHE_DMA32)) != 0)
        t->device_mask = device_mask((flags & SLAB_CACHE_DMA) != 0 ? __GFP_DMA : __GFP_DMA32);
    t->object_size = size;
    t->align = cache_alignment(flags, args.align, size);
    t->references = 1;
    t->ctor = args.ctor;
    t->dtor = args.dtor;
    strncpy(t->name, name, sizeof t->name - 1);
    uint32_t slot = debug_layout(*t);
    class_info info = make_slab(align_up(slot, t->align), t->align);
    if (args.sheaf_capacity != 0)
        info.capacity = static_cast<uint16_t>(args.sheaf_capacity);

    list_lock.lock();
    kmem_cache *c = !is_private && mergeable(*t) ? find_alike(info, *t) : nullptr;
    bool merged = c != nullptr;
    if (merged) {
        c->traits->references++;
        // Both have the larger one's objects, which is what is zeroed and what ksize() says.
        c->traits->object_size = max_of(c->traits->object_size, size);
    } else if (!is_private && (flags & kWithoutSheaves) == 0) {
        c = take_value(info, t);
    }
    if (c == nullptr) {
        c = new (shared) kmem_cache;
        shared = nullptr;
        c->cls = kClassShared;
        c->info = info;
        c->info.aligned =
            false; // every page points to its slab: the value does not say which cache
        c->info.order = 0;
        c->traits = t;
        t->next = first_shared;
        first_shared = c;
    }
    list_lock.unlock();
    if (merged)
        meta_free(t, sizeof *t);
    if (shared != nullptr)
        meta_free(shared, sizeof(kmem_cache));
    return c;
}

// Gives back what can be: all of it unless objects are in use, or in CPUs' sheaves that cannot be
// drained. True: there are none of those.
bool empty(kmem_cache &c) {
    slow_path scope;
    bool drained = caches_drain();
    slabs_release(c, 0);
    // A free that is just leaving its slab pins it for a moment; in a child of fork, for ever.
    for (int rounds = 0; c.in_use == 0 && c.slabs != 0 && rounds < 1000; rounds++) {
        sys::nap(10);
        slabs_release(c, 0);
    }
    // Whoever took empty slabs off the cache meanwhile gives them back under this lock.
    lock_guard g(drain_lock());
    return drained;
}

// Nothing of it is in use any more. `drained`: no CPU or thread has sheaves of it either.
void forget(kmem_cache *c, bool drained) {
    cache_traits *t = c->traits;
    uint16_t capacity = drained ? 0 : c->info.capacity;
    list_lock.lock();
    if (c->cls == kClassShared)
        unlink_shared(c);
    c->traits = nullptr;
    c->info = {};
    c->info.capacity = capacity;
    list_lock.unlock();
    meta_free(t, sizeof *t);
    if (c->cls == kClassShared)
        meta_free(c, sizeof *c);
}

} // namespace

kmem_cache *cache_create(const char *name, uint32_t size, const kmem_cache_args &args,
                         slab_flags_t flags) {
    return create(name, size, args, flags, false);
}

kmem_cache *cache_create_private(const char *name, uint32_t size, uint32_t align) {
    kmem_cache_args args = {};
    args.align = align;
    return create(name, size, args, SLAB_NO_MERGE, true);
}

void cache_drop(kmem_cache *c) {
    slow_path scope;
    slabs_drop(*c);
    forget(c, true);
}

void cache_destroy(kmem_cache *c) {
    {
        lock_guard g(list_lock);
        if (--c->traits->references != 0)
            return;
    }
    rcu_barrier();
    if (kmem_cache *twin = forget_twin(*c))
        cache_destroy(twin);
    c->hot_cls = 0;
    bool drained = empty(*c);
    if ((c->traits->flags & SLAB_TYPESAFE_BY_RCU) != 0)
        rcu_barrier();
    slow_path scope;
    uint64_t cached = c->cls == kClassShared ? 0 : cache_cached(*c);
    if (c->in_use != 0 || c->slabs != 0) {
        // What other CPUs keep where they cannot be drained is not the program's leak.
        if (c->in_use != cached)
            report_left(*c, c->in_use - cached);
        return;
    }
    forget(c, drained);
}

bool cache_shrink(kmem_cache &c) {
    slow_path scope;
    if (scope.nested())
        return false;
    caches_drain();
    if (c.traits == nullptr || (c.traits->flags & SLAB_NO_REAP) == 0)
        slabs_release(c, 0);
    return c.slabs == 0;
}

} // namespace pagoda
