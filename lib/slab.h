// Slabs: runs of pages cut into objects of one class, with a bitmap of the free ones outside the
// objects. Everything here happens under the cache's lock unless it says otherwise.
#pragma once

#include "hugepage/base.h"
#include "hugepage/page.h"
#include "lib/rcu_item.h"
#include "lib/size_class.h"

#include <pagoda/gfp.h>

#include <atomic>

namespace pagoda {

inline constexpr unsigned kOccupancies = 8; // partial lists, by eighths in use

struct kmem_cache;

// A slab's record. The bitmaps follow it: free objects, frees that could not lock, and in debug
// builds the objects the program holds.
struct slab {
    rcu_item deferred; // waits for a grace period with its pages
    slab *all_next;    // in a cache with traits: on its list of all slabs
    slab *all_prev;
    kmem_cache *cache;
    std::atomic<struct group **> owners; // who is charged for each object; NULL: nobody was yet
    slab *next;
    slab *prev;
    slab *late_next;                            // on the cache's list of slabs with late frees
    std::atomic<std::atomic<uint16_t> *> holds; // lib/hold.h: for each object; NULL: never any
    uint32_t first;                             // page index
    uint16_t in_use;                            // objects not free in the bitmap
    uint16_t objects;
    uint8_t cls;
    uint8_t list;                    // partial list + 1; 0: full, on none
    std::atomic<uint8_t> has_late;   // it is on that list
    std::atomic<uint16_t> late_pins; // late frees under way: the record must stay
    uint8_t words;                   // per bitmap
    uint64_t *free_map() { return reinterpret_cast<uint64_t *>(this + 1); }
    std::atomic<uint64_t> *late_map() {
        return reinterpret_cast<std::atomic<uint64_t> *>(free_map() + words);
    }
    std::atomic<uint64_t> *live_map() { return late_map() + words; } // debug builds
};

// Where a pointer lies in its slab.
struct slab_position {
    struct slab *slab; // NULL: the page belongs to no slab
    uint32_t object;   // number
    bool exact;        // the pointer is an object's first byte
};

// Position of a pointer whose page_class is `info`'s class. No lock needed for a pointer to a live
// object.
inline slab_position slab_find(const class_info &info, const void *p) {
    uint32_t head = static_cast<uint32_t>(page_index(p)) & ~((1u << info.order) - 1);
    struct slab *s = page_at(head).slab;
    if (s == nullptr)
        return {nullptr, 0, false};
    uint32_t offset = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p) -
                                            reinterpret_cast<uintptr_t>(page_address(s->first)));
    uint32_t object = static_cast<uint32_t>(uint64_t{offset} * info.reciprocal >> 32);
    return {s, object, object * info.size == offset && object < info.objects};
}

// Whether the object is free in its slab or about to be. A hint where others free it meanwhile.
inline bool slab_is_free(const slab_position &at) {
    uint64_t bits = __atomic_load_n(&at.slab->free_map()[at.object / 64], __ATOMIC_RELAXED) |
                    at.slab->late_map()[at.object / 64].load(std::memory_order_relaxed);
    return (bits >> (at.object % 64) & 1) != 0;
}

// A new slab with every object free, linked nowhere; NULL when pages or metadata are short.
// Takes its pages from the zone: not under the cache's lock. `populate`: fault it in at once.
slab *slab_create(unsigned cls, const class_info &info, gfp_t gfp, bool populate,
                  uint64_t device_mask = 0);
// Gives an empty slab's pages and record back. Not under the cache's lock. Blocking.
void slab_destroy(slab *s, const class_info &info);

// The partial lists of one cache.
class slab_lists {
  public:
    void add(slab *s);    // after create
    void update(slab *s); // after in_use changed
    void remove(slab *s);
    slab *fullest() const; // a slab with free objects, the fuller the better; NULL: none
    slab *empty() const { return heads_[0]; }
    slab *head(unsigned list) const { return heads_[list]; }

  private:
    static unsigned list_for(const slab *s);
    slab *heads_[kOccupancies + 1] = {}; // [0]: in_use 0; [1..8]: by eighths
};

// Up to `want` free objects of `s`, lowest addresses first, into out[]. Returns how many.
uint32_t slab_take(slab *s, const class_info &info, void **out, uint32_t want);

} // namespace pagoda
