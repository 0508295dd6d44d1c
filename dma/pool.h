// What a struct dma_pool has behind it. Its blocks are objects of a kmem_cache whose slabs are
// pages of the device zones, so that they come from the CPU's sheaves; a block's device address is
// arithmetic, from the granule of the heap that it lies in. Where that is the pool's window, the
// header does it.
#pragma once

#include "dma/device.h"

#include <pagoda/dmapool.h>

namespace pagoda::dma {

inline constexpr uint8_t kPoisonFreed = 0xa7;
inline constexpr uint8_t kPoisonAllocated = 0xa9;

// The device is about to be closed: complains about its pools. Their blocks can still be freed, and
// they destroyed.
void pools_forget(pagoda_device_state &s);

} // namespace pagoda::dma
