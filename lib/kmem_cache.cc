#include "lib/kmem_cache.h"

#include "lib/debug_layout.h"
#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/misuse.h"
#include "lib/page_run.h"
#include "lib/slab_cache.h"

namespace pagoda {

kmem_cache g_caches[kLastUserClass + 1];
std::atomic<uint32_t> g_cache_end{kLastClass + 1};

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

void *alloc_uncached(kmem_cache &c, gfp_t gfp) {
    if (c.info.is_run)
        return run_alloc_class(c, gfp);
    void *object = nullptr;
    return take_from_slabs(c, &object, 1, gfp) == 1 ? object : nullptr;
}

void free_uncached(kmem_cache &c, void *const *objects, uint32_t count, gfp_t gfp) {
    if (!c.info.is_run) {
        give_to_slabs(c, objects, count, gfp);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        run_free_class(c, objects[i], gfp);
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

text &operator<<(text &t, const kmem_cache &c) {
    if (c.traits != nullptr)
        return t << c.traits->name;
    return t << "malloc-" << uint64_t{c.info.size};
}

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
            report_double_free(c, object);
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

// Without sheaves.

void *shared_alloc(kmem_cache &c, gfp_t gfp, const void *caller) {
    bool accounted = (gfp & __GFP_ACCOUNT) != 0 || (c.traits->flags & SLAB_ACCOUNT) != 0;
    group *payer = accounted ? current_group() : nullptr;
    if (!group_charge(payer, c.info.size))
        return nullptr;
    void *slot = nullptr;
    if (take_from_slabs(c, &slot, 1, gfp) == 0) {
        group_uncharge(payer, c.info.size);
        return nullptr;
    }
    if (payer != nullptr && !group_set_owner(slab_find(c.info, slot), payer, gfp)) {
        give_to_slabs(c, &slot, 1, gfp);
        group_uncharge(payer, c.info.size);
        return nullptr;
    }
    if ((c.traits->flags & kDebugFlags) != 0)
        debug_note_alloc(c, static_cast<char *>(slot), caller);
    return static_cast<char *>(slot) + c.traits->lead;
}

void shared_free(void *object, gfp_t gfp, const void *caller) {
    if (device_state(static_cast<uint32_t>(page_index(object))) == kParentsBlock)
        return; // it is not there, and its slab is on no list
    const slab *own = page_at(static_cast<uint32_t>(page_index(object))).slab;
    if (own == nullptr) { // it went a moment ago
        report_double_free(object);
        return;
    }
    kmem_cache *c = own->cache;
    char *slot = static_cast<char *>(object) - c->traits->lead;
    // In front of its slab's first object a pointer is none of the slab before.
    const char *first = static_cast<const char *>(page_address(own->first));
    slab_position at = slot >= first ? slab_find(c->info, slot) : slab_position{};
    if (!at.exact) {
        size_t offset = slot >= first ? static_cast<size_t>(slot - first) % c->info.size
                                      : reinterpret_cast<uintptr_t>(object);
        report_interior(*c, object, offset);
        return;
    }
    if (slab_is_free(at)) { // its marks are a free object's already
        report_double_free(*c, object);
        return;
    }
    if ((c->traits->flags & kDebugFlags) != 0)
        debug_note_free(*c, slot, caller);
    group_uncharge(group_take_owner(at), c->info.size);
    void *const slots[] = {slot};
    give_to_slabs(*c, slots, 1, gfp);
}

// Set-up, fork.

void caches_init() {
    for (unsigned cls = 1; cls <= kLastClass; cls++) {
        kmem_cache &c = g_caches[cls];
        c.cls = static_cast<uint8_t>(cls);
        c.info = kClassTable.info[cls];
    }
}

void cache_flush_sheaf(kmem_cache &c, uint32_t top) {
    flush_sheaf(c, top, GFP_KERNEL);
    sheaf_free(sheaf_id(top));
}

void cache_drain_this_cpu() {
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
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
    for (unsigned cls = 1; cls < g_cache_end; cls++) {
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

// In a child their memory is gone: see lib/device_pages.h.
static void forget_device_slabs() {
    for (kmem_cache *c = first_shared_cache(); c != nullptr; c = c->traits->next)
        if (c->traits->device_mask != 0)
            cache_forget_slabs(*c);
}

void caches_lock_for_fork() {
    caches_list_lock().lock_for_fork();
    for (unsigned cls = 1; cls < g_cache_end; cls++)
        g_caches[cls].lock.lock_for_fork();
    for (kmem_cache *c = first_shared_cache(); c != nullptr; c = c->traits->next)
        c->lock.lock_for_fork();
}

void caches_unlock_after_fork(bool child) {
    if (child)
        forget_device_slabs();
    auto unlock = [&](mutex &m) {
        if (child)
            m.reset_in_child();
        else
            m.unlock_after_fork();
    };
    for (unsigned cls = 1; cls < g_cache_end; cls++)
        unlock(g_caches[cls].lock);
    for (kmem_cache *c = first_shared_cache(); c != nullptr; c = c->traits->next)
        unlock(c->lock);
    unlock(caches_list_lock());
}

} // namespace pagoda
