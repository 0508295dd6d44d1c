// malloc and free. The hot path is these few lines and lib/percpu_x86.h: table look-up, one
// restartable sequence, return. Everything else is a tail call into lib/heap.cc.
#include "preload/malloc.h"

#include "hugepage/page.h"
#include "lib/heap.h"
#include "lib/percpu.h"
#include "lib/percpu_x86.h"
#include "lib/size_class.h"

#include <errno.h>
#include <string.h>

using namespace pagoda;

namespace {

// The hot path's class of a size below small_limit.
inline size_t small_class(size_t size) { return kSizeTable.cls[(size + 15) / 16]; }

inline bool is_small(size_t size) { return size < g_percpu.small_limit; }

PAGODA_NOINLINE void *malloc_slow(size_t size) {
    void *p = size <= PTRDIFF_MAX ? heap_alloc(size, kMallocFlags) : nullptr;
    if (p == nullptr)
        errno = ENOMEM;
    return p;
}

PAGODA_NOINLINE void free_slow(void *p) { heap_free(p, GFP_KERNEL); }

} // namespace

PAGODA_EXPORT void *malloc(size_t size) noexcept {
#if defined(__x86_64__)
    if (PAGODA_LIKELY(is_small(size))) {
        void *p = rseq_pop(small_class(size));
        if (PAGODA_LIKELY(p != nullptr))
            return p;
    }
#endif
    return malloc_slow(size);
}

PAGODA_EXPORT void free(void *p) noexcept {
#if defined(__x86_64__)
    size_t page = page_index(p);
    if (!kDebug && PAGODA_LIKELY(page < g_pagemap.frontier)) {
        if (PAGODA_LIKELY(rseq_push(g_pagemap.page_class[page], p)))
            return;
    }
#endif
    free_slow(p);
}

PAGODA_EXPORT void *calloc(size_t count, size_t size) noexcept {
    size_t bytes = 0;
    if (PAGODA_UNLIKELY(__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX)) {
        errno = ENOMEM;
        return nullptr;
    }
#if defined(__x86_64__)
    if (PAGODA_LIKELY(is_small(bytes))) {
        void *p = rseq_pop(small_class(bytes));
        if (PAGODA_LIKELY(p != nullptr))
            return memset(p, 0, bytes);
    }
#endif
    void *p = heap_alloc(bytes, kMallocFlags | __GFP_ZERO);
    if (p == nullptr)
        errno = ENOMEM;
    return p;
}

PAGODA_EXPORT void *realloc(void *p, size_t size) noexcept {
    if (p == nullptr)
        return malloc(size);
    if (size == 0) { // as glibc: freed
        free(p);
        return nullptr;
    }
    void *q = size <= PTRDIFF_MAX ? heap_realloc(p, size, kMallocFlags) : nullptr;
    if (q == nullptr)
        errno = ENOMEM;
    return q;
}
