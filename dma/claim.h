// Claims on ranges of BARs: request_mem_region() and pci_request_regions().
#pragma once

#include "dma/pci_device.h"

namespace pagoda::dma {

// Ends all of a device's.
void claims_end(const bus *b);

} // namespace pagoda::dma
