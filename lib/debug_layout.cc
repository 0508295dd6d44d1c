#include "lib/debug_layout.h"

#include <string.h>

namespace pagoda {
namespace {

// The kernel's bytes (include/linux/poison.h), so that a dump looks familiar.
constexpr unsigned char kRedFree = 0xbb;
constexpr unsigned char kRedInUse = 0xcc;
constexpr unsigned char kPoison = 0x6b;
constexpr unsigned char kPoisonEnd = 0xa5;
constexpr uint32_t kRightZone = 8;

struct users {
    const void *allocated; // by the call at this address
    const void *freed;
};

uint32_t right_end(const cache_traits &t) {
    return static_cast<uint32_t>(align_up(t.lead + t.object_size + kRightZone, 8));
}

users *users_of(const kmem_cache &c, const char *slot) {
    return reinterpret_cast<users *>(const_cast<char *>(slot) + right_end(*c.traits));
}

void set_red_zones(const kmem_cache &c, char *slot, unsigned char byte) {
    const cache_traits &t = *c.traits;
    if ((t.flags & SLAB_RED_ZONE) == 0)
        return;
    memset(slot, byte, t.lead);
    memset(slot + t.lead + t.object_size, byte, right_end(t) - t.lead - t.object_size);
}

// A constructed object keeps its state, and one that readers may still look at what it holds.
bool is_poisoned(const cache_traits &t) {
    return (t.flags & (SLAB_POISON | SLAB_TYPESAFE_BY_RCU)) == SLAB_POISON && t.ctor == nullptr;
}

void poison(const kmem_cache &c, char *slot) {
    const cache_traits &t = *c.traits;
    if (!is_poisoned(t))
        return;
    memset(slot + t.lead, kPoison, t.object_size - 1);
    slot[t.lead + t.object_size - 1] = static_cast<char>(kPoisonEnd);
}

void report(const kmem_cache &c, const char *slot, const char *what, const char *at,
            unsigned char expected) {
    text_buffer<400> t;
    t << "BUG " << c << ": " << what << ": byte " << static_cast<const void *>(at) << " of object "
      << static_cast<const void *>(slot + c.traits->lead) << " is "
      << static_cast<unsigned>(static_cast<unsigned char>(*at)) << ", not "
      << static_cast<unsigned>(expected);
    debug_show_users(t, c, slot);
    misuse(t);
}

void check(const kmem_cache &c, const char *slot, const char *from, const char *to,
           unsigned char byte, const char *what) {
    for (const char *p = from; p < to; p++) {
        if (static_cast<unsigned char>(*p) != byte) {
            report(c, slot, what, p, byte);
            return;
        }
    }
}

void check_red_zones(const kmem_cache &c, const char *slot, unsigned char byte) {
    const cache_traits &t = *c.traits;
    if ((t.flags & SLAB_RED_ZONE) == 0)
        return;
    const char *object = slot + t.lead;
    check(c, slot, slot, object, byte, "left red zone overwritten");
    check(c, slot, object + t.object_size, slot + right_end(t), byte, "right red zone overwritten");
}

} // namespace

uint32_t debug_layout(cache_traits &t) {
    if ((t.flags & SLAB_RED_ZONE) != 0)
        t.lead = static_cast<uint32_t>(align_up(8, t.align));
    uint32_t end = (t.flags & kDebugFlags) != 0 ? right_end(t) : t.object_size;
    if ((t.flags & SLAB_STORE_USER) != 0)
        end += static_cast<uint32_t>(sizeof(users));
    return end;
}

void debug_init_object(const kmem_cache &c, char *slot) {
    set_red_zones(c, slot, kRedFree);
    poison(c, slot);
}

void debug_note_alloc(const kmem_cache &c, char *slot, const void *caller) {
    const cache_traits &t = *c.traits;
    check_red_zones(c, slot, kRedFree);
    if (is_poisoned(t)) {
        const char *end = slot + t.lead + t.object_size - 1;
        check(c, slot, slot + t.lead, end, kPoison, "written to after it was freed");
        check(c, slot, end, end + 1, kPoisonEnd, "written to after it was freed");
    }
    set_red_zones(c, slot, kRedInUse);
    if ((t.flags & SLAB_STORE_USER) != 0)
        users_of(c, slot)->allocated = caller;
}

void debug_note_free(const kmem_cache &c, char *slot, const void *caller) {
    check_red_zones(c, slot, kRedInUse);
    set_red_zones(c, slot, kRedFree);
    poison(c, slot);
    if ((c.traits->flags & SLAB_STORE_USER) != 0)
        users_of(c, slot)->freed = caller;
}

void debug_show_users(text &t, const kmem_cache &c, const char *slot) {
    if ((c.traits->flags & SLAB_STORE_USER) == 0)
        return;
    const users *u = users_of(c, slot);
    if (u->allocated != nullptr)
        t << "; allocated at " << u->allocated;
    if (u->freed != nullptr)
        t << "; freed at " << u->freed;
}

} // namespace pagoda
