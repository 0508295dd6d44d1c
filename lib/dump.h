// What a pointer is, in words: mem_dump_obj of pagoda/slab.h.
#pragma once

#include "hugepage/report.h"

namespace pagoda {

// "an object of cache scullc, 24 bytes behind its start at 0x…, 64 bytes". False: of no cache.
bool describe_object(text &t, const void *p);
// The same for anything.
void describe(text &t, const void *p);

} // namespace pagoda
