// gen_pool: chunks of addresses with a bitmap of granules each. Lock-free, so that a handler may
// interrupt anything and a child of fork finds it usable. See pagoda/genalloc.h.
#pragma once

#include "hugepage/base.h"

#include <pagoda/genalloc.h>

#include <atomic>

struct gen_pool {
    std::atomic<gen_pool_chunk *> chunks; // the newest; only ever added to
    unsigned order;                       // log2 of the granule
    genpool_algo_t algo;
    void *data;
};
