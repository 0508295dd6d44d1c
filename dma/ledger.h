// What stands at device addresses and takes more than arithmetic to undo: ranges with an address of
// their own, coherent memory, linked pieces. One record each, found by space and address.
#pragma once

#include "dma/space.h"

namespace pagoda::dma {

enum class entry_kind : uint8_t {
    range,    // dma_map_single of memory with an address of its own
    resource, // a device's memory
    coherent, // dma_alloc_coherent: pages of the device zones
    region,   // dma_alloc_coherent: a shared region and its range
    pages,    // dma_alloc_pages
    piece,    // dma_iova_link
    run,      // dma_map_sg: pieces with addresses in a row
};

struct ledger_entry {
    const space *in;
    uint64_t address;
    void *memory;
    size_t bytes;
    entry_kind kind;
    bool held; // the object, with pagoda_object_hold()
};

// -ENOMEM. `may_block` as for kmalloc.
int ledger_add(const ledger_entry &entry, bool may_block);
// The record at exactly this address. False: none.
bool ledger_find(const space *in, uint64_t address, ledger_entry *entry);
// Takes it out, when it says the same of the same memory. False: it is not there any more.
bool ledger_remove(const ledger_entry &entry);
// What was taken out is still mapped: puts it back, so that it can be undone another time. Without
// memory for that it stays as it is.
inline void ledger_put_back(const ledger_entry &entry) { ledger_add(entry, false); }
// The space is gone: so are its records, and the holds in them. How many there were.
uint64_t ledger_forget(const space *in);

} // namespace pagoda::dma
