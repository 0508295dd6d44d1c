// The contiguous area: a region of pages over memory that was set aside. See pagoda/memblock.h.
#pragma once

#include "hugepage/base.h"

#include <pagoda/memblock.h>

namespace pagoda {

// p lies in the area.
bool contig_has(const void *p);

} // namespace pagoda
