// The vmalloc range's addresses, in granules of 2 MiB: which are taken, which are free, and what
// area an address belongs to. No mapping happens here; the caller holds the vmalloc lock.
#pragma once

#include "hugepage/address_space.h"
#include "hugepage/base.h"

#include <atomic>

namespace pagoda {

// Two states of areas that wait for the lock's next holder: `deferred`, freed and to be cached;
// `unmapped`, whose addresses are free.
enum class vm_state : uint8_t { free, busy, cached, deferred, unmapped };

// A span of granules. Its first and last granule point to it in the index, so neighbours are found.
struct vm_area {
    struct group *owner; // busy: is charged for it; NULL: nobody
    vm_area *next;       // in a bin of free spans, or the list of cached areas
    vm_area *prev;
    uint32_t first; // granule
    uint32_t granules;
    size_t bytes;  // the owner's, from the start
    size_t mapped; // at least as many: what is left of an earlier owner's may stay mapped
    vm_state state;
    bool lost;    // somebody else maps something there: never used again
    bool guarded; // busy: nothing is mapped behind `bytes`, ever
    bool refused; // cached: devices reach it, and the library above did not let go of it
    std::atomic<uint32_t> holds;         // of the area as an object; see lib/area_hold.h
    struct granule_holds *granules_held; // NULL: none ever was
};

class vm_range {
  public:
    // A busy span of `granules` whose first is a multiple of `align_granules`; NULL when addresses
    // or records are short.
    vm_area *take(uint32_t granules, uint32_t align_granules);
    // Back, merged with free neighbours.
    void release(vm_area *area);
    // Makes a busy span longer at its end by what is free behind it. False: not enough is.
    bool widen(vm_area *area, uint32_t granules);

    // The span that starts with p's granule, or ends there.
    vm_area *at(const void *p) const;
    // The span that p lies in; searches downwards, for reports.
    vm_area *containing(const void *p) const;

    // Every span there is.
    template <class F> void for_each(F fn) const {
        for (uint32_t at = 0; at < frontier_; at += index()[at]->granules)
            fn(index()[at]);
    }

    static uintptr_t address(const vm_area *a) {
        return g_space.vmalloc_base + (uintptr_t{a->first} << kPageblockShift);
    }

  private:
    vm_area **index() const { return g_space.vm_index.as<vm_area *>(); }
    void set_index(vm_area *a);
    void clear_index(const vm_area *a);
    void put_bin(vm_area *a);
    void take_bin(vm_area *a);
    vm_area *split(vm_area *a, uint32_t granules);
    vm_area *find_bin(uint32_t granules, uint32_t align) const;
    vm_area *extend_frontier(uint32_t granules);

    vm_area *bins_[24] = {}; // free spans by log2 of their granules
    uint32_t frontier_ = 0;  // granules ever used
};

} // namespace pagoda
