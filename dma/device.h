// What is behind a struct device: how it may use memory, and how it is reached.
#pragma once

#include "dma/space.h"
#include "dma/spaces.h"
#include "dma/tally.h"

#include <pagoda/device.h>
#include <pagoda/dma-mapping.h>

#include <atomic>

namespace pagoda::dma {
struct bus;         // a VFIO device's file descriptors, regions and interrupts; NULL: software
struct managed;     // devm_*: released with the device
struct debug_table; // dma-debug's records
} // namespace pagoda::dma

struct pagoda_device_state {
    struct device dev;
    pagoda::dma::space *space;
    pagoda::dma::heap_windows heap; // the space's: a load less for each unmapping
    pagoda_iommu kind;
    pagoda::dma::bus *bus;
    // dma_set_mask() and friends.
    uint64_t mask;          // streaming; 2^32 - 1 until set
    uint64_t coherent_mask; // likewise
    uint32_t max_segment;   // bytes; 64 KiB
    uint64_t boundary;      // no segment crosses a multiple of this + 1; all ones
    uint32_t min_align_mask;
    pagoda_dma_mode mode; // of streaming mappings
    // Mappings may take the short way: mode GRANULES, counters there, no dma-debug, not gone. Only
    // map_slowly() switches it on; whoever ends one of these switches it off after that.
    std::atomic<bool> direct;
    pagoda::dma::tally *live;      // streaming mappings made, less those undone
    std::atomic<uint64_t> bounced; // of them, ever
    std::atomic<bool> gone;        // set_gone(): removed, closed, or the parent's in a fork child
    pagoda::dma::managed *managed;
    pagoda::dma::debug_table *debug; // NULL: it was not asked for
    // What pagoda_device_close() does instead of device_destroy(), which this calls itself; NULL: a
    // device without a bus.
    void (*on_close)(pagoda_device_state *state);
    unsigned width;                   // of a software device: its address lines
    pagoda_device_state *next_beside; // of the same space
    char name[32];

    void set_gone() {
        gone = true;
        direct = false;
    }
};

namespace pagoda::dma {

// The one sentence for this thread (pagoda_device_error); also sets errno. Returns -error.
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The last sentence knows more of this error than a caller further up will: a back end's, with the
// limit that was in the way. The caller asks, once, and adds none of its own; errno is set again.
void keep_sentence(int error);
bool sentence_is_kept(int error);
// Something new begins: what was kept is of a failure that another way made good.
void forget_sentence();

// A device without a bus on this space, which is in the list of spaces (spaces_add) and which it
// shares. NULL: no memory.
pagoda_device_state *device_create(space *s, pagoda_iommu kind, const char *name);
// The last device of a space takes the space along, and what is mapped there. Its pools are
// forgotten already (pools_forget).
void device_destroy(pagoda_device_state *state);

} // namespace pagoda::dma
