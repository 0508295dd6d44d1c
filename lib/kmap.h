// Mappings of HIGHMEM pages, <pagoda/highmem.h>: a fixed number of addresses, each with an
// inaccessible page behind it. One half serves kmap(), which the process shares, the other
// kmap_local_page(), which belongs to threads.
#pragma once

#include "hugepage/lock.h"
#include "lib/memfd.h"

namespace pagoda {

// Where a page of any zone can be read; NULL for one of HIGHMEM that no kmap() has mapped.
void *address_of_page(const page *p);

mutex &kmap_lock();

} // namespace pagoda
