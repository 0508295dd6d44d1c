// Memory per CPU for programs: chunks of one stride of addresses per CPU, each CPU's copy at the
// same offset in its stride. What is free is a region over the first stride. See pagoda/percpu.h.
#pragma once

#include "hugepage/base.h"

#include <pagoda/genalloc.h>
#include <pagoda/percpu.h>

#include <atomic>

namespace pagoda {

// Chunks are only ever added, without a lock, so that free_percpu may run anywhere.
struct percpu_chunk {
    percpu_chunk *next;
    char *base;
    pagoda_region *room;
    std::atomic<uint32_t> backed; // pages of a stride that hold memory in every CPU's
};
static_assert(PAGODA_PERCPU_STRIDE / kPageSize <= 32);

} // namespace pagoda
