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

#include "dma/granules.h"
#include "dma/iommu.h"
#include "dma/iova.h"
#include "dma/page_table.h"
#include "dma/windows.h"

struct pagoda_device_state;

namespace pagoda::dma {

struct space_counters {
    uint64_t map_calls, unmap_calls, mapped_bytes;
};

// Of zone and vmalloc range, as much as has a place: its first address, the device's, bytes. The
// same for as long as the space is.
struct heap_windows {
    struct window {
        uintptr_t memory;
        uint64_t address;
        uint64_t bytes;
    } of[2] = {};

    // The heap's memory at this device address, mapped or not; nothing else is in these windows.
    [[gnu::always_inline]] void *memory(uint64_t address) const {
        for (const window &w : of)
            if (address - w.address < w.bytes)
                return reinterpret_cast<void *>(w.memory + (address - w.address));
        return nullptr;
    }
};

class space {
  public:
    // Takes the back end over. NULL (the back end is closed): no memory, or no window. -errno in
    // *error.
    static space *create(iommu *back_end, int *error);
    // Nothing is mapped any more, and no device uses it; what is noted of it elsewhere can go then.
    void end();
    // After end(), or instead of it.
    static void destroy(space *s);

    iommu &back_end() { return *iommu_; }
    bool translates() const { return iommu_->ops->translates; }

    // A device was attached: reads the windows again. -EADDRINUSE: something is mapped where the
    // new device may not go; the device must be detached again.
    int refresh_windows();

    // The device address of [p, p + bytes) in heap memory whose granules are mapped at addresses
    // within `mask`. False: not so; see reach(). No system call, no lock: any context.
    bool find(const void *p, size_t bytes, uint64_t mask, uint64_t *address) const;
    // The same for what lies in one granule that is mapped as a whole, in a space that is not dead.
    struct spot {
        const std::atomic<uint64_t> *word = nullptr; // NULL: not so
        uint64_t was;
        uint64_t address;
        bool still() const { return word->load(std::memory_order_relaxed) == was; }
    };
    [[gnu::always_inline]] spot find_in_one(const void *p, size_t bytes, uint64_t mask) const {
        auto at = reinterpret_cast<uintptr_t>(p);
        size_t inside = at & (kPageblockSize - 1);
        const std::atomic<uint64_t> *word = granules_.place(at);
        if (PAGODA_UNLIKELY(word == nullptr || bytes - 1 >= kPageblockSize - inside))
            return {};
        granule g{word->load(std::memory_order_acquire)};
        uint64_t address = g.address() + inside;
        if (PAGODA_UNLIKELY(!g.whole() || address + (bytes - 1) > mask))
            return {};
        return {word, g.word, address};
    }
    // Makes find() succeed: holds and maps the granules. -EFAULT: not the heap's memory; -ERANGE:
    // not within the mask, or in no-IOMMU mode; what map() says. Blocks.
    int reach(const void *p, size_t bytes, uint64_t mask);

    // Any readable memory, at an address of its own: whole granules around it. -ENOSPC: no such
    // address is free; -ERANGE: in no-IOMMU mode; what map() says. Blocks.
    int map_range(const void *p, size_t bytes, uint64_t mask, int access, uint64_t *address);
    // Ends it; `address` as map_range() gave it. -EINVAL: it did not; what the back end says, and
    // all is as before.
    int unmap_range(uint64_t address, size_t bytes);

    // A chunk of the device zones: below 2^bits, aligned to its size rounded up to a power of two,
    // in one piece. Without translation: its physical address, -ERANGE where that does not fit.
    // -EBUSY: part of it was mapped otherwise, and the back end does not let go of that.
    int map_chunk(void *at, size_t bytes, unsigned bits, uint64_t *address);
    // False: the back end does not let go of it, and devices still reach it.
    bool unmap_chunk(void *at, size_t bytes);
    // The allocator wants a held granule back, in two steps, of which the second can fail where the
    // back end does. False: it is in a chunk, or about to be mapped. The caller has
    // g_granules_lock.
    bool may_unmap_granule(const void *at) const;
    bool unmap_granule(const void *at);
    bool has_granule(const void *at) const; // mapped, or about to be; the same lock

    // The memory behind a device address: heap, chunk or range. NULL: nothing. Any context.
    void *virtual_address(uint64_t address) const;
    // Addresses without memory behind them, for dma_iova_*: reserve, map pieces, give back. A piece
    // begins as far into a granule as its memory does. Errors as map_range().
    int reserve_addresses(uint64_t bytes, uint64_t mask, uint64_t *address);
    int map_at(uint64_t address, const void *p, size_t bytes, int access);
    int unmap_at(uint64_t address, size_t bytes);
    void free_addresses(uint64_t address, uint64_t bytes);
    // Whether nothing is mapped at them.
    bool is_empty(uint64_t address, uint64_t bytes) const;

    // The highest address at which memory of the heap can be mapped by granules; 0: at none.
    uint64_t last_linear() const;
    // The windows, lowest first; returns how many there are.
    int windows(iova_window *out, int capacity) const;
    space_counters counters() const;

    void attach(pagoda_device_state *state);
    // True: it was the last.
    bool detach(pagoda_device_state *state);

    // In a fork child: no device of the parent is reachable from here.
    void forget();
    bool dead() const { return dead_.load(std::memory_order_acquire); }

    space *next = nullptr; // of all spaces

  private:
    struct chunk {
        uintptr_t at;
        size_t bytes;
        uint64_t address;
        chunk *next;
    };

    bool init(iommu *back_end, int *error);
    bool reserve_holes(const window_list &w);
    bool linear_lies_in(const window_list &w) const;
    bool place_linear();
    int usable() const;
    uint64_t linear_address(uintptr_t at) const;
    int map_granule(uintptr_t at);
    int add_chunk(chunk *c, unsigned bits);
    int physical_run(uintptr_t at, size_t bytes, unsigned bits, uint64_t *address) const;
    int unmap_linear_of(const chunk *c);
    void fill_pages(uint64_t address, uintptr_t at, uint64_t bytes, uint64_t flags);
    int map_pages(uint64_t address, const void *p, size_t bytes, int access, uint64_t kind);
    int unmap_pages(uint64_t address, size_t bytes, uint64_t kind);
    int call_map(uint64_t address, uintptr_t at, uint64_t bytes, int access);
    int call_unmap(uint64_t address, uint64_t bytes);
    uint64_t limit_for(uint64_t mask) const;

    iommu *iommu_ = nullptr;
    std::atomic<bool> dead_{false};
    iova_domain domain_ = {};
    unsigned shift_ = 0;
    page_table pages_; // ranges, pieces, chunks
    granule_table granules_;
    window_list windows_; // changed with g_granules_lock
    heap_windows linear_;
    chunk *chunks_ = nullptr;
    pagoda_device_state *devices_ = nullptr;
    std::atomic<uint64_t> map_calls_{0}, unmap_calls_{0}, mapped_bytes_{0};
};

} // namespace pagoda::dma
