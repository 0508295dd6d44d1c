// A device's configuration space.
#pragma once

#include "dma/pci_device.h"

namespace pagoda::dma {

// Sets or clears bits of PCI_COMMAND. 0, or -errno with its sentence.
int config_command(bus &b, unsigned bits, bool set);

} // namespace pagoda::dma
