// VFIO's no-IOMMU mode: devices use physical addresses and reach all of the machine's memory.
#pragma once

#include "dma/iommu.h"

namespace pagoda::dma {

// NULL: no memory; *error says otherwise why not: -EPERM where the kernel hides physical addresses.
// Owns the container's descriptor, and closes it on failure.
iommu *noiommu_create(int container, int *error);

} // namespace pagoda::dma
