// What devices can reach of vmalloc areas: granules that are held (pagoda_block_hold) and objects,
// that is areas, in use (pagoda_object_hold). See hugepage/provider.h.
#pragma once

#include "lib/vm_range.h"

#include <stddef.h>

namespace pagoda {

// Which granules of an area are held; an area has one from its first hold on.
struct granule_holds {
    uint32_t count;  // of granules that are held
    uint32_t words;  // per bitmap
    uint64_t bits[]; // held; populated, too: nobody touches its pages for a further hold

    uint64_t *held() { return bits; }
    uint64_t *populated() { return bits + words; }
};

// Some granule of it is held: its mapping stays as it is. Under vmalloc's lock, or by its owner.
inline bool area_is_held(const vm_area *a) {
    return a->granules_held != nullptr && a->granules_held->count != 0;
}
// False: no area is held, nor was one, or only before a fork.
bool any_area_was_held();
// An area is in use by a device.
inline bool area_in_use(const vm_area *a) { return a->holds.load(std::memory_order_acquire) != 0; }
// Asks the library above for an area that nobody else finds. True: no granule of it is held any
// more. No locks held.
bool area_let_go(vm_area *a);
// Drops the record of holds of an area that is not held. Not under vmalloc's lock.
void area_forget_holds(vm_area *a);

// pagoda_block_hold and its end for vmalloc's memory.
int area_hold_block(const void *p, void **start, size_t *bytes);
void area_release_block(const void *p);
// pagoda_object_hold and its end.
int area_hold_object(const void *p, size_t bytes);
bool area_release_object(const void *p);
// Before the area that starts at p is freed. True: it must not be now, and that was reported.
bool area_puts_off_free(vm_area *a, bool overwrite);

void areas_after_fork_in_child();

} // namespace pagoda
