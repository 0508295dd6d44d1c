// The software IOMMU and the device behind it, <pagoda/software_device.h>. The back end is a page
// table from device pages to addresses; without translation, a table that makes up a frame for each
// 2 MiB block that somebody asks about.
#pragma once

#include "dma/iommu.h"

#include <pagoda/software_device.h>

namespace pagoda::dma {

// By the options, of which the name, the width and `beside` are the device's. NULL: no memory, or
// they make no sense; -errno in *error.
iommu *software_iommu_create(const pagoda_software_options &options, int *error);

} // namespace pagoda::dma
