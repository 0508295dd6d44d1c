// Bounce buffers: memory that every device reaches, in which a device sees a copy of what it could
// not reach, or what it should not see the neighbours of.
//
// Pools of 2 MiB, each of eight sets of 128 slots of 2 KiB. A mapping is slots in a row of one set,
// so 256 KiB at most. CPUs begin at different sets. Slots are taken and given back by atomic
// operations alone: a signal handler may do both. When all is full another pool is made (which
// blocks); pools beyond the first of a mask are given back when they stand empty.
//
// Nothing here knows of device addresses: a pool is as far from a multiple of 2 MiB for the device
// as for the program, so alignment is the same for both.
#pragma once

#include "hugepage/base.h"

#include <atomic>
#include <pthread.h>

namespace pagoda::dma {

inline constexpr size_t kSlotBytes = 2048;
inline constexpr unsigned kSetSlots = 128;
inline constexpr size_t kSetBytes = kSlotBytes * kSetSlots;
inline constexpr size_t kBouncePoolBytes = kPageblockSize;
inline constexpr unsigned kPoolSets = kBouncePoolBytes / kSetBytes;
inline constexpr unsigned kPoolSlots = kPoolSets * kSetSlots;
inline constexpr unsigned kBouncePools = 32; // 64 MiB, as the kernel's default

// What the device can do with the copy.
struct bounce_limits {
    uint64_t mask;                    // the last address it drives
    uint64_t boundary = ~uint64_t{0}; // kept where length and alignment leave a choice
    uint32_t min_align_mask = 0;      // bits of the original's address that the copy keeps
};

// Where pools come from: 2 MiB, aligned, whose device addresses are within the mask. NULL: none.
struct bounce_source {
    void *(*alloc)(uint64_t mask);
    void (*free)(void *p);
};

struct bounced {
    void *original;
    size_t bytes;
    bool held; // as map() was told
};

// Static storage: starts at zero.
class swiotlb {
  public:
    constexpr explicit swiotlb(bounce_source source) : source_(source) {}

    // The longest mapping that keeps such bits.
    static size_t max_bytes(uint32_t min_align_mask);

    // The copy of `bytes` at `original`, which is filled with them whatever the direction: a device
    // that writes less than all of it must not change the rest. NULL: longer than max_bytes(), or
    // everything is full. Blocks when a pool has to be made.
    void *map(void *original, size_t bytes, const bounce_limits &limits, bool held);
    // Ends it, after copying back what the device wrote. False: there is no mapping that begins
    // there.
    bool unmap(void *copy, bool copy_back, bounced *what);
    // Copies a part. False: not inside a mapping.
    bool sync(void *copy, size_t bytes, bool for_device);
    // Whether p lies in a pool.
    bool owns(const void *p) const { return pool_of(p) != nullptr; }

    // In a fork child: the pools are the parent's.
    void forget();

    uint64_t slots_in_use() const;
    unsigned pools() const;

  private:
    struct slot {
        uintptr_t original; // in the first slot of a mapping, as are bytes, offset and held
        uint32_t bytes : 20;
        uint32_t offset : 11; // of the copy in the slot
        uint32_t held : 1;
        uint16_t head; // the mapping's first slot
        uint16_t count;
    };
    struct pool {
        std::atomic<uintptr_t> start{0}; // 0: no memory; all slots are taken then
        std::atomic<uint64_t> mask{0};
        slot *slots = nullptr; // stays when the memory goes
        std::atomic<uint32_t> mappings{0};
        std::atomic<uint64_t> used[kPoolSets][2] = {};
    };

    const pool *pool_of(const void *p) const;
    slot *head_of(pool &in, const void *p);
    void *map_in(pool &in, uintptr_t original, size_t bytes, const bounce_limits &limits, bool held,
                 unsigned first_set);
    // A further pool within the mask. False: it cannot be had.
    bool grow(uint64_t mask, unsigned seen);
    void retire_if_spare(pool &empty);

    bounce_source source_;
    pool pools_[kBouncePools];
    std::atomic<unsigned> high_{0}; // pools_ beyond were never made
    std::atomic<unsigned> grown_{0};
    pthread_mutex_t growing_ = PTHREAD_MUTEX_INITIALIZER;
};

// The process's, over the allocator's device zones.
extern swiotlb bounce_buffers;

} // namespace pagoda::dma
