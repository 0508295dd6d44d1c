// kmalloc(GFP_DMA): objects at device addresses below 2^24, from caches of their own.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

namespace pagoda {

// As kmalloc, 0 < size <= KMALLOC_MAX_SIZE. kfree() and all the others take it.
void *kmalloc_device(size_t size, gfp_t gfp);

} // namespace pagoda
