// What addresses and lengths a device can use (dma_set_mask and its family), and what follows from
// that.
#pragma once

#include "dma/device.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

// Below 24 bits no memory is set aside.
inline constexpr uint64_t kSmallestMask = DMA_BIT_MASK(24);

} // namespace pagoda::dma
