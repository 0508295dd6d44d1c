// iommufd: one of its I/O address spaces, which devices are attached to by their own nodes.
#pragma once

#include "dma/iommu.h"

namespace pagoda::dma {

// Over an I/O address space with a device attached; owns the descriptor. NULL: *error is -ENOMEM or
// what the kernel says of its windows, and the descriptor is closed.
iommu *iommufd_create(int iommufd, uint32_t ioas, int *error);

} // namespace pagoda::dma
