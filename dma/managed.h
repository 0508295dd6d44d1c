// What goes with a device when it is closed: devm_*, and dmam_* of the DMA API.
#pragma once

#include "dma/device.h"

namespace pagoda::dma {

// Calls release(data) when the device is closed. 0 or -ENOMEM, -ENODEV.
int managed_add(pagoda_device_state *state, void (*release)(void *data), void *data);
// Forgets the last one with these two. False: there is none.
bool managed_remove(pagoda_device_state *state, void (*release)(void *data), void *data);
// Releases all of them, the last first, and what they add meanwhile.
void managed_release(pagoda_device_state *state);

} // namespace pagoda::dma
