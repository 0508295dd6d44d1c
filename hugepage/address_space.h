// Where Pagoda lives in the address space: one random, far-away region, divided into windows that
// grow in place. Nothing is reserved ahead beyond a window's own growth step, so RLIMIT_AS (also
// one lowered later), mlockall and VIRT columns see what is used; docs/design.md has the reasons.
//
//   | per-CPU | sheaves | slots | links | memfd pages | page_class | memmap | pageblocks | meta |
//   vm index | zone … | vmalloc … |
//
// Index arithmetic (pointer -> page -> page_class, struct page) needs the zone's base only.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

inline constexpr size_t kZoneSpan = size_t{8} << 40;    // addresses, not memory
inline constexpr size_t kVmallocSpan = size_t{8} << 40; // likewise
inline constexpr size_t kMemfdPagesSpan = size_t{64} << 30;
inline constexpr size_t kGiB = size_t{1} << 30;
// From the per-CPU window to the sheaves: a constant, so that the hot path needs one base only.
inline constexpr size_t kSheavesBehindPercpu = 2 * kGiB;

// A contiguous array of zeroed, writable memory that grows at its end and never moves.
class window {
  public:
    // Maps the first `bytes` at `base`. False: something is mapped there already, or a limit. With
    // 0 bytes the place alone is noted, for another open() later.
    bool open(uintptr_t base, size_t limit, size_t bytes, const char *name);
    // Undoes open(); only before anything was stored.
    void close();
    // Makes [base, base + bytes) usable; grows by at least 1/16 of what there is. False at a
    // limit. The caller holds the lock of whatever lives in the window.
    bool reach(size_t bytes);
    // What there is holds memory, and so will what comes: no access faults any more. Same lock.
    void keep_populated();
    // For callers that keep a stock for others who may not wait: reaches `bytes` + `stock` once
    // less than half of the stock is left.
    void restock(size_t bytes, size_t stock) {
        if (PAGODA_UNLIKELY(stock != 0) && bytes + stock / 2 > bytes_)
            reach_if_easy(bytes + stock);
    }
    // reach() for callers that have another way: one that was refused a moment ago is refused
    // again without system calls.
    bool reach_if_easy(size_t bytes);

    uintptr_t base() const { return base_; }
    size_t bytes() const { return bytes_; }
    template <class T> T *as() const { return reinterpret_cast<T *>(base_); }

  private:
    uintptr_t base_ = 0;
    size_t limit_ = 0;
    size_t bytes_ = 0;
    bool populated_ = false;
    uint64_t refused_at_ = 0; // ms; by reach_if_easy
};

struct address_space {
    window percpu;
    window slots;
    window sheaves;
    window sheaf_links;
    window memfd_pages; // not before somebody wants memory that can be shared
    window page_class;
    window memmap;
    window pageblocks;
    window meta;
    window vm_index;
    uintptr_t zone_base = 0;    // 1 GiB aligned
    uintptr_t vmalloc_base = 0; // 1 GiB aligned
};

extern PAGODA_INTERNAL address_space g_space;

// Picks the region and opens the metadata windows; `percpu_bytes` is fixed for the process's life.
// False when no region could be had (a limit so low that nothing fits). Called once, under the
// init lock.
bool address_space_init(size_t percpu_bytes);

} // namespace pagoda
