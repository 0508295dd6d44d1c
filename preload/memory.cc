// The rest of the C malloc family: alignment, C23's sized frees, BSD's names, glibc's aliases.
#include "preload/malloc.h"

#include "hugepage/base.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/misuse.h"

#include <errno.h>
#include <stdint.h>

using namespace pagoda;

namespace {

void *aligned(size_t align, size_t size) {
    void *p = size <= PTRDIFF_MAX && align <= PTRDIFF_MAX
                  ? heap_alloc_aligned(size, align, kMallocFlags)
                  : nullptr;
    if (p == nullptr)
        errno = ENOMEM;
    return p;
}

} // namespace

// glibc rounds a bad alignment up to the next power of two.
PAGODA_EXPORT void *memalign(size_t align, size_t size) noexcept {
    if (align > size_t{1} << 63) {
        errno = EINVAL;
        return nullptr;
    }
    while (!is_power_of_two(align))
        align = align == 0 ? 1 : align & (align - 1) ? size_t{1} << (log2_floor(align) + 1) : align;
    return aligned(align, size);
}

// C17: any size; the alignment must be a power of two.
PAGODA_EXPORT void *aligned_alloc(size_t align, size_t size) noexcept {
    if (!is_power_of_two(align)) {
        errno = EINVAL;
        return nullptr;
    }
    return aligned(align, size);
}

PAGODA_EXPORT int posix_memalign(void **out, size_t align, size_t size) noexcept {
    if (!is_power_of_two(align) || align % sizeof(void *) != 0)
        return EINVAL;
    int saved = errno;
    void *p = aligned(align, size);
    errno = saved; // the error is the return value
    if (p == nullptr)
        return ENOMEM;
    *out = p;
    return 0;
}

PAGODA_EXPORT void *valloc(size_t size) noexcept { return aligned(sys::page_size(), size); }

PAGODA_EXPORT void *pvalloc(size_t size) noexcept {
    size_t page = sys::page_size();
    if (size > PTRDIFF_MAX - page) {
        errno = ENOMEM;
        return nullptr;
    }
    return aligned(page, align_up(size == 0 ? 1 : size, page));
}

PAGODA_EXPORT void *reallocarray(void *p, size_t count, size_t size) noexcept {
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return nullptr;
    }
    return realloc(p, bytes);
}

// BSD: frees p when it cannot be resized.
PAGODA_EXPORT void *reallocf(void *p, size_t size) noexcept {
    void *q = realloc(p, size);
    if (q == nullptr && p != nullptr && size != 0) {
        free(p);
        errno = ENOMEM;
    }
    return q;
}

PAGODA_EXPORT size_t malloc_usable_size(void *p) noexcept { return heap_usable_size(p); }
PAGODA_EXPORT size_t malloc_good_size(size_t size) noexcept { return heap_good_size(size); }
PAGODA_EXPORT void cfree(void *p) noexcept { free(p); }

// C23: the size is a promise of the caller's; ours come with the pointer.
PAGODA_EXPORT void free_sized(void *p, size_t) noexcept { free(p); }
PAGODA_EXPORT void free_aligned_sized(void *p, size_t, size_t) noexcept { free(p); }

// Names glibc exports for the same functions; old programs and other interposers call them.
PAGODA_EXPORT void *__libc_malloc(size_t size) noexcept { return malloc(size); }
PAGODA_EXPORT void *__libc_calloc(size_t count, size_t size) noexcept {
    return calloc(count, size);
}
PAGODA_EXPORT void *__libc_realloc(void *p, size_t size) noexcept { return realloc(p, size); }
PAGODA_EXPORT void __libc_free(void *p) noexcept { free(p); }
PAGODA_EXPORT void __libc_cfree(void *p) noexcept { free(p); }
PAGODA_EXPORT void *__libc_memalign(size_t align, size_t size) noexcept {
    return memalign(align, size);
}
PAGODA_EXPORT void *__libc_valloc(size_t size) noexcept { return valloc(size); }
PAGODA_EXPORT void *__libc_pvalloc(size_t size) noexcept { return pvalloc(size); }
PAGODA_EXPORT int __posix_memalign(void **out, size_t align, size_t size) noexcept {
    return posix_memalign(out, align, size);
}
