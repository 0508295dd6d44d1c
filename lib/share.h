// Regions that can be mapped twice and exported, <pagoda/share.h>: a memfd each, mapped as a whole.
#pragma once

#include "lib/memfd.h"

#include <pagoda/share.h>

namespace pagoda {

// The first page of `size` bytes at this address, all in one piece of one region's file; NULL and a
// line that begins with `what` when they are not.
page *share_find(const char *what, const void *address, size_t size);

} // namespace pagoda
