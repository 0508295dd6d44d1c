#include "dma/masks.h"

#include "dma/swiotlb.h"

#include <errno.h>
#include <unistd.h>

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_dma_set_masks(device *dev, uint64_t mask, bool streaming, bool coherent) {
    pagoda_device_state &s = *dev->state;
    if ((mask & (mask + 1)) != 0 || mask < kSmallestMask) {
        fail(EIO, "%s: a mask is 24 to 64 low bits, not %#llx", s.name,
             static_cast<unsigned long long>(mask));
        return -EIO;
    }
    if (mask < UINT32_MAX && s.space->translates()) {
        iova_window lowest{UINT64_MAX, UINT64_MAX};
        if (s.space->windows(&lowest, 1) < 1 || lowest.first > mask) {
            fail(EIO, "%s: the IOMMU has no addresses within the mask %#llx", s.name,
                 static_cast<unsigned long long>(mask));
            return -EIO;
        }
    }
    if (streaming)
        s.mask = mask;
    if (coherent)
        s.coherent_mask = mask;
    return 0;
}

PAGODA_EXPORT uint64_t pagoda_dma_mask(const device *dev) { return dev->state->mask; }

PAGODA_EXPORT uint64_t pagoda_dma_required_mask(device *dev) {
    // A window that lies low is reached by all that any device has to drive.
    if (const space &s = *dev->state->space; s.translates())
        return max_of<uint64_t>(UINT32_MAX, (uint64_t{2} << log2_floor(s.last_linear() | 1)) - 1);
    // Memory begins again behind the hole for devices below 4 GiB, which is 1 GiB or less.
    auto bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                 static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return (uint64_t{2} << log2_floor(bytes + (1u << 30))) - 1;
}

PAGODA_EXPORT size_t pagoda_dma_max_mapping_size(device *dev) {
    const pagoda_device_state &s = *dev->state;
    return s.space->translates() && s.mode != PAGODA_DMA_BOUNCE
               ? SIZE_MAX
               : swiotlb::max_bytes(s.min_align_mask);
}

PAGODA_EXPORT pagoda_dma_limits pagoda_dma_get_limits(const device *dev) {
    const pagoda_device_state &s = *dev->state;
    return {s.max_segment, s.min_align_mask, s.boundary};
}

PAGODA_EXPORT void pagoda_dma_set_limits(device *dev, pagoda_dma_limits limits) {
    pagoda_device_state &s = *dev->state;
    s.max_segment = limits.max_segment;
    s.min_align_mask = limits.min_align_mask;
    s.boundary = limits.boundary;
}

PAGODA_EXPORT unsigned long pagoda_dma_merge_boundary(device *dev) {
    iommu &back_end = dev->state->space->back_end();
    return back_end.ops->translates ? back_end.granule - 1 : 0;
}
