// The device addresses that an IOMMU accepts: windows with holes between them.
#pragma once

#include "dma/iommu.h"
#include "dma/page_table.h"
#include "hugepage/base.h"

namespace pagoda::dma {

inline constexpr int kMaxSpaceWindows = 32;
// The last address that is used, whatever the IOMMU says.
inline constexpr uint64_t kLastAddress = (uint64_t{1} << (page_table::kPageBits + kPageShift)) - 1;

struct window_list {
    iova_window window[kMaxSpaceWindows] = {}; // lowest first, of whole granules
    int count = 0;

    // Asks the back end. 0; what it says; -ENOSPC: nothing is left.
    int read(iommu &from);
    bool contains(uint64_t first, uint64_t last) const;
    // Where heap memory is mapped linearly: the largest window, and of those that go beyond 4 GiB
    // what lies there, because what is below is precious.
    iova_window largest(bool *high) const;
    // Calls f(context, first, last) for what lies between the windows, and behind them to the last
    // address of all; returns false as soon as one of the calls does.
    bool each_hole(bool (*f)(void *, uint64_t, uint64_t), void *context) const;
};

} // namespace pagoda::dma
