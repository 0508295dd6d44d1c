// What stands between a device and memory: a back end per kind (software, type1, iommufd, none). A
// back end maps and unmaps; which addresses are given out is the business of the space (space.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma {

inline constexpr int kDeviceReads = 1;  // DMA_TO_DEVICE
inline constexpr int kDeviceWrites = 2; // DMA_FROM_DEVICE

struct iova_window {
    uint64_t first, last; // inclusive
};

struct iommu;

// Errors are -errno. All may block and make system calls; the caller has no lock that a map of
// known memory takes.
struct iommu_ops {
    const char *name; // "type1"
    bool translates;  // false: addresses are physical ones, map() tells them, nothing is isolated
    // Makes [at, at + bytes), whole granules, reachable at `iova`. Pins the pages. -ENOSPC: no
    // further entry; -ENOMEM: memlock limit; -EEXIST: overlaps; -EINVAL: outside the windows.
    int (*map)(iommu &self, uint64_t iova, uintptr_t at, uint64_t bytes, int access);
    // Exactly what one map() made.
    int (*unmap)(iommu &self, uint64_t iova, uint64_t bytes);
    // The windows now, sorted; returns how many (at most `capacity` are written) or -errno.
    int (*windows)(iommu &self, iova_window *out, int capacity);
    // Further entries that map() will accept; UINT64_MAX: no limit is known.
    uint64_t (*entries_left)(iommu &self);
    // The physical address of memory that cannot move, where !translates; 0: unknown, or it can.
    uint64_t (*physical)(iommu &self, uintptr_t at);
    // Everything mapped is gone with it.
    void (*close)(iommu &self);
};

struct iommu {
    const iommu_ops *ops;
    uint64_t granule; // smallest unit of map(), in bytes
};

} // namespace pagoda::dma
