// The texts of misuse reports, in one place. Each goes through misuse(): a line, then abort or not.
#pragma once

#include "lib/slab.h"

namespace pagoda {

// An object that is free already.
void report_double_free(const void *object, size_t size);
void report_double_free(const class_info &info, const slab *s, uint32_t object);
// A page run or a vmalloc area that is free already.
void report_double_free(const void *p);
// A pointer `offset` bytes behind the start of an object of `size` bytes.
void report_interior(const void *p, size_t size, size_t offset);
// A pointer into no memory of Pagoda's, by the `foreign` option.
void report_foreign(const void *p);

} // namespace pagoda
