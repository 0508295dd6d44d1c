// Claims on ranges of BARs: request_mem_region() and pci_request_regions().
#pragma once

#include "dma/pci_device.h"

namespace pagoda::dma {

// All of a device's, when it is closed; the whole list, in a fork child.
void claims_end(const bus *b);
void claims_forget();

} // namespace pagoda::dma
