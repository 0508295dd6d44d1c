// dma-debug: a record of each mapping of a device and of its coherent memory, and what is wrong
// with how they are used, each in one line with both call sites. Only for devices that were asked
// for it (pagoda_dma_debug, or the option dma_debug); others have no table, and pay a test.
#pragma once

#include "dma/device.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

// By which function something was made; another family's must not undo it.
enum class made_by : uint8_t {
    single,
    page,
    phys,
    resource,
    list,
    coherent,
    pages,
    noncontiguous,
};
// What the wrappers of dma-mapping.h say.
constexpr made_by made_by_of(unsigned long attrs) {
    return static_cast<made_by>((attrs & PAGODA_DMA_BY) / PAGODA_DMA_BY_PAGE);
}

struct debug_use {
    uint64_t address;
    size_t bytes;
    dma_data_direction dir;
    made_by by;
    const void *caller;
    unsigned pieces = 0; // of a list of which this is the first one
};

// Makes a mapping by map() and its record; with the guard, map() gets a copy of the buffer. Without
// memory for the record, which is what undoes it, there is no mapping.
dma_addr_t debug_map(pagoda_device_state &s, void *p, const debug_use &use,
                     dma_addr_t (*map)(pagoda_device_state &, void *, size_t, dma_data_direction));
// The record alone, of what was made; `p` is not looked at, and NULL where it is a device's. False:
// fail()ed with ENOMEM, and what was made is to be undone.
bool debug_made(pagoda_device_state &s, const void *p, const debug_use &use);
// Undoes a mapping that debug_map() or, where undo() is NULL, debug_made() recorded, as it was made
// and not as `use` says. Nothing is undone that has no record.
void debug_undo(pagoda_device_state &s, const debug_use &use, bool copy_back,
                void (*undo)(pagoda_device_state &, uint64_t, size_t, bool));
// Coherent memory was freed, or, without `freed`, was not, since something is wrong: true says that
// it has been said what.
bool debug_free(pagoda_device_state &s, const debug_use &use, bool freed);

// dma_mapping_error() was asked.
void debug_asked(pagoda_device_state &s, uint64_t address);
// How many pieces the list that is to be undone has; 0: nothing is to be done.
unsigned debug_list_length(pagoda_device_state &s, const debug_use &first);
// A part is going to be the device's, or has become the processor's.
void debug_synced(pagoda_device_state &s, const debug_use &part, bool for_device);
// Devices see copies, which are to be synchronised.
bool debug_guards(const pagoda_device_state &s);

// As the option says. A failure is one line.
void debug_begin(pagoda_device_state &s);
// The device goes: names what is left.
void debug_forget(pagoda_device_state &s);

} // namespace pagoda::dma
