// Mappings of BARs: ioremap(), pci_iomap(), and their end.
#pragma once

#include "dma/pci_device.h"

namespace pagoda::dma {

// `bytes` from `offset` on. NULL: errno and the sentence say why.
void *io_map(bus &b, int bar, uint64_t offset, uint64_t bytes, bool combine);
// All of a device's, when it is closed; the whole list, in a fork child, where none is.
void io_map_end(const bus *b);
void io_map_forget();

} // namespace pagoda::dma
