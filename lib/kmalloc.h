// kmalloc and its family (pagoda/slab.h): the heap's objects under the kernel's names and rules.
#pragma once

#include "hugepage/base.h"

#include <pagoda/slab.h>

namespace pagoda {

// pagoda_kmalloc past its hit path.
void *kmalloc_slow(size_t size, gfp_t gfp);

} // namespace pagoda
