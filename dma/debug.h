// dma-debug: a record of each streaming mapping of a device, and what is wrong with how they are
// used, each in one line. Only for devices that were asked for it (pagoda_dma_debug); others have
// no table, and pay a test.
#pragma once

#include "dma/device.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

// A mapping was made.
void debug_mapped(pagoda_device_state &s, const void *p, size_t bytes, uint64_t address,
                  dma_data_direction dir, const void *caller);
// One is to be undone: size and direction become those that it was made with. False: there is none,
// so that nothing is to be done.
bool debug_unmapping(pagoda_device_state &s, uint64_t address, size_t *bytes,
                     dma_data_direction *dir);
void debug_synced(pagoda_device_state &s, uint64_t address, size_t bytes, dma_data_direction dir,
                  bool for_device);
// The device goes: names the mappings that are left.
void debug_forget(pagoda_device_state &s);

} // namespace pagoda::dma
