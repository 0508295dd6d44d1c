// Pageblocks of shared memory: set aside in the zone, with a memfd mapped over them. They are
// populated, no child of fork has them, and so no fork copies them or moves their pages.
#pragma once

#include "hugepage/page.h"

namespace pagoda {

// `count` in a row, aligned to their size rounded up to a power of two, at most 1 GiB; of the
// hugetlb pool where it has pages. The first one's number; kNoPage when memory is short, or a
// sandbox forbids it. Blocks.
uint32_t shared_blocks_take(uint32_t count);
// Gives them back to the zone, as private memory.
void shared_blocks_give(uint32_t first, uint32_t count);

} // namespace pagoda
