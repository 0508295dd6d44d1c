// What the operators new do when malloc has nothing: the new handler, then std::bad_alloc.
#pragma once

#include "preload/malloc.h"

#include "hugepage/base.h"

#include <new>

inline void *try_new(size_t size, size_t align) {
    return align <= __STDCPP_DEFAULT_NEW_ALIGNMENT__ ? malloc(size)
           : pagoda::is_power_of_two(align)          ? memalign(align, size)
                                                     : nullptr;
}

// [new.delete.single]: the handler, try again, and so on; without a handler it throws.
PAGODA_COLD void *new_failed(size_t size, size_t align);
// The same, and NULL instead of an exception.
PAGODA_COLD void *new_failed_nothrow(size_t size, size_t align) noexcept;
