// The kernel's face of the heap: its own first use. A program that calls kmalloc pays for a reserve
// of memory that GFP_ATOMIC can have without a system call, a fault or a wait; one that only calls
// malloc does not.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

#include <atomic>

namespace pagoda {

// What kmalloc's hot path reads: zero until kernel_api_init() has stocked the reserve.
struct alignas(64) kernel_api_state {
    size_t small_limit = 0; // sizes below it have a small class; stored atomically
    std::atomic<bool> ready{false};
};
extern PAGODA_INTERNAL kernel_api_state g_kernel_api;

inline bool kernel_api_ready() { return g_kernel_api.ready.load(std::memory_order_acquire); }

// Initialises the heap, stocks the reserve and opens kmalloc's hot path. False: not even the heap's
// metadata can be had. Blocks.
bool kernel_api_init();
// What another thread of the parent had begun is begun again.
void kernel_api_after_fork_in_child();

// Every slow path of the kernel's names calls this first. Flags that may not block use what is
// there. False: the heap is not there, nothing can be served.
bool kernel_api_enter(gfp_t gfp);

// False: __GFP_THISNODE asks for a node that is not there. Memory is that of one node so far.
inline bool node_allowed(gfp_t gfp, int node) {
    return (gfp & __GFP_THISNODE) == 0 || node == 0 || node == -1;
}

} // namespace pagoda
