// A region: gen_pool over memory that somebody set aside, with sizes remembered in two more
// bitmaps, beside the memory and not in it. See pagoda/genalloc.h.
#pragma once

#include "hugepage/base.h"

#include <pagoda/genalloc.h>

struct pagoda_region {
    gen_pool *pool;
    uintptr_t start; // of the first granule
    size_t granules;
    unsigned order;       // log2 of the granule
    unsigned long *heads; // bit for bit: an allocation starts here,
    unsigned long *tails; // and ends here
};

namespace pagoda {

// pagoda_region_free without the report: false when p is not the start of an allocation.
bool region_free(pagoda_region *region, void *p);

} // namespace pagoda
