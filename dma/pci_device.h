// A PCI device that is open over VFIO: what struct device's `bus` is.
#pragma once

#include "dma/attach.h"
#include "dma/device.h"
#include "dma/interrupts.h"
#include "dma/sentence.h"
#include "dma/vfio.h"

#include <pagoda/pci.h>
#include <pthread.h>

namespace pagoda::dma {

inline constexpr int kConfigRegion = 7; // after the BARs and the ROM, as VFIO counts
inline constexpr int kRegions = 8;

struct bus {
    bus *next;
    pci_dev pci; // the program's struct device is in here
    attachment at;
    vfio::region regions[kRegions];
    interrupts irqs;
    bool can_reset;
    pthread_mutex_t lock; // of irqs, and of reading, changing and writing a configuration register
};

// The bus of an open device, or NULL with the sentence that it is gone.
bus *bus_of(const pci_dev *pdev);
facts facts_of(const bus &b);

// The BAR of an open device that all of [phys, phys + bytes) lies in, by bus address. NULL: none.
bus *bus_at(uint64_t phys, uint64_t bytes, int *bar);

} // namespace pagoda::dma
