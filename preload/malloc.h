// The four symbols that the files of preload/ build on.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

// malloc's callers look at what it returns: nothing is said when it fails.
inline constexpr gfp_t kMallocFlags = GFP_KERNEL | __GFP_NOWARN;

PAGODA_EXPORT void *malloc(size_t size) noexcept __attribute__((malloc, alloc_size(1)));
PAGODA_EXPORT void free(void *p) noexcept;
PAGODA_EXPORT void *calloc(size_t count, size_t size) noexcept
    __attribute__((malloc, alloc_size(1, 2)));
PAGODA_EXPORT void *realloc(void *p, size_t size) noexcept __attribute__((alloc_size(2)));
PAGODA_EXPORT void *memalign(size_t align, size_t size) noexcept
    __attribute__((malloc, alloc_size(2)));
