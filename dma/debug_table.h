// The records of dma-debug, of one device: found by address and by memory, whole or in part.
#pragma once

#include "dma/call_site.h"
#include "dma/debug.h"
#include "dma/interval_tree.h"
#include "dma/ownership.h"

#include <pthread.h>

namespace pagoda::dma {

struct guarded;

struct debug_record {
    interval by_address, by_memory;
    debug_use use;
    const void *memory; // NULL: a device's
    guarded *guard;     // NULL: the device has the buffer itself
    bool asked;         // dma_mapping_error() was
    bool told;          // closed pages were touched, which has been said
    ownership owners;   // where there is a guard or a sum
    uint64_t sum;       // of the device's bytes, where it only reads them

    static debug_record &of_address(interval *i) {
        return at(i, offsetof(debug_record, by_address));
    }
    static debug_record &of_memory(interval *i) { return at(i, offsetof(debug_record, by_memory)); }
    static debug_record &at(interval *i, size_t offset) {
        return *reinterpret_cast<debug_record *>(reinterpret_cast<char *>(i) - offset);
    }

    bool contains(const debug_use &part) const {
        return part.address >= use.address && part.bytes <= use.bytes &&
               part.address - use.address <= use.bytes - part.bytes;
    }
};

// One that is no more.
struct debug_past {
    uint64_t address;
    const void *made, *undone;
};

// Starts at zero.
struct debug_table {
    static constexpr size_t kPast = 256;

    pthread_mutex_t lock;
    const char *name; // the device's
    const space *in;
    bool guards;
    bool stack_told;
    interval_tree addresses, memory;
    debug_past past[kPast];
    size_t past_ever;
    debug_table *next; // of all devices

    void add(debug_record *r);
    void remove(debug_record *r);
    // The one at this very address, made and long as `use` says where there are several. Lists may
    // begin with the same buffer: the one of as many pieces comes first.
    debug_record *find(const debug_use &use) const;
    // The one that a part belongs to: it may lie in several, of buffers that overlap.
    debug_record *best(const debug_use &part) const;

    void note_past(const debug_past &p) { past[past_ever++ % kPast] = p; }
    // The last one; NULL: none, or too long ago.
    const debug_past *find_past(uint64_t address) const;
};

const char *name_of(dma_data_direction dir);
// The functions' names.
const char *maker_of(made_by by);
const char *undoer_of(made_by by);

} // namespace pagoda::dma
