// Streaming mappings (dma_map_single and its family): which way a buffer takes to the device.
//
//   heap memory whose granules are mapped   arithmetic, and a hold on the object
//   heap memory                             its granules are mapped first (space::reach)
//   small, or with neighbours on its pages  a bounce buffer
//   the rest                                a range with an address of its own
//
// Undoing needs no record for the first two and the third: address and granule say which it was.
// Ranges are in the ledger.
#pragma once

#include "dma/device.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

struct debug_use;

// Longer buffers are cheaper to map than to copy, roughly: mapping costs some 10 us.
inline constexpr size_t kBounceAtMost = 64u << 10;

// What the IOMMU is to allow for the direction: kDeviceReads, kDeviceWrites. 0: DMA_NONE, or none.
int access_of(dma_data_direction dir);
// 0, or fail()s with -ENODEV: the device is gone, or the parent's.
int check_usable(const pagoda_device_state &s);
// Turns what space::reach() and map_range() return into a sentence. Returns it.
int explain(const pagoda_device_state &s, int error, size_t bytes);
// The back end did not unmap: says so. Whoever gets this leaves hold and addresses as they are, for
// the device still reaches the memory. With `held`: the caller's caller ends a hold of that object;
// it gets another one.
void stays_mapped(const char *name, uint64_t address, size_t bytes, int error,
                  const void *held = nullptr);
// The same for pagoda_object_hold().
int explain_hold(const pagoda_device_state &s, int error, const void *p, size_t bytes);

// For lists (sg_mapping.cc). A mapping that is a copy, whatever else could be done, and so keeps
// the device's boundary where it can: DMA_MAPPING_ERROR, nothing said.
dma_addr_t map_by_copy(pagoda_device_state &s, void *p, size_t bytes, dma_data_direction dir);
// Mapping and undoing for a device with dma-debug, as of the function and place in `use`.
dma_addr_t map_debugged(pagoda_device_state &s, void *p, const debug_use &use);
void unmap_debugged(pagoda_device_state &s, const debug_use &use, unsigned long attrs);
// dma_sync_single_*, from `caller`.
void sync_mapping(pagoda_device_state &s, dma_addr_t address, size_t bytes, dma_data_direction dir,
                  bool for_device, const void *caller);
// n further mappings. False: there are no counters.
bool count_mappings(pagoda_device_state &s, int64_t n);

// Streaming mappings of the device that are not undone.
uint64_t live_mappings(const pagoda_device_state &s);
// The device goes: its counters. How many mappings it leaves.
uint64_t mappings_forget(pagoda_device_state &s);

} // namespace pagoda::dma
