#include "lib/slab_cache.h"

#include "hugepage/zone.h"
#include "lib/debug_layout.h"
#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/hold.h"
#include "lib/misuse.h"
#include "lib/rcu.h"
#include "lib/thread.h"

#include <string.h>

namespace pagoda {
namespace {

// Frees that found the lock taken: their bits move to the slabs' own maps.
void merge_late(kmem_cache &c) {
    if (PAGODA_LIKELY(c.late.load(std::memory_order_relaxed) == nullptr))
        return;
    slab *s = c.late.exchange(nullptr, std::memory_order_acquire);
    while (s != nullptr) {
        slab *next = s->late_next;
        s->has_late.store(0, std::memory_order_seq_cst); // later ones queue the slab again
        bool was_empty = s->in_use == 0;
        for (uint32_t w = 0; w < s->words; w++) {
            uint64_t bits = s->late_map()[w].exchange(0, std::memory_order_acquire);
            uint64_t twice = bits & s->free_map()[w];
            if (twice != 0)
                report_double_free(c, s, w * 64 + static_cast<uint32_t>(__builtin_ctzll(twice)));
            bits &= ~twice;
            s->free_map()[w] |= bits;
            uint32_t n = count_bits(bits);
            s->in_use = static_cast<uint16_t>(s->in_use - n);
            c.in_use -= n;
        }
        c.empty_slabs += !was_empty && s->in_use == 0;
        c.partial.update(s);
        s = next;
    }
}

// Every slab of a cache with traits, for whoever looks at all objects.
void link_all(kmem_cache &c, slab *s) {
    s->all_next = c.all;
    if (c.all != nullptr)
        c.all->all_prev = s;
    c.all = s;
}

void unlink_all(kmem_cache &c, slab *s) {
    (s->all_prev != nullptr ? s->all_prev->all_next : c.all) = s->all_next;
    if (s->all_next != nullptr)
        s->all_next->all_prev = s->all_prev;
}

// Takes empty slabs beyond `keep` off the cache, in front of `surplus`.
slab *detach_surplus(kmem_cache &c, uint64_t keep, slab *surplus = nullptr) {
    while (c.empty_slabs > keep) {
        slab *s = c.partial.empty();
        if (s == nullptr || s->has_late.load() != 0 || s->late_pins.load() != 0)
            break;
        c.partial.remove(s);
        if (c.traits != nullptr)
            unlink_all(c, s);
        c.empty_slabs--;
        c.slabs--;
        s->next = surplus;
        surplus = s;
    }
    return surplus;
}

void for_each_object(const kmem_cache &c, const slab *s, void (*fn)(void *)) {
    char *object = static_cast<char *>(page_address(s->first)) + c.traits->lead;
    for (uint32_t i = 0; i < s->objects; i++, object += c.info.size)
        fn(object);
}

void destroy(kmem_cache &c, slab *s) {
    if (c.traits != nullptr && c.traits->dtor != nullptr && device_state(s->first) != kParentsBlock)
        for_each_object(c, s, c.traits->dtor);
    group_drop_owners(s);
    slab_destroy(s, c.info);
}

void destroy_after_grace_period(rcu_item *item) {
    slow_path scope; // grace periods end outside of them
    slab *s = reinterpret_cast<slab *>(item);
    destroy(*s->cache, s);
}

// A chain of slabs that are off their caches. No locks held: destructors and system calls.
uint64_t destroy_all(slab *s) {
    uint64_t n = 0;
    for (; s != nullptr; n++) {
        slab *next = s->next;
        kmem_cache &c = *s->cache;
        hold_forget_slab(s);
        if (c.traits != nullptr && (c.traits->flags & SLAB_TYPESAFE_BY_RCU) != 0)
            rcu_defer(&s->deferred, destroy_after_grace_period);
        else
            destroy(c, s);
        s = next;
    }
    return n;
}

slab *create(kmem_cache &c, gfp_t gfp, bool populate) {
    uint64_t mask = c.traits != nullptr ? c.traits->device_mask : 0;
    slab *s = slab_create(c.cls, c.info, gfp, populate, mask);
    if (s == nullptr)
        return nullptr;
    s->cache = &c;
    if (c.traits != nullptr && (c.traits->flags & kDebugFlags) != 0)
        for (uint32_t i = 0; i < s->objects; i++)
            debug_init_object(c, static_cast<char *>(page_address(s->first)) + i * c.info.size);
    if (c.traits != nullptr && c.traits->ctor != nullptr)
        for_each_object(c, s, c.traits->ctor);
    return s;
}

// The bits of one bitmap word, collected while consecutive objects fall into it.
struct pending_bits {
    slab *s = nullptr;
    uint32_t word = 0;
    uint64_t bits = 0;
};

void apply(kmem_cache &c, const pending_bits &p) {
    if (p.s == nullptr)
        return;
    uint64_t &map = p.s->free_map()[p.word];
    uint64_t twice = map & p.bits;
    for (uint64_t t = twice; t != 0; t &= t - 1)
        report_double_free(c, p.s, p.word * 64 + static_cast<uint32_t>(__builtin_ctzll(t)));
    uint64_t bits = p.bits & ~twice;
    map |= bits;
    uint32_t n = count_bits(bits);
    p.s->in_use = static_cast<uint16_t>(p.s->in_use - n);
    c.in_use -= n;
    if (n != 0) {
        c.empty_slabs += p.s->in_use == 0;
        c.partial.update(p.s);
    }
}

// Under the lock.
void give_locked(kmem_cache &c, void *const *objects, uint32_t count) {
    pending_bits pending;
    for (uint32_t i = 0; i < count; i++) {
        void *object = objects[i];
        if (class_of_pointer(object) != c.cls) { // its slab is gone: it was free before
            report_double_free(c, object);
            continue;
        }
        slab_position at = slab_find(c.info, object);
        if (!at.exact) {
            report_interior(c, object, at.object * c.info.size);
            continue;
        }
        uint64_t bit = uint64_t{1} << (at.object % 64);
        if (at.slab != pending.s || at.object / 64 != pending.word) {
            apply(c, pending);
            pending = {at.slab, at.object / 64, bit};
        } else if ((pending.bits & bit) != 0) {
            report_double_free(c, object);
        } else {
            pending.bits |= bit;
        }
    }
    apply(c, pending);
}

// A free that may not wait and found the lock taken: one atomic bit, merged by the next holder.
void free_late(kmem_cache &c, void *object) {
    if (class_of_pointer(object) != c.cls) {
        report_double_free(c, object);
        return;
    }
    slab_position at = slab_find(c.info, object);
    if (!at.exact) {
        report_interior(c, object, at.object * c.info.size);
        return;
    }
    uint64_t bit = uint64_t{1} << (at.object % 64);
    // Once the bit is set another thread may merge it and find the slab empty.
    at.slab->late_pins.fetch_add(1);
    if ((at.slab->late_map()[at.object / 64].fetch_or(bit, std::memory_order_release) & bit) != 0)
        report_double_free(c, object);
    if (at.slab->has_late.exchange(1, std::memory_order_seq_cst) == 0) {
        slab *head = c.late.load(std::memory_order_relaxed);
        do
            at.slab->late_next = head;
        while (!c.late.compare_exchange_weak(head, at.slab, std::memory_order_release,
                                             std::memory_order_relaxed));
    }
    at.slab->late_pins.fetch_sub(1);
}

} // namespace

uint32_t take_from_slabs(kmem_cache &c, void **out, uint32_t want, gfp_t gfp) {
    bool may_block = gfpflags_allow_blocking(gfp);
    if (may_block)
        c.lock.lock();
    else if (!c.lock.try_lock())
        return 0;
    merge_late(c);
    uint32_t got = 0;
    for (;;) {
        while (got < want) {
            slab *s = c.partial.fullest();
            if (s == nullptr)
                break;
            c.empty_slabs -= s->in_use == 0;
            got += slab_take(s, c.info, out + got, want - got);
            c.partial.update(s);
        }
        if (got > 0)
            break;
        // A blocking caller makes a new slab without the lock: that may take system calls. It is
        // populated at once where it is small beside the class.
        bool populate = may_block && c.slabs >= 16 && may_give_back();
        if (may_block)
            c.lock.unlock();
        slab *s = create(c, gfp, populate);
        if (may_block)
            c.lock.lock();
        if (s == nullptr && c.partial.fullest() == nullptr)
            break;
        if (s == nullptr)
            continue; // somebody gave objects back meanwhile
        c.slabs++;
        c.empty_slabs++;
        c.partial.add(s);
        if (c.traits != nullptr)
            link_all(c, s);
    }
    c.in_use += got;
    c.served += got;
    c.lock.unlock();
    return got;
}

void give_to_slabs(kmem_cache &c, void *const *objects, uint32_t count, gfp_t gfp) {
    if (!gfpflags_allow_blocking(gfp) || !c.lock.try_lock_briefly()) {
        for (uint32_t i = 0; i < count; i++)
            free_late(c, objects[i]);
        return;
    }
    merge_late(c);
    give_locked(c, objects, count);
    // Empty slabs beyond a few go back: 1/8 of the cache's slabs are kept, at least one.
    bool keep_all = c.traits != nullptr && (c.traits->flags & SLAB_NO_REAP) != 0;
    slab *surplus = keep_all ? nullptr : detach_surplus(c, max_of(c.slabs / 8, uint64_t{1}));
    c.lock.unlock();
    destroy_all(surplus);
}

uint64_t slabs_release(kmem_cache &c, uint64_t keep) {
    c.lock.lock();
    merge_late(c);
    slab *surplus = detach_surplus(c, keep);
    c.lock.unlock();
    return destroy_all(surplus);
}

void slabs_walk(kmem_cache &c, void (*fn)(void *object, size_t size, void *arg), void *arg) {
    lock_guard g(c.lock);
    merge_late(c);
    for (slab *s = c.all; s != nullptr; s = s->all_next) {
        char *object = static_cast<char *>(page_address(s->first)) + c.traits->lead;
        for (uint32_t i = 0; i < s->objects; i++, object += c.info.size)
            if ((s->free_map()[i / 64] >> (i % 64) & 1) == 0)
                fn(object, c.traits->object_size, arg);
    }
}

void slabs_drop(kmem_cache &c) {
    c.lock.lock();
    slab *s = c.all;
    cache_forget_slabs(c);
    c.lock.unlock();
    for (slab *next = nullptr; s != nullptr; s = next) {
        next = s->all_next;
        for (uint32_t i = 0; i < s->objects; i++)
            group_uncharge(group_take_owner({s, i, true}), c.info.size);
        group_drop_owners(s);
        s->in_use = 0;
        hold_forget_slab(s);
        slab_destroy(s, c.info);
    }
}

void cache_forget_slabs(kmem_cache &c) {
    c.partial = {};
    c.all = nullptr;
    c.slabs = c.empty_slabs = c.in_use = 0;
    c.late.store(nullptr);
}

uint64_t caches_release_empty() {
    slab *surplus = nullptr;
    for_each_cache([&](kmem_cache &c) {
        if (c.info.is_run || (c.traits != nullptr && (c.traits->flags & SLAB_NO_REAP) != 0))
            return;
        lock_guard g(c.lock);
        merge_late(c);
        surplus = detach_surplus(c, 0, surplus);
    });
    return destroy_all(surplus);
}

} // namespace pagoda
