// VFIO's type 1 IOMMU: a container, in which groups of devices share one address space.
#pragma once

#include "dma/iommu.h"

namespace pagoda::dma {

// Over a container whose IOMMU is set; owns the descriptor. NULL: no memory, and the container is
// closed.
iommu *type1_create(int container);

} // namespace pagoda::dma
