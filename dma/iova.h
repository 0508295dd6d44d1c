// Which device addresses are taken, <pagoda/iova.h>. A treap of what is taken, ordered by address;
// each node knows the free pages below it and the most of its subtree, so the highest room that is
// large enough is found in O(log n). Room that is large enough but for its alignment is passed over
// one by one.
#pragma once

#include <pagoda/iova.h>

namespace pagoda::dma {

// Whether any of the pages lo to hi is taken, otherwise than by reserve_iova. What the caches hold
// counts as taken: flush first.
bool iova_overlaps(iova_domain *d, unsigned long lo, unsigned long hi);
// Gives back what the caches of all CPUs hold.
void iova_flush(iova_domain *d);

} // namespace pagoda::dma
