// Memory pools. The reserve is lock-free: a handler that interrupts any operation can run any
// other, and a child of fork finds it usable whatever its parent's threads were at.
#pragma once

#include "hugepage/base.h"

#include <pagoda/mempool.h>

#include <atomic>

namespace pagoda {

// Room for elements: slots on one of two stacks, those that hold an element and those that do not.
// A slot taken off a stack is its taker's alone.
struct mempool_segment {
    struct slot {
        void *element;
        std::atomic<uint32_t> next; // below it on its stack: number + 1, 0 = none
    };
    mempool_segment *older;
    uint32_t capacity;
    std::atomic<uint64_t> full; // {change count, slot number + 1}
    std::atomic<uint64_t> empty;

    slot *slots() { return reinterpret_cast<slot *>(this + 1); }
};

// What a mempool_t holds. Segments are only ever added: somebody may be looking at one.
struct mempool_state {
    std::atomic<mempool_segment *> segments; // the newest; NULL: not initialised
    mempool_alloc_t *alloc;
    mempool_free_t *free;
    void *data;
    size_t element_bytes;        // 0: not poisoned
    std::atomic<uint32_t> min;   // elements the reserve should hold
    std::atomic<uint32_t> count; // elements it holds, those on their way in or out included
    std::atomic<uint32_t> waiters;
    std::atomic<uint32_t> event; // changes when something was freed while somebody waited
};
static_assert(sizeof(mempool_state) <= sizeof(mempool_t));

// How long a waiter sleeps before it asks the alloc function again, ms; tests shorten it.
extern PAGODA_INTERNAL uint32_t g_mempool_patience_ms;

} // namespace pagoda
