// The guard of dma-debug: the device has a copy of the buffer, and the buffer itself is poisoned,
// where the device writes, and closed to the processor where it has pages of its own. What the
// device wrote comes back when the processor's turn is.
#pragma once

#include "dma/device.h"
#include "dma/fence.h"
#include "dma/ownership.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

inline constexpr unsigned char kDevicesByte = 0xdb; // what the processor finds that reads too early

struct guarded {
    char *memory;
    size_t bytes;
    dma_data_direction dir;
    char *copy;
    void *block; // that the copy is in
    bool held;   // the object
    bool closable;
    fence *pages;
    ownership *owners; // of the record
};

// Makes the copy, and holds the object. NULL: no memory, or nothing that could be mapped.
guarded *guard_copy(void *p, size_t bytes, dma_data_direction dir, ownership *owners);
// The device has it.
void guard_begin(guarded &g, const owned_buffer &what);
// Opens its pages, for a while or for good. True: they were touched before, which was said.
bool guard_pause(guarded &g);
bool guard_open(guarded &g);
// Where the processor wrote into a buffer that the device writes: an offset, or `bytes`.
size_t guard_written(const guarded &g);
// A part is going to be the processor's, and the device's again: before the owners are told.
void guard_to_processor(guarded &g, size_t offset, size_t bytes);
void guard_to_device(guarded &g, size_t offset, size_t bytes);
// Closes its pages again, once the owners are told, if all is the device's.
void guard_close(guarded &g);
// The device has it no longer, and it was opened.
void guard_end(guarded *g);
// The same, where a device may still write to the copy, which stays for good.
void guard_abandon(guarded *g);

} // namespace pagoda::dma
