#include "lib/vmalloc_api.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/kernel_api.h"
#include "lib/misuse.h"
#include "lib/reclaim.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <pagoda/mm.h>

#include <string.h>

namespace pagoda {
namespace {

constexpr gfp_t kNoWait = 0;

// False, and said, where flags or context do not allow an area to be made.
bool allowed(gfp_t gfp) {
    static std::atomic<bool> blocking_said{false};
    static std::atomic<bool> zone_said{false};
    if (!gfpflags_allow_blocking(gfp)) {
        warn_once(blocking_said, gfp, "vmalloc with flags that may not block: NULL");
        return false;
    }
    if ((gfp & (__GFP_DMA | __GFP_DMA32)) != 0) {
        warn_once(zone_said, gfp,
                  "vmalloc with GFP_DMA or GFP_DMA32: areas are of no device's memory, "
                  "alloc_pages_exact is: NULL");
        return false;
    }
    slow_path scope;
    if (!scope.nested())
        return true;
    if (kDebug) {
        text_buffer<160> t;
        t << "vmalloc in a handler that interrupted the allocator: NULL";
        warn(t);
    }
    return false;
}

void *alloc(size_t size, bool huge, gfp_t gfp) {
    if (size == 0 || size > kVmallocSpan / 2 || !allowed(gfp) || !kernel_api_enter(gfp))
        return nullptr;
    gfp = current_gfp(gfp);
    bool zeroed = false;
    void *p = with_reclaim(gfp, size, [&] {
        slow_path scope;
        return vmalloc_alloc_guarded(size, huge, gfp, &zeroed);
    });
    if (p != nullptr && (gfp & __GFP_ZERO) != 0 && !zeroed)
        memset(p, 0, vmalloc_size(p)); // its last page too: vrealloc may make that the caller's
    return p;
}

// Says what a pointer is that no area starts at.
void report_no_area(const char *operation, const void *p, gfp_t gfp) {
    size_t bytes = 0;
    void *start = nullptr;
    switch (vmalloc_classify(p, &bytes, &start, gfp)) {
    case vm_pointer::interior:
        report_interior(p, bytes,
                        reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(start));
        return;
    case vm_pointer::freed_area:
    case vm_pointer::area: // freed and made again since we looked: a race of the program's own
        report_double_free(p);
        return;
    case vm_pointer::none:
        break;
    }
    text_buffer<160> t;
    t << operation << " of " << p << ": no vmalloc area is there";
    warn(t);
}

void free_area(const void *p, gfp_t gfp) {
    if (p == nullptr)
        return;
    slow_path scope;
    gfp = scope.limit(gfp);
    if (!vmalloc_free(const_cast<void *>(p), gfp))
        report_no_area("vfree", p, gfp);
}

// In place, or by moving page tables. NULL: only copying is left.
void *resize(void *p, size_t size, gfp_t gfp) {
    slow_path scope;
    gfp = scope.limit(gfp);
    return vmalloc_guard(p) ? vmalloc_resize(p, size, gfp) : nullptr;
}

} // namespace
} // namespace pagoda

using namespace pagoda;

// One node or several: where pages lie is decided by who touches them first.
PAGODA_EXPORT void *pagoda_vmalloc(size_t size, gfp_t gfp, int) { return alloc(size, false, gfp); }

PAGODA_EXPORT void *pagoda_vmalloc_huge(size_t size, gfp_t gfp, int) {
    return alloc(size, true, gfp);
}

PAGODA_EXPORT void pagoda_vfree(const void *p) { free_area(p, GFP_KERNEL); }

PAGODA_EXPORT void pagoda_vfree_atomic(const void *p) { free_area(p, kNoWait); }

PAGODA_EXPORT void *pagoda_vrealloc(const void *address, size_t size, size_t align, gfp_t gfp,
                                    int) {
    void *p = const_cast<void *>(address);
    if (size == 0) {
        pagoda_vfree(p);
        return nullptr;
    }
    if (align > kPageSize)
        return nullptr;
    if (p == nullptr)
        return alloc(size, false, gfp);
    size_t old = vmalloc_size(p);
    if (old == 0) {
        slow_path scope;
        report_no_area("vrealloc", p, scope.limit(gfp));
        return nullptr;
    }
    if (size > kVmallocSpan / 2 || !allowed(gfp))
        return nullptr;
    gfp = current_gfp(gfp);
    if ((gfp & __GFP_ZERO) != 0 && size < old) // what is left of its last page
        memset(static_cast<char *>(p) + size, 0,
               min_of(old, align_up(size, sys::page_size())) - size);
    if (void *same = resize(p, size, gfp))
        return same; // new pages are fresh
    void *moved = alloc(size, false, gfp);
    if (moved == nullptr)
        return size <= old ? p : nullptr;
    memcpy(moved, p, min_of(old, size));
    pagoda_vfree(p);
    return moved;
}

PAGODA_EXPORT ::page *pagoda_vmalloc_to_page(const void *address) {
    if (!is_vmalloc_addr(address))
        return pagoda_vmap_to_page(address);
    slow_path scope;
    size_t bytes = 0;
    void *start = nullptr;
    vm_pointer is = vmalloc_classify(address, &bytes, &start, scope.limit(GFP_KERNEL));
    bool there = (is == vm_pointer::area || is == vm_pointer::interior) &&
                 reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(start) < bytes;
    return there ? virt_to_page(address) : nullptr;
}

PAGODA_EXPORT unsigned long pagoda_vmalloc_to_pfn(const void *address) {
    const ::page *p = is_vmalloc_addr(address) ? pagoda_vmalloc_to_page(address) : nullptr;
    return p != nullptr ? page_to_pfn(p) : 0;
}

PAGODA_EXPORT unsigned long pagoda_vmalloc_nr_pages() {
    slow_path scope;
    return scope.nested() ? 0 : vmalloc_get_stats().bytes >> kPageShift;
}
