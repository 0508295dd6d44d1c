// Coherent memory (dma_alloc_coherent) and pages that stay mapped (dma_alloc_pages). Both are pages
// of the device zones, which are mapped already. What is longer than a block of pages, or finds no
// room there, is a shared region with a range of its own.
#pragma once

#include "dma/debug.h"
#include "dma/device.h"
#include "dma/ledger.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

// Zeroed memory within the mask, in the ledger as `kind` (coherent or pages). NULL: fail()ed.
void *coherent_alloc(pagoda_device_state &s, size_t bytes, uint64_t mask, gfp_t gfp,
                     entry_kind kind, uint64_t *address);
// Frees what was allocated as that kind, at that address and of that size; complains about anything
// else.
void coherent_free(pagoda_device_state &s, void *p, entry_kind kind, const debug_use &use);

// What was allocated, as any kind, with exactly these arguments. False: nothing.
bool coherent_find(const pagoda_device_state &s, size_t bytes, const void *p, uint64_t address,
                   ledger_entry *entry);
// The memory of an entry that is out of the ledger; without `in` the space is gone. What the IOMMU
// does not let go of goes back into the ledger.
void coherent_give_back(space *in, const ledger_entry &entry);

} // namespace pagoda::dma
