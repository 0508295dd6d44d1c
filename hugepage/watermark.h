// The watermark x flag table: how much of the reserve an allocation may have, by its flags. The
// reserve is the kernel's `min` watermark made real: pages that ordinary allocations never see and
// that hold memory already.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

namespace pagoda {

enum class watermark : uint8_t { min, low, high };

constexpr uint64_t watermark_of(uint64_t min_pages, watermark w) {
    return w == watermark::min   ? min_pages
           : w == watermark::low ? min_pages + min_pages / 4
                                 : min_pages + min_pages / 2;
}

// Inside the library only. Beside flags that may not block: no lock wait, but system calls about
// the pages and faults will do; a handler that calls malloc has this, GFP_ATOMIC has not. Beside
// flags that may block: the pages need never hold memory.
inline constexpr gfp_t kGfpMayFault = 1u << 31;
static_assert(kGfpMayFault > __GFP_BITS_MASK);

struct reserve_rule {
    gfp_t mask;
    gfp_t set;      // of the mask, exactly these
    unsigned stays; // eighths of the min watermark that are not for this allocation
};

// The first row that fits holds. A blocking allocation comes here only after growing failed, so
// GFP_KERNEL takes what the system has, and __GFP_HIGH the half of the reserve after that.
inline constexpr reserve_rule kReserveRules[] = {
    {__GFP_NOMEMALLOC, __GFP_NOMEMALLOC, 8},
    {__GFP_MEMALLOC, __GFP_MEMALLOC, 0},
    {__GFP_HIGH | __GFP_DIRECT_RECLAIM, __GFP_HIGH, 3}, // GFP_ATOMIC
    {__GFP_HIGH, __GFP_HIGH, 4},
    {0, 0, 8},
};

// Pages of a reserve of `min_pages` that stay whatever happens.
constexpr uint64_t reserve_floor(gfp_t gfp, uint64_t min_pages) {
    for (const reserve_rule &rule : kReserveRules)
        if ((gfp & rule.mask) == rule.set)
            return min_pages * rule.stays / 8;
    return min_pages;
}

} // namespace pagoda
