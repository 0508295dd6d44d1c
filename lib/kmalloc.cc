#include "lib/kmalloc.h"

#include "hugepage/options.h"
#include "hugepage/page.h"
#include "hugepage/report.h"
#include "lib/device_kmalloc.h"
#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/heap.h"
#include "lib/hold.h"
#include "lib/kernel_api.h"
#include "lib/percpu_x86.h"
#include "lib/rcu.h"
#include "lib/reclaim.h"
#include "lib/size_class.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace pagoda {
namespace {

static_assert(kNaturalMax == KMALLOC_MAX_SIZE);
constexpr gfp_t kPagesOnly = __GFP_HIGHMEM | __GFP_DMA32; // never kmalloc's
constexpr gfp_t kNolockFlags =
    __GFP_ZERO | __GFP_ACCOUNT | __GFP_NOWARN | __GFP_NOMEMALLOC | __GFP_NO_OBJ_EXT;

void warn_once(std::atomic<bool> &warned, gfp_t gfp, const char *what, size_t size) {
    if ((gfp & __GFP_NOWARN) != 0 || warned.exchange(true))
        return;
    text_buffer<200> t;
    t << what << " (" << uint64_t{size} << " bytes)";
    warn(t);
}

void warn_too_large(size_t size, gfp_t gfp) {
    static std::atomic<bool> warned{false};
    warn_once(warned, gfp, "kmalloc above KMALLOC_MAX_SIZE or kmalloc_max: refused, use kvmalloc",
              size);
}

void *start_of(const void *object) { return const_cast<void *>(object); }

void *copy_of(const void *source, size_t len, void *to) {
    return to != nullptr ? memcpy(to, source, len) : nullptr;
}

// A larger or better placed object with the contents of the old one, which is freed.
void *moved(const void *object, size_t old, size_t size, void *fresh) {
    if (fresh != nullptr) {
        memcpy(fresh, object, min_of(old, size));
        pagoda_kfree(object);
    }
    return fresh;
}

// A vmalloc'd piece; flags that may block only.
void *from_vmalloc(size_t size, size_t align, gfp_t gfp) {
    if (!gfpflags_allow_blocking(gfp))
        return nullptr;
    return with_reclaim(gfp, size, [&]() -> void * {
        slow_path scope;
        bool zeroed = false;
        void *p = vmalloc_alloc(size, max_of(align, kPageSize), scope.limit(gfp), &zeroed);
        bool clear = p != nullptr && (gfp & __GFP_ZERO) != 0 && !zeroed;
        return clear ? memset(p, 0, vmalloc_size(p)) : p; // what kvrealloc may use without asking
    });
}

// What kmalloc(size) is aligned to.
size_t natural_alignment(size_t size) {
    return max_of(size & -size, size_t{ARCH_KMALLOC_MINALIGN});
}

bool fits(const void *object, size_t size, size_t align, size_t usable) {
    return size <= usable && (align <= 1 || reinterpret_cast<uintptr_t>(object) % align == 0);
}

} // namespace

void *kmalloc_slow(size_t size, gfp_t gfp) {
    if (size == 0)
        return ZERO_SIZE_PTR;
    if (size > min_of(KMALLOC_MAX_SIZE, options().kmalloc_max)) {
        warn_too_large(size, gfp);
        return nullptr;
    }
    if ((gfp & kPagesOnly) != 0) {
        static std::atomic<bool> warned{false};
        warn_once(warned, gfp, "kmalloc with a zone that only the page allocator has: ignored",
                  size);
        gfp &= ~kPagesOnly;
    }
    if ((gfp & __GFP_DMA) != 0)
        return kmalloc_device(size, gfp);
    if (!kernel_api_enter(gfp))
        return nullptr;
    gfp = current_gfp(gfp);
    rcu_poll_if_blocking(gfp);
    return with_reclaim(gfp, size, [&]() -> void * {
        if ((gfp & __GFP_ACCOUNT) != 0 && current_group() != nullptr)
            return accounted_alloc(size, gfp);
        return heap_alloc_natural(size, gfp);
    });
}

PAGODA_EXPORT void *pagoda_kmalloc_plain(size_t size, gfp_t flags) {
#if defined(__x86_64__)
    if (PAGODA_LIKELY(size < g_kernel_api.small_limit)) {
        void *p = rseq_pop(kSizeTable.cls[(size + 15) / 16]);
        if (PAGODA_LIKELY(p != nullptr))
            return p;
    }
#endif
    return kmalloc_slow(size, flags);
}

PAGODA_EXPORT void *pagoda_kmalloc(size_t size, gfp_t flags) {
#if defined(__x86_64__)
    if (PAGODA_LIKELY((flags & PAGODA_GFP_SPECIAL) == 0 && size < g_kernel_api.small_limit)) {
        // 1 to 8 bytes have the class below; that of 0 bytes is always empty.
        size_t cls = kSizeTable.cls[(size + 15) / 16] - (size <= 8) - (size == 0);
        void *p = rseq_pop(cls);
        if (PAGODA_LIKELY(p != nullptr))
            return p;
    }
#endif
    return kmalloc_slow(size, flags);
}

PAGODA_EXPORT void *pagoda_kmalloc_node(size_t size, gfp_t flags, int node) {
    return node_allowed(flags, node) ? pagoda_kmalloc(size, flags) : nullptr;
}

PAGODA_EXPORT void *pagoda_kmalloc_nolock(size_t size, gfp_t flags, int node) {
    static std::atomic<bool> warned{false};
    if ((flags & ~kNolockFlags) != 0)
        warn_once(warned, flags, "kmalloc_nolock with flags that it does not take: ignored", size);
    if (size > KMALLOC_MAX_CACHE_SIZE || !node_allowed(flags, node))
        return nullptr;
    return pagoda_kmalloc(size, (flags & kNolockFlags) | __GFP_NOWARN);
}

PAGODA_EXPORT void pagoda_kfree(const void *object) {
#if defined(__x86_64__)
    size_t page = page_index(object);
    if (!kDebug && PAGODA_LIKELY(page < g_pagemap.frontier)) {
        if (PAGODA_LIKELY(rseq_push(g_pagemap.page_class[page], start_of(object))))
            return;
    }
#endif
    if (!ZERO_OR_NULL_PTR(object))
        heap_free(start_of(object), GFP_KERNEL);
    device_pages_settle();
}

PAGODA_EXPORT void pagoda_kfree_nolock(const void *object) {
    if (!ZERO_OR_NULL_PTR(object))
        heap_free(start_of(object), 0);
}

PAGODA_EXPORT void pagoda_kfree_sensitive(const void *object) {
    pagoda_kvfree_sensitive(object, SIZE_MAX);
}

PAGODA_EXPORT void pagoda_kvfree(const void *object) { pagoda_kfree(object); }

PAGODA_EXPORT void pagoda_kvfree_sensitive(const void *object, size_t len) {
    if (ZERO_OR_NULL_PTR(object) || hold_puts_off_sensitive(object))
        return;
    explicit_bzero(start_of(object), min_of(len, heap_usable_size(object)));
    pagoda_kfree(object);
}

PAGODA_EXPORT size_t pagoda_ksize(const void *object) {
    return ZERO_OR_NULL_PTR(object) ? 0 : heap_usable_size(object);
}

PAGODA_EXPORT size_t pagoda_kmalloc_size_roundup(size_t size) {
    return size == 0 || size > KMALLOC_MAX_SIZE ? size : heap_good_natural_size(size);
}

PAGODA_EXPORT void *pagoda_krealloc(const void *object, size_t size, size_t align, gfp_t flags,
                                    int node) {
    if (ZERO_OR_NULL_PTR(object))
        return pagoda_kmalloc_node(size, flags, node);
    if (size == 0) {
        pagoda_kfree(object);
        return ZERO_SIZE_PTR;
    }
    size_t old = heap_usable_size(object);
    if (old == 0) { // reported as realloc of it is
        return heap_realloc(start_of(object), size, flags);
    }
    if (fits(object, size, align, old) && node_allowed(flags, node)) {
        if ((flags & __GFP_ZERO) != 0)
            memset(static_cast<char *>(start_of(object)) + size, 0, old - size);
        return start_of(object);
    }
    return moved(object, old, size, pagoda_kmalloc_node(size, flags, node));
}

PAGODA_EXPORT void *pagoda_kvmalloc(size_t size, size_t align, gfp_t flags, int node) {
    static std::atomic<bool> warned{false};
    if (!node_allowed(flags, node))
        return nullptr;
    bool natural = align <= natural_alignment(size);
    if (size <= kPageSize && natural)
        return pagoda_kmalloc(size, flags);
    if (size > INT_MAX) {
        warn_once(warned, flags, "kvmalloc above INT_MAX: refused", size);
        return nullptr;
    }
    void *p = nullptr;
    if (size <= KMALLOC_MAX_SIZE && natural)
        p = pagoda_kmalloc(size, (flags & ~__GFP_NOFAIL) | __GFP_NOWARN | __GFP_NORETRY);
    if (p == nullptr && kernel_api_enter(flags))
        p = from_vmalloc(size, align, current_gfp(flags));
    return p;
}

PAGODA_EXPORT void *pagoda_kvrealloc(const void *object, size_t size, size_t align, gfp_t flags,
                                     int node) {
    if (ZERO_OR_NULL_PTR(object))
        return pagoda_kvmalloc(size, align, flags, node);
    size_t old = heap_usable_size(object);
    if (size == 0 || old == 0 || fits(object, size, align, old))
        return pagoda_krealloc(object, size, align, flags, node);
    return moved(object, old, size, pagoda_kvmalloc(size, align, flags, node));
}

PAGODA_EXPORT void *pagoda_kmemdup(const void *source, size_t len, gfp_t flags) {
    return source != nullptr ? copy_of(source, len, pagoda_kmalloc(len, flags)) : nullptr;
}

PAGODA_EXPORT void *pagoda_kvmemdup(const void *source, size_t len, gfp_t flags) {
    return source != nullptr ? copy_of(source, len, pagoda_kvmalloc(len, 1, flags, NUMA_NO_NODE))
                             : nullptr;
}

PAGODA_EXPORT char *pagoda_kmemdup_nul(const char *source, size_t len, gfp_t flags) {
    if (source == nullptr)
        return nullptr;
    char *copy = static_cast<char *>(copy_of(source, len, pagoda_kmalloc(size_add(len, 1), flags)));
    if (copy != nullptr)
        copy[len] = 0;
    return copy;
}

PAGODA_EXPORT char *pagoda_kstrdup(const char *s, gfp_t flags) {
    return s != nullptr ? pagoda_kmemdup_nul(s, strlen(s), flags) : nullptr;
}

PAGODA_EXPORT char *pagoda_kstrndup(const char *s, size_t max, gfp_t flags) {
    return s != nullptr ? pagoda_kmemdup_nul(s, strnlen(s, max), flags) : nullptr;
}

PAGODA_EXPORT char *pagoda_kvasprintf(gfp_t flags, const char *format,
                                      __builtin_va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int len = vsnprintf(nullptr, 0, format, arguments);
    char *s = len < 0 ? nullptr
                      : static_cast<char *>(pagoda_kmalloc(static_cast<size_t>(len) + 1, flags));
    if (s != nullptr)
        vsnprintf(s, static_cast<size_t>(len) + 1, format, again);
    va_end(again);
    return s;
}

PAGODA_EXPORT char *pagoda_kasprintf(gfp_t flags, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *s = pagoda_kvasprintf(flags, format, arguments);
    va_end(arguments);
    return s;
}

} // namespace pagoda
