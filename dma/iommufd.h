// iommufd: one of its I/O address spaces, which devices are attached to by their own nodes.
#pragma once

#include "dma/iommu.h"

namespace pagoda::dma {

// Over an I/O address space with a device attached; owns the descriptor. NULL: no memory, and it is
// closed.
iommu *iommufd_create(int iommufd, uint32_t ioas);

} // namespace pagoda::dma
