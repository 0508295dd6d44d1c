#include "lib/drain.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/misuse.h"
#include "lib/page_run.h"
#include "lib/thread_slot.h"
#include "lib/vmalloc.h"

#include <string.h>

extern "C" {
extern char __libc_single_threaded __attribute__((weak)); // glibc >= 2.32
}

namespace pagoda {
namespace {

using percpu::kDrain;
using percpu::kStackDrain;

mutex lock{lock_rank::drain};

struct taken {
    uint64_t word;
    uint32_t stacks[2]; // full, empty
};
taken taken_from[kLastUserClass + 1]; // under the lock

uint64_t &word_at(char *slot, unsigned cls) {
    return *reinterpret_cast<uint64_t *>(slot + kWordsAt + cls * 8);
}
uint32_t &stack_at(char *slot, unsigned cls, unsigned kind) {
    return *reinterpret_cast<uint32_t *>(slot + kStacksAt + cls * 8 + kind * 4);
}
char *cpu_slot(uint32_t cpu) {
    return reinterpret_cast<char *>(g_percpu.base + (static_cast<uintptr_t>(cpu) << kSlotShift));
}

std::atomic_ref<uint32_t> spare_at(char *slot, unsigned cls) {
    return std::atomic_ref<uint32_t>(*(reinterpret_cast<uint32_t *>(&word_at(slot, cls)) + 1));
}

// Step 1: put marks where the sheaves were. A section that already loaded the old value may still
// commit; step 2 sees that by the mark's absence. What runs empty before the mark comes is marked
// all the same.
bool mark_slot(char *slot) {
    bool any = false;
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
        taken &t = taken_from[cls];
        t = {};
        if (word_at(slot, cls) != 0) {
            t.word = std::atomic_ref<uint64_t>(word_at(slot, cls)).exchange(uint64_t{kDrain} << 32);
            any = true;
        }
        for (unsigned kind = 0; kind < 2; kind++) {
            if (stack_at(slot, cls, kind) == 0)
                continue;
            t.stacks[kind] =
                std::atomic_ref<uint32_t>(stack_at(slot, cls, kind)).exchange(kStackDrain);
            any = true;
        }
    }
    return any;
}

// Step 2, when no old section can commit any more.
void collect_slot(char *slot) {
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
        kmem_cache &c = g_caches[cls];
        taken &t = taken_from[cls];
        std::atomic_ref<uint64_t> word(word_at(slot, cls));
        if (static_cast<uint32_t>(word.load() >> 32) == kDrain) {
            // A revived main is its CPU's; the spare cannot have come back alone.
            bool main_too = static_cast<uint32_t>(word.load()) == 0;
            uint32_t main = static_cast<uint32_t>(t.word);
            uint32_t spare = static_cast<uint32_t>(t.word >> 32);
            spare_at(slot, cls).store(0);
            if (main_too && main != 0)
                cache_flush_sheaf(c, main);
            if (spare != 0 && spare != kDrain)
                cache_flush_sheaf(c, spare);
        }
        for (unsigned kind = 0; kind < 2; kind++) {
            uint32_t mark = kStackDrain;
            if (stack_at(slot, cls, kind) != mark ||
                !std::atomic_ref<uint32_t>(stack_at(slot, cls, kind))
                     .compare_exchange_strong(mark, 0))
                continue;
            for (uint32_t id = t.stacks[kind] & kSheafIdMask; id != 0;) {
                uint32_t below = sheaf_links()[id] & kSheafIdMask;
                if (kind == 0)
                    cache_flush_sheaf(c, sheaf_full_top(id));
                else
                    sheaf_free(id);
                id = below;
            }
        }
    }
}

// Instead of step 2, where the fence failed: everything back where it was. A section begun before
// the mark may still commit, and then does what it would have done without the drain.
void unmark_slot(char *slot) {
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
        taken &t = taken_from[cls];
        uint64_t word = uint64_t{kDrain} << 32;
        uint32_t spare = kDrain;
        if (!std::atomic_ref<uint64_t>(word_at(slot, cls)).compare_exchange_strong(word, t.word))
            spare_at(slot, cls).compare_exchange_strong(spare, static_cast<uint32_t>(t.word >> 32));
        for (unsigned kind = 0; kind < 2; kind++) {
            uint32_t mark = kStackDrain;
            std::atomic_ref<uint32_t>(stack_at(slot, cls, kind))
                .compare_exchange_strong(mark, t.stacks[kind]);
        }
    }
}

// Calls fn(cache, object) for every object in a sheaf. Reads only.
template <class F> void for_each_cached_of(const kmem_cache &c, F fn) {
    auto sheaf = [&](uint32_t top) {
        if (top == 0)
            return;
        for (uint32_t at = sheaf_empty_top(sheaf_id(top), c.info.capacity) + 8; at <= top; at += 8)
            fn(__atomic_load_n(sheaf_slot(at), __ATOMIC_RELAXED));
    };
    auto slot = [&](char *s) {
        uint64_t w = std::atomic_ref<uint64_t>(word_at(s, c.cls)).load(std::memory_order_acquire);
        uint32_t spare = static_cast<uint32_t>(w >> 32);
        sheaf(static_cast<uint32_t>(w));
        sheaf(spare == kDrain ? 0 : spare);
        uint32_t head =
            std::atomic_ref<uint32_t>(stack_at(s, c.cls, 0)).load(std::memory_order_acquire);
        uint32_t left = head >> 20;
        for (uint32_t id = head & kSheafIdMask; id != 0 && left-- > 0;
             id = sheaf_links()[id] & kSheafIdMask)
            sheaf(sheaf_full_top(id));
    };
    for (uint32_t cpu = 0; cpu < percpu::slots(); cpu++)
        slot(cpu_slot(cpu));
    for_each_thread_slot([](char *s, void *f) { (*static_cast<decltype(slot) *>(f))(s); }, &slot);
    uint32_t left = c.barn.count();
    for (uint32_t id = c.barn.peek(); id != 0 && left-- > 0; id = sheaf_links()[id] & kSheafIdMask)
        sheaf(sheaf_full_top(id));
}

bool free_in_slab(const kmem_cache &c, const void *object) {
    if (c.info.is_run)
        return class_of_pointer(object) != c.cls;
    if (class_of_pointer(object) != c.cls)
        return true;
    slab_position at = slab_find(c.info, object);
    if (!at.exact)
        return false;
    return (__atomic_load_n(&at.slab->free_map()[at.object / 64], __ATOMIC_RELAXED) >>
                (at.object % 64) &
            1) != 0;
}

// An object on its way from one sheaf to another may be seen twice: only what is still so after
// several looks counts.
bool still_free_twice(const kmem_cache &c, const void *object) {
    for (int look = 0; look < 3; look++) {
        uint32_t seen = free_in_slab(c, object) ? 1 : 0;
        for_each_cached_of(c, [&](void *o) { seen += o == object; });
        if (seen < 2)
            return false;
    }
    return true;
}

// The same for a pointer into the middle of an object: its slab may be going away meanwhile.
bool still_inside(const kmem_cache &c, const void *object) {
    for (int look = 0; look < 3; look++) {
        bool inside = c.info.is_run
                          ? reinterpret_cast<uintptr_t>(object) % kPageSize != 0
                          : class_of_pointer(object) == c.cls && !slab_find(c.info, object).exact;
        if (!inside)
            return false;
        bool cached = false;
        for_each_cached_of(c, [&](void *o) { cached = cached || o == object; });
        if (!cached)
            return false;
    }
    return true;
}

// What no CPU keeps for itself.
void drain_shared() {
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
        for (uint32_t id = g_caches[cls].barn.take_all(); id != 0;) {
            uint32_t below = sheaf_links()[id] & kSheafIdMask;
            cache_flush_sheaf(g_caches[cls], sheaf_full_top(id));
            id = below;
        }
    }
    caches_release_empty();
    zone_normal().finish_frees();
}

} // namespace

mutex &drain_lock() { return lock; }

bool maybe_multithreaded() {
    return &__libc_single_threaded == nullptr || __libc_single_threaded == 0;
}

namespace {

// Nothing goes back to the system meanwhile: a library above may have to let go of it first, which
// takes locks of its own, and allocations wait for this one.
class draining {
  public:
    draining() { t_keeps_memory++; }
    ~draining() { t_keeps_memory--; }
    draining(const draining &) = delete;
    draining &operator=(const draining &) = delete;

  private:
    lock_guard g_{lock};
};

bool drain_all() {
    draining scope;
    bool everywhere = false;
    if (percpu::has_rseq()) {
        bool alone = !maybe_multithreaded();
        bool can_fence = alone || (sys::unfiltered() && percpu::fence());
        if (!can_fence)
            cache_drain_this_cpu();
        for (uint32_t cpu = 0; can_fence && cpu < percpu::slots(); cpu++) {
            if (!mark_slot(cpu_slot(cpu)))
                continue;
            can_fence = alone || percpu::fence(); // a filter may have come in between
            if (can_fence)
                collect_slot(cpu_slot(cpu));
            else
                unmark_slot(cpu_slot(cpu));
        }
        everywhere = can_fence;
    } else if (char *slot = percpu::current_slot()) {
        cache_drain_own_slot(slot);
    }
    drain_shared();
    return everywhere;
}

} // namespace

bool caches_drain() {
    bool everywhere = drain_all();
    zone &z = zone_normal();
    if (z.over_dirty_bound())
        z.purge(z.dirty_bound() / 2, false);
    return everywhere;
}

void caches_reclaim() {
    draining scope;
    cache_drain_this_cpu();
    drain_shared();
}

uint64_t cache_cached(const kmem_cache &c) {
    uint64_t n = 0;
    for_each_cached_of(c, [&](void *) { n++; });
    return n;
}

namespace {

// A bit for every place in the zone where an object can start: seen before?
class places {
  public:
    explicit places(size_t pages)
        : count_(pages * (kPageSize / kMinSize)),
          bits_(static_cast<uint64_t *>(vmalloc_alloc(count_ / 8, 1, GFP_KERNEL, &zeroed_))) {
        if (bits_ != nullptr && !zeroed_)
            memset(bits_, 0, count_ / 8);
    }
    ~places() { vmalloc_free(bits_, GFP_KERNEL); }
    places(const places &) = delete;
    places &operator=(const places &) = delete;

    bool usable() const { return bits_ != nullptr; }
    bool seen(const void *object) {
        size_t at = (reinterpret_cast<uintptr_t>(object) - g_pagemap.base) / kMinSize;
        if (at >= count_)
            return true;
        uint64_t bit = uint64_t{1} << (at % 64);
        bool before = (bits_[at / 64] & bit) != 0;
        bits_[at / 64] |= bit;
        return before;
    }

  private:
    static constexpr size_t kMinSize = 8; // of an object
    bool zeroed_ = false;
    size_t count_;
    uint64_t *bits_;
};

} // namespace

uint64_t caches_audit() {
    if (sheaves_in_use() == 0)
        return 0;
    places all(std::atomic_ref<size_t>(g_pagemap.frontier).load(std::memory_order_acquire));
    if (!all.usable())
        return 0;
    uint64_t found = 0;
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
        const kmem_cache &c = g_caches[cls];
        for_each_cached_of(c, [&](void *object) {
            if (object == nullptr)
                return;
            bool suspect = all.seen(object);
            if (still_inside(c, object)) {
                report_interior(c, object,
                                c.info.is_run ? 0 : slab_find(c.info, object).object * c.info.size);
                found++;
            } else if ((suspect || free_in_slab(c, object)) && still_free_twice(c, object)) {
                report_double_free(c, object);
                found++;
            }
        });
    }
    return found;
}

} // namespace pagoda
