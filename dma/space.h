// An address space of devices: an IOMMU domain, the addresses in it, and what is mapped at them.
//
// Memory of this process's heap is mapped by 2 MiB granules, on first use, and stays mapped until
// the allocator wants the granule back: mapping a buffer in it again is arithmetic. Its device
// address is `linear base + offset in the zone` (or in the vmalloc range), so a buffer that spans
// granules is in one piece. Pages of the device zones (GFP_DMA, coherent memory) are mapped by
// chunks, at low addresses. Everything else is mapped range by range, at an address of its own.
//
//   low (< 4 GiB): chunks, single ranges | linear zone | linear vmalloc | single ranges
#pragma once

#include "dma/iommu.h"
#include "dma/iova.h"

namespace pagoda::dma {

struct space_counters {
    uint64_t map_calls, unmap_calls, mapped_bytes, live_ranges;
};

class space {
  public:
    // Takes the back end over. NULL (the back end is closed): no memory, or no window. -errno in
    // *error.
    static space *create(iommu *back_end, int *error);
    // With all that is mapped. No device uses it any more.
    static void destroy(space *s);

    iommu &back_end() { return *iommu_; }
    bool translates() const { return iommu_->ops->translates; }

    // A device was attached: reads the windows again. -EADDRINUSE: something is mapped where the
    // new device may not go; the device must be detached again.
    int refresh_windows();

    // The device address of [p, p + bytes) in heap memory whose granules are mapped at addresses
    // within `mask`. False: not so; see reach(). No system call, no lock: any context.
    bool find(const void *p, size_t bytes, uint64_t mask, uint64_t *address) const;
    // Makes find() succeed: holds and maps the granules. -EFAULT: not the heap's memory; -ERANGE:
    // not within the mask, or in no-IOMMU mode; what map() says. Blocks.
    int reach(const void *p, size_t bytes, uint64_t mask);

    // Any readable memory, at an address of its own: whole granules around it. Blocks.
    int map_range(const void *p, size_t bytes, uint64_t mask, int access, uint64_t *address);
    // Ends it; `address` as map_range() gave it. -EINVAL: it did not.
    int unmap_range(uint64_t address, size_t bytes);
    // Where `address` is a range's: true.
    bool is_range(uint64_t address) const;

    // A chunk of the device zones: below 2^bits, aligned to its size rounded up to a power of two,
    // in one piece. Without translation: its physical address, -ERANGE where that does not fit.
    int map_chunk(void *at, size_t bytes, unsigned bits, uint64_t *address);
    void unmap_chunk(void *at, size_t bytes);
    // The allocator wants a held granule back. False: some of it is in a chunk.
    bool unmap_granule(void *at, size_t bytes);

    // The memory behind a device address: heap, chunk or range. NULL: nothing. Any context.
    void *virtual_address(uint64_t address) const;

    // Addresses without memory behind them, for dma_iova_*: reserve, map pieces, give back.
    int reserve_addresses(uint64_t bytes, uint64_t mask, uint64_t *address);
    int map_at(uint64_t address, const void *p, size_t bytes, int access);
    int unmap_at(uint64_t address, size_t bytes);
    void free_addresses(uint64_t address, uint64_t bytes);

    int windows(iova_window *out, int capacity) const;
    space_counters counters() const;

    // In a fork child: no device of the parent is reachable from here.
    void forget() { dead_ = true; }
    bool dead() const { return dead_; }

  private:
    iommu *iommu_ = nullptr;
    bool dead_ = false;
};

// Every space there is: what the provider table (hugepage/provider.h) acts on. Registered with the
// allocator when the first one is made.
int spaces_add(space *s);
void spaces_remove(space *s);

} // namespace pagoda::dma
