// Whether malloc, kmalloc and kmem_cache_alloc may hand objects out without entering a slow path.
// Debug builds, init_on_alloc and a failure hook want to see every allocation.
#pragma once

#include "hugepage/base.h"

#include <stddef.h>

namespace pagoda {

// Publishes the limit that a hit path compares sizes with, unless the paths are closed.
void hot_path_open(size_t &small_limit);
// Closes them all. Allocations that are under way on another CPU may still take theirs.
void hot_paths_close();
bool hot_paths_closed();

} // namespace pagoda
