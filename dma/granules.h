// At which device address each 2 MiB granule of the heap is mapped, and how much of it. Read by
// every streaming mapping, without a lock; tables for 2 GiB each are made on demand.
#pragma once

#include "hugepage/base.h"

#include <atomic>

namespace pagoda::dma {

enum class granule_state : uint8_t {
    unmapped,
    changing, // somebody maps it
    linear,   // at the address that the space has for it
    chunk,    // in a chunk of the device zones
};

// A granule's word: the device address of its beginning, of whole granules; whether all its pages
// are mapped; which are; the state.
struct granule {
    static constexpr uint64_t kWhole = 1u << 20;
    uint64_t word = 0;

    static granule of(granule_state state, uint64_t address, unsigned first_page, unsigned pages) {
        bool whole = state >= granule_state::linear && pages == kPageblockPages;
        return {address | (whole ? kWhole : 0) | uint64_t{first_page} << 11 |
                uint64_t{pages - 1} << 2 | static_cast<uint64_t>(state)};
    }
    granule_state state() const { return static_cast<granule_state>(word & 3); }
    bool mapped() const { return state() >= granule_state::linear; }
    bool whole() const { return (word & kWhole) != 0; }
    uint64_t address() const { return word & ~(kPageblockSize - 1); }
    size_t first() const { return (word >> 11 & 511) << kPageShift; } // bytes from its beginning
    size_t bytes() const { return ((word >> 2 & 511) + 1) << kPageShift; }
    // Whether its bytes from `from` to below `to` are mapped.
    bool covers(size_t from, size_t to) const {
        return mapped() && from >= first() && to <= first() + bytes();
    }
};

class granule_table {
  public:
    // For addresses [base, base + bytes). False: no memory.
    bool init(uintptr_t base, size_t bytes);
    ~granule_table();

    bool spans(uintptr_t at) const { return at - base_ < bytes_; }
    // Where the word of a granule is, for as long as the table is. NULL: it was never set.
    const std::atomic<uint64_t> *place(uintptr_t at) const {
        size_t i = (at - base_) >> kPageblockShift;
        if (PAGODA_UNLIKELY(at - base_ >= bytes_))
            return nullptr;
        leaf *l = top_[i / kLeaf].load(std::memory_order_acquire);
        return l != nullptr ? &l->word[i % kLeaf] : nullptr;
    }
    granule get(uintptr_t at) const {
        const std::atomic<uint64_t> *word = place(at);
        return word != nullptr ? granule{word->load(std::memory_order_acquire)} : granule{};
    }
    // Makes the table for `at`, so that set() works. False: no memory. Allocates.
    bool prepare(uintptr_t at);
    void set(uintptr_t at, granule g);
    // Calls f(context, address of the granule, granule) for all that are not unmapped.
    void each(void (*f)(void *, uintptr_t, granule), void *context) const;

  private:
    static constexpr size_t kLeaf = 1024;
    struct leaf {
        std::atomic<uint64_t> word[kLeaf];
    };
    size_t leaves() const { return (bytes_ >> kPageblockShift) / kLeaf + 1; }

    uintptr_t base_ = 0;
    size_t bytes_ = 0;
    std::atomic<leaf *> *top_ = nullptr;
};

} // namespace pagoda::dma
