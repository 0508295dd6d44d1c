#include "lib/group.h"

#include "hugepage/meta.h"
#include "lib/cache_list.h"
#include "lib/debug_marks.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/page_run.h"
#include "lib/thread.h"

#include <string.h>

namespace pagoda {
namespace {

// By the page_class value of the cache that they are for.
std::atomic<kmem_cache *> twins[kLastUserClass + 1];

constexpr size_t kUnit = 64; // groups lie in the window of metadata, aligned to this

void drop_reference(group *g) {
    if (g->references.fetch_sub(1, std::memory_order_acq_rel) == 1)
        meta_free(g, sizeof *g);
}

kmem_cache *make_twin(kmem_cache &c) {
    kmem_cache_args args = {};
    text_buffer<64> name;
    slab_flags_t flags = SLAB_ACCOUNT | SLAB_NO_MERGE;
    uint32_t size = c.info.size;
    if (c.traits != nullptr) {
        flags |= c.traits->flags & ~(SLAB_PANIC | SLAB_HWCACHE_ALIGN);
        size = c.traits->object_size;
        args.align = c.traits->align;
        args.ctor = c.traits->ctor;
        args.dtor = c.traits->dtor;
        args.device_mask = c.traits->device_mask;
        name << c << "-cg";
    } else {
        args.align = size & -size;
        name << "kmalloc-cg-" << size;
    }
    name << '\0';
    return cache_create(name.data(), size, args, flags);
}

group *internal(pagoda_group *g) { return reinterpret_cast<group *>(g); }
const group *internal(const pagoda_group *g) { return reinterpret_cast<const group *>(g); }

} // namespace

group *current_group() { return t_thread.group; }

bool charge_to(group &g, uint64_t bytes) {
    uint64_t usage = g.usage.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (usage > g.limit.load(std::memory_order_relaxed)) {
        g.usage.fetch_sub(bytes, std::memory_order_relaxed);
        g.failures.fetch_add(1, std::memory_order_relaxed);
        return false;
    }
    uint64_t peak = g.peak.load(std::memory_order_relaxed);
    while (usage > peak && !g.peak.compare_exchange_weak(peak, usage, std::memory_order_relaxed)) {
    }
    g.references.fetch_add(1, std::memory_order_relaxed);
    return true;
}

void uncharge_from(group &g, uint64_t bytes) {
    g.usage.fetch_sub(bytes, std::memory_order_relaxed);
    drop_reference(&g);
}

uint32_t group_number(const group *g) {
    if (g == nullptr)
        return 0;
    return static_cast<uint32_t>((reinterpret_cast<uintptr_t>(g) - g_space.meta.base()) / kUnit) +
           1;
}

group *group_of_number(uint32_t number) {
    return number != 0 ? reinterpret_cast<group *>(g_space.meta.base() + (number - 1) * kUnit)
                       : nullptr;
}

static size_t owners_size(const slab *s) { return sizeof(group *) * s->objects; }

static void free_owners(group **owners, const slab *s) {
    cache_free(class_for_size(owners_size(s)), owners, GFP_KERNEL);
}

bool group_set_owner(const slab_position &at, group *payer, gfp_t gfp) {
    group **owners = at.slab->owners.load(std::memory_order_acquire);
    if (owners == nullptr) {
        size_t bytes = owners_size(at.slab);
        auto *fresh = static_cast<group **>(cache_alloc(class_for_size(bytes), gfp));
        if (fresh == nullptr)
            return false;
        memset(fresh, 0, bytes);
        if (at.slab->owners.compare_exchange_strong(owners, fresh, std::memory_order_acq_rel))
            owners = fresh;
        else
            free_owners(fresh, at.slab); // another object's owner was faster
    }
    owners[at.object] = payer;
    return true;
}

group *group_owner(const slab_position &at) {
    group **owners = at.slab->owners.load(std::memory_order_acquire);
    return owners != nullptr ? owners[at.object] : nullptr;
}

group *group_take_owner(const slab_position &at) {
    group *payer = group_owner(at);
    if (payer != nullptr)
        at.slab->owners.load(std::memory_order_relaxed)[at.object] = nullptr;
    return payer;
}

void group_drop_owners(slab *s) {
    if (group **owners = s->owners.load(std::memory_order_acquire))
        free_owners(owners, s);
}

run_shape natural_run(size_t size) {
    size_t bytes = align_up(heap_good_natural_size(size), kPageSize);
    size_t align = max_of(size & -size, kPageSize);
    return {static_cast<uint32_t>(bytes >> kPageShift), order_of(align >> kPageShift)};
}

void *owned_run(size_t size, gfp_t gfp, group *payer) {
    slow_path scope;
    run_shape shape = natural_run(size);
    uint64_t bytes = uint64_t{shape.pages} << kPageShift;
    if (!group_charge(payer, bytes))
        return nullptr;
    bool zeroed = false;
    void *p = run_alloc_owned(shape.pages, shape.align_order, scope.limit(gfp), &zeroed, payer);
    if (p == nullptr)
        group_uncharge(payer, bytes);
    else if ((gfp & __GFP_ZERO) != 0 && !zeroed)
        memset(p, 0, bytes);
    if (kDebug && p != nullptr)
        PAGODA_INVARIANT(debug_mark_held(p));
    return p;
}

kmem_cache *accounted_twin(kmem_cache &c, gfp_t gfp) {
    if (c.cls == kClassShared)
        return &c;
    std::atomic<kmem_cache *> &slot = twins[c.cls];
    kmem_cache *twin = slot.load(std::memory_order_acquire);
    if (twin != nullptr || !gfpflags_allow_blocking(gfp))
        return twin;
    twin = make_twin(c);
    kmem_cache *first = nullptr;
    if (twin != nullptr && !slot.compare_exchange_strong(first, twin, std::memory_order_acq_rel)) {
        cache_drop(twin); // another thread was faster
        twin = first;
    }
    return twin;
}

bool is_cache_or_twin(const kmem_cache &c, const kmem_cache *object_cache) {
    return object_cache == &c || (object_cache != nullptr && c.cls != kClassShared &&
                                  twins[c.cls].load(std::memory_order_acquire) == object_cache);
}

kmem_cache *forget_twin(kmem_cache &c) {
    return c.cls == kClassShared ? nullptr : twins[c.cls].exchange(nullptr);
}

void *accounted_alloc(size_t size, gfp_t gfp) {
    if (size > kMaxSmall)
        return owned_run(size, gfp, current_group());
    kmem_cache *twin = accounted_twin(g_caches[kmalloc_class(size)], gfp);
    if (twin == nullptr)
        return nullptr;
    slow_path scope;
    void *p = shared_alloc(*twin, scope.limit(gfp), __builtin_return_address(0));
    if (p != nullptr && (gfp & __GFP_ZERO) != 0)
        memset(p, 0, twin->traits->object_size);
    return p;
}

PAGODA_EXPORT pagoda_group *pagoda_group_create(const char *name, size_t limit) {
    if (!kernel_api_enter(GFP_KERNEL))
        return nullptr;
    slow_path scope;
    auto *g = static_cast<group *>(meta_alloc(sizeof(group), scope.limit(GFP_KERNEL)));
    if (g == nullptr)
        return nullptr;
    g->limit = limit;
    g->references = 1;
    if (name != nullptr)
        strncpy(g->name, name, sizeof g->name - 1);
    return reinterpret_cast<pagoda_group *>(g);
}

PAGODA_EXPORT void pagoda_group_destroy(pagoda_group *group) {
    if (group == nullptr)
        return;
    internal(group)->limit = 0;
    slow_path scope; // a lock is taken
    drop_reference(internal(group));
}

PAGODA_EXPORT pagoda_group *pagoda_group_enter(pagoda_group *group) {
    pagoda::group *before = t_thread.group;
    t_thread.group = internal(group);
    return reinterpret_cast<pagoda_group *>(before);
}

PAGODA_EXPORT size_t pagoda_group_usage(const pagoda_group *group) {
    return internal(group)->usage.load();
}
PAGODA_EXPORT size_t pagoda_group_peak(const pagoda_group *group) {
    return internal(group)->peak.load();
}
PAGODA_EXPORT size_t pagoda_group_limit(const pagoda_group *group) {
    return internal(group)->limit.load();
}
PAGODA_EXPORT uint64_t pagoda_group_failures(const pagoda_group *group) {
    return internal(group)->failures.load();
}
PAGODA_EXPORT void pagoda_group_set_limit(pagoda_group *group, size_t limit) {
    internal(group)->limit = limit;
}

} // namespace pagoda
