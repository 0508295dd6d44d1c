// Views (dma_mmap_coherent and its like): coherent memory at a second address. Memory that is freed
// while it has views goes with the last of them, so that none shows what others use by then.
#pragma once

#include "dma/ledger.h"

namespace pagoda::dma {

// What was freed, and is out of the ledger, has views: true, and the last one gives it back.
bool views_put_off(const ledger_entry &entry);
// The space is about to go. Its views stay.
void views_forget(const space *in);

} // namespace pagoda::dma
