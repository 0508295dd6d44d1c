// The "page allocation failure" report: one line on stderr for an allocation without __GFP_NOWARN
// that failed. Where the failed one may make no system call, the next blocking one writes it.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

#include <atomic>

namespace pagoda {

// Lines in any kAllocFailureWindowMs; more are counted and dropped.
inline constexpr uint32_t kAllocFailureBurst = 10;
inline constexpr uint64_t kAllocFailureWindowMs = 10000;

// Reports it now where the flags may block, later otherwise. __GFP_NOFAIL without
// __GFP_DIRECT_RECLAIM, which cannot be served, is reported once whatever the other flags.
void note_alloc_failure(gfp_t gfp, uint64_t bytes);

// A report that waits: bytes << __GFP_BITS_SHIFT | flags, or 0.
extern PAGODA_INTERNAL std::atomic<uint64_t> g_alloc_failure;
inline bool alloc_failure_waits() { return g_alloc_failure.load(std::memory_order_relaxed) != 0; }
// Where system calls are allowed.
void write_alloc_failure();

} // namespace pagoda
