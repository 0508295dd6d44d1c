// Free device addresses of a domain that each CPU keeps: a cache of first pages for each power of
// two up to 32 pages, in magazines of 127, two for each CPU, and full ones in a depot for all.
#pragma once

#include <pagoda/iova.h>

namespace pagoda::dma {

inline constexpr unsigned kCachedOrders = 6;
inline constexpr unsigned kMagazine = 127;
inline constexpr unsigned kDepot = 32;

// NULL: no memory.
pagoda_iova_caches *iova_caches_create();
// They are empty.
void iova_caches_destroy(pagoda_iova_caches *c);
// The first of 2^order pages of which none is above `limit`; 0: none.
unsigned long iova_caches_get(pagoda_iova_caches *c, unsigned order, unsigned long limit);
// False: there is no room, nor memory for more; the caller frees them otherwise.
bool iova_caches_put(pagoda_iova_caches *c, unsigned order, unsigned long pfn);
// Hands everything to free_pages(context, first page), which is called without a lock.
void iova_caches_flush(pagoda_iova_caches *c, void (*free_pages)(void *, unsigned long),
                       void *context);

} // namespace pagoda::dma
