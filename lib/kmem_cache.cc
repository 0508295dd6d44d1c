#include "lib/kmem_cache.h"

#include "hugepage/zone.h"
#include "lib/misuse.h"
#include "lib/page_run.h"

namespace pagoda {

kmem_cache g_caches[kLastClass + 1];

namespace {

using percpu::stack_kind;

// A debugger's single steps abort every section: after so many tries the slab serves.
constexpr int kTries = 64;
// What the stacks of one CPU may hold beyond one sheaf per class, and the barn of one class.
constexpr int64_t kCpuBudget = 4 << 20;
constexpr uint64_t kBarnFloor = 128 << 10;
constexpr uint32_t kMaxLimit = 255;

struct halves {
    uint32_t main;
    uint32_t spare;
    explicit halves(uint64_t w)
        : main(static_cast<uint32_t>(w)), spare(static_cast<uint32_t>(w >> 32)) {}
    static uint64_t word(uint32_t main, uint32_t spare) { return uint64_t{spare} << 32 | main; }
};

bool is_empty(const kmem_cache &c, uint32_t top) {
    return top == 0 || top == sheaf_empty_top(sheaf_id(top), c.info.capacity);
}
bool is_full(uint32_t top) { return (top & (kSheafSize - 1)) == 0; } // 0 too: nothing fits there

// Objects to and from the slabs.

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
                report_double_free(c.info, s,
                                   w * 64 + static_cast<uint32_t>(__builtin_ctzll(twice)));
            bits &= ~twice;
            s->free_map()[w] |= bits;
            uint32_t n = static_cast<uint32_t>(__builtin_popcountll(bits));
            s->in_use = static_cast<uint16_t>(s->in_use - n);
            c.in_use -= n;
        }
        c.empty_slabs += !was_empty && s->in_use == 0;
        c.partial.update(s);
        s = next;
    }
}

// Empty slabs beyond a few go back: 1/8 of the cache's slabs are kept, at least one.
slab *detach_surplus(kmem_cache &c, uint64_t keep) {
    slab *surplus = nullptr;
    while (c.empty_slabs > keep) {
        slab *s = c.partial.empty();
        if (s == nullptr || s->has_late.load() != 0 || s->late_pins.load() != 0)
            break;
        c.partial.remove(s);
        c.empty_slabs--;
        c.slabs--;
        s->next = surplus;
        surplus = s;
    }
    return surplus;
}

uint64_t destroy_all(slab *s, const class_info &info) {
    uint64_t n = 0;
    for (; s != nullptr; n++) {
        slab *next = s->next;
        slab_destroy(s, info);
        s = next;
    }
    return n;
}

// Up to `want` objects into out[], lowest addresses first within a slab. Zero when memory is short.
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
        bool populate = may_block && c.slabs >= 16;
        if (may_block)
            c.lock.unlock();
        slab *s = slab_create(c.cls, c.info, gfp, populate);
        if (may_block)
            c.lock.lock();
        if (s == nullptr && c.partial.fullest() == nullptr)
            break;
        if (s == nullptr)
            continue; // somebody gave objects back meanwhile
        c.slabs++;
        c.empty_slabs++;
        c.partial.add(s);
    }
    c.in_use += got;
    c.served += got;
    c.lock.unlock();
    return got;
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
        report_double_free(c.info, p.s, p.word * 64 + static_cast<uint32_t>(__builtin_ctzll(t)));
    uint64_t bits = p.bits & ~twice;
    map |= bits;
    uint32_t n = static_cast<uint32_t>(__builtin_popcountll(bits));
    p.s->in_use = static_cast<uint16_t>(p.s->in_use - n);
    c.in_use -= n;
    if (n != 0) {
        c.empty_slabs += p.s->in_use == 0;
        c.partial.update(p.s);
    }
}

// Returns objects to their slabs. The lock is held only here; slabs that became surplus are given
// back after it.
void give_to_slabs(kmem_cache &c, void *const *objects, uint32_t count) {
    c.lock.lock();
    merge_late(c);
    pending_bits pending;
    for (uint32_t i = 0; i < count; i++) {
        void *object = objects[i];
        if (class_of_pointer(object) != c.cls) { // its slab is gone: it was free before
            report_double_free(object, c.info.size);
            continue;
        }
        slab_position at = slab_find(c.info, object);
        if (!at.exact) {
            report_interior(object, c.info.size, at.object * c.info.size);
            continue;
        }
        uint64_t bit = uint64_t{1} << (at.object % 64);
        if (at.slab != pending.s || at.object / 64 != pending.word) {
            apply(c, pending);
            pending = {at.slab, at.object / 64, bit};
        } else if ((pending.bits & bit) != 0) {
            report_double_free(object, c.info.size);
        } else {
            pending.bits |= bit;
        }
    }
    apply(c, pending);
    slab *surplus = detach_surplus(c, max_of(c.slabs / 8, uint64_t{1}));
    c.lock.unlock();
    destroy_all(surplus, c.info);
}

// A free that may not wait and found the lock taken: one atomic bit, merged by the next holder.
void free_late(kmem_cache &c, void *object) {
    slab_position at = slab_find(c.info, object);
    if (!at.exact) {
        report_interior(object, c.info.size, at.object * c.info.size);
        return;
    }
    uint64_t bit = uint64_t{1} << (at.object % 64);
    // Once the bit is set another thread may merge it and find the slab empty.
    at.slab->late_pins.fetch_add(1);
    if ((at.slab->late_map()[at.object / 64].fetch_or(bit, std::memory_order_release) & bit) != 0)
        report_double_free(object, c.info.size);
    if (at.slab->has_late.exchange(1, std::memory_order_seq_cst) == 0) {
        slab *head = c.late.load(std::memory_order_relaxed);
        do
            at.slab->late_next = head;
        while (!c.late.compare_exchange_weak(head, at.slab, std::memory_order_release,
                                             std::memory_order_relaxed));
    }
    at.slab->late_pins.fetch_sub(1);
}

void *alloc_uncached(kmem_cache &c, gfp_t gfp) {
    if (c.info.is_run)
        return run_alloc_class(c, gfp);
    void *object = nullptr;
    return take_from_slabs(c, &object, 1, gfp) == 1 ? object : nullptr;
}

void free_uncached(kmem_cache &c, void *const *objects, uint32_t count, gfp_t gfp) {
    if (c.info.is_run) {
        for (uint32_t i = 0; i < count; i++)
            run_free_class(c, objects[i], gfp);
    } else if (gfpflags_allow_blocking(gfp)) {
        give_to_slabs(c, objects, count);
    } else {
        for (uint32_t i = 0; i < count; i++)
            free_late(c, objects[i]);
    }
}

// Sheaves.

template <class T> T &slot_field(char *slot, size_t offset) {
    return *reinterpret_cast<T *>(slot + offset);
}

// How many sheaves a CPU's stack may hold. The bytes are hints: lost updates do no harm.
uint32_t stack_limit(const kmem_cache &c) {
    char *slot = percpu::current_slot();
    return slot == nullptr ? 1
                           : max_of<uint32_t>(slot_field<uint8_t>(slot, kLimitsAt + c.cls),
                                              c.info.is_run ? 0 : 1);
}

void note_overflow(const kmem_cache &c) {
    if (char *slot = percpu::current_slot())
        slot_field<uint8_t>(slot, kOverflowAt + c.cls) = 1;
}

// An underflow that follows an overflow: the only case in which a larger stack would have helped.
void note_underflow(const kmem_cache &c) {
    char *slot = percpu::current_slot();
    if (slot == nullptr || slot_field<uint8_t>(slot, kOverflowAt + c.cls) == 0)
        return;
    slot_field<uint8_t>(slot, kOverflowAt + c.cls) = 0;
    uint8_t &limit = slot_field<uint8_t>(slot, kLimitsAt + c.cls);
    uint32_t now = max_of<uint32_t>(limit, 1);
    uint32_t more = min_of(now * 2, kMaxLimit);
    int64_t bytes = static_cast<int64_t>(more - now) * c.info.capacity * c.info.size;
    int64_t &used = slot_field<int64_t>(slot, kBudgetAt);
    if (used + bytes > kCpuBudget)
        return;
    used += bytes;
    limit = static_cast<uint8_t>(more);
}

void put_empty(const kmem_cache &c, uint32_t id) {
    if (!percpu::stack_push(c.cls, stack_kind::empty, id, stack_limit(c)))
        sheaf_free(id);
}

uint32_t get_empty(const kmem_cache &c, gfp_t gfp) {
    uint32_t id = percpu::stack_pop(c.cls, stack_kind::empty);
    return id != 0 ? id : sheaf_alloc(c.info.capacity, gfpflags_allow_blocking(gfp));
}

// Sheaves that the barn may hold: an eighth of what the program has of the class. Its own objects
// do not count, or those of a heap that is gone would justify one another.
uint64_t barn_limit(const kmem_cache &c) {
    if (c.info.is_run)
        return 0;
    uint64_t capacity = c.info.capacity;
    uint64_t in_barn = uint64_t{c.barn.count()} * capacity;
    uint64_t live = c.in_use > in_barn ? c.in_use - in_barn : 0;
    return max_of(kBarnFloor / (capacity * c.info.size), live / 8 / capacity);
}

// All objects of a sheaf back to the slabs; the sheaf itself is the caller's, empty.
void flush_sheaf(kmem_cache &c, uint32_t top, gfp_t gfp) {
    uint32_t bottom = sheaf_empty_top(sheaf_id(top), c.info.capacity);
    free_uncached(c, sheaf_slot(bottom + 8), (top - bottom) / 8, gfp);
}

void put_full(kmem_cache &c, uint32_t id, gfp_t gfp) {
    if (percpu::stack_push(c.cls, stack_kind::full, id, stack_limit(c)))
        return;
    note_overflow(c);
    uint64_t limit = barn_limit(c);
    if (c.barn.count() < limit) {
        c.barn.push(id);
        return;
    }
    // What the barn may hold falls with the heap: it shrinks by a sheaf for every one that is
    // refused, or its objects would keep slabs from being given back.
    uint32_t surplus = c.barn.count() > limit ? c.barn.pop() : 0;
    for (uint32_t each : {id, surplus}) {
        if (each == 0)
            continue;
        flush_sheaf(c, sheaf_full_top(each), gfp);
        put_empty(c, each);
    }
}

// A sheaf with at least one object, as its top; 0 when there is none to be had.
uint32_t get_filled(kmem_cache &c, gfp_t gfp) {
    if (uint32_t id = percpu::stack_pop(c.cls, stack_kind::full))
        return sheaf_full_top(id);
    note_underflow(c);
    if (uint32_t id = c.barn.pop())
        return sheaf_full_top(id);
    if (c.info.is_run) // runs are cached when freed, never fetched ahead
        return 0;
    uint32_t id = get_empty(c, gfp);
    if (id == 0)
        return 0;
    uint32_t bottom = sheaf_empty_top(id, c.info.capacity);
    void **objects = sheaf_slot(bottom + 8);
    uint32_t n = take_from_slabs(c, objects, c.info.capacity, gfp);
    if (n == 0) {
        put_empty(c, id);
        return 0;
    }
    for (uint32_t i = 0; i < n / 2; i++) { // the lowest address on top: it is handed out first
        void *tmp = objects[i];
        objects[i] = objects[n - 1 - i];
        objects[n - 1 - i] = tmp;
    }
    return bottom + 8 * n;
}

void return_filled(kmem_cache &c, uint32_t top, gfp_t gfp) {
    if (is_full(top)) {
        put_full(c, sheaf_id(top), gfp);
        return;
    }
    flush_sheaf(c, top, gfp);
    put_empty(c, sheaf_id(top));
}

} // namespace

// The two slow paths.

void *cache_alloc(unsigned cls, gfp_t gfp) {
    kmem_cache &c = g_caches[cls];
    for (int i = 0; i < kTries; i++) {
        if (void *object = percpu::pop(cls))
            return object;
        if (percpu::current_slot() == nullptr)
            break;
        uint64_t seen = percpu::word(cls);
        halves h(seen);
        if (h.spare == percpu::kDrain)
            break;
        if (!is_empty(c, h.main))
            continue; // moved to another CPU, or restarted
        if (!is_empty(c, h.spare)) {
            percpu::replace(cls, seen, halves::word(h.spare, h.main));
            continue;
        }
        uint32_t filled = get_filled(c, gfp);
        if (filled == 0)
            break;
        void *object = *sheaf_slot(filled);
        // The filled one becomes main, the old main the spare, and the old spare is displaced.
        uint32_t spare = h.main != 0 ? h.main : h.spare;
        if (percpu::replace(cls, seen, halves::word(filled - 8, spare))) {
            if (h.main != 0 && h.spare != 0)
                put_empty(c, sheaf_id(h.spare));
            return object;
        }
        return_filled(c, filled, gfp);
    }
    return alloc_uncached(c, gfp);
}

void cache_free(unsigned cls, void *object, gfp_t gfp) {
    kmem_cache &c = g_caches[cls];
    for (int i = 0; i < kTries; i++) {
        if (percpu::push(cls, object))
            return;
        if (percpu::current_slot() == nullptr)
            break;
        uint64_t seen = percpu::word(cls);
        halves h(seen);
        if (h.spare == percpu::kDrain)
            break;
        if (h.main != 0 && !is_empty(c, h.main) && *sheaf_slot(h.main) == object) {
            // Refused because it is the newest object already. A migration may have shown us a
            // stale word, so it takes three sightings.
            if (i < 2)
                continue;
            report_double_free(object, c.info.size);
            return;
        }
        if (!is_full(h.main))
            continue;
        if (h.spare != 0 && !is_full(h.spare)) {
            percpu::replace(cls, seen, halves::word(h.spare, h.main));
            continue;
        }
        uint32_t id = get_empty(c, gfp);
        if (id == 0 && h.main != 0 && percpu::replace(cls, seen, halves::word(0, h.spare))) {
            // No sheaf to be had: the full one is ours now, and serves again once it is empty.
            flush_sheaf(c, h.main, gfp);
            put_empty(c, sheaf_id(h.main));
            continue;
        }
        if (id == 0)
            break;
        uint32_t top = sheaf_empty_top(id, c.info.capacity) + 8;
        *sheaf_slot(top) = object;
        uint32_t spare = h.main != 0 ? h.main : h.spare;
        if (percpu::replace(cls, seen, halves::word(top, spare))) {
            if (h.main != 0 && h.spare != 0)
                put_full(c, sheaf_id(h.spare), gfp);
            return;
        }
        put_empty(c, id);
    }
    free_uncached(c, &object, 1, gfp);
}

// Set-up, fork.

void caches_init() {
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        g_caches[cls].cls = static_cast<uint8_t>(cls);
        g_caches[cls].info = kClassTable.info[cls];
    }
}

uint64_t caches_release_empty() {
    uint64_t n = 0;
    for (unsigned cls = 1; cls <= kSmallClasses; cls++) {
        kmem_cache &c = g_caches[cls];
        c.lock.lock();
        merge_late(c);
        slab *surplus = detach_surplus(c, 0);
        c.lock.unlock();
        n += destroy_all(surplus, c.info);
    }
    return n;
}

void cache_flush_sheaf(kmem_cache &c, uint32_t top) {
    flush_sheaf(c, top, GFP_KERNEL);
    sheaf_free(sheaf_id(top));
}

void cache_drain_this_cpu() {
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        kmem_cache &c = g_caches[cls];
        halves h(percpu::word(cls));
        if (h.spare != percpu::kDrain && percpu::replace(cls, halves::word(h.main, h.spare), 0))
            for (uint32_t top : {h.main, h.spare})
                if (top != 0)
                    cache_flush_sheaf(c, top);
        while (uint32_t id = percpu::stack_pop(cls, stack_kind::full))
            cache_flush_sheaf(c, sheaf_full_top(id));
        while (uint32_t id = percpu::stack_pop(cls, stack_kind::empty))
            sheaf_free(id);
    }
}

void cache_drain_own_slot(char *slot) {
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        kmem_cache &c = g_caches[cls];
        uint64_t &word = slot_field<uint64_t>(slot, kWordsAt + cls * 8);
        halves h(word);
        word = 0;
        for (uint32_t top : {h.main, h.spare})
            if (top != 0)
                cache_flush_sheaf(c, top);
        for (size_t kind : {size_t{0}, size_t{4}}) {
            uint32_t &head = slot_field<uint32_t>(slot, kStacksAt + cls * 8 + kind);
            while ((head & kSheafIdMask) != 0) {
                uint32_t id = head & kSheafIdMask;
                head = sheaf_links()[id];
                if (kind == 0)
                    cache_flush_sheaf(c, sheaf_full_top(id));
                else
                    sheaf_free(id);
            }
        }
    }
}

void caches_lock_for_fork() {
    for (unsigned cls = 1; cls <= kLastClass; cls++)
        g_caches[cls].lock.lock_for_fork();
}

void caches_unlock_after_fork(bool child) {
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        if (child)
            g_caches[cls].lock.reset_in_child();
        else
            g_caches[cls].lock.unlock_after_fork();
    }
}

} // namespace pagoda
