#include "lib/debug_marks.h"

#include "lib/kmem_cache.h"
#include "lib/misuse.h"
#include "lib/page_run.h"

namespace pagoda {
namespace {

constexpr uint32_t kHeld = 1; // page::flags of a run's first page

std::atomic_ref<uint32_t> run_flags(const void *p) {
    return std::atomic_ref<uint32_t>(page_at(static_cast<uint32_t>(page_index(p))).flags);
}

} // namespace

bool debug_mark_held(const void *object) {
    uint8_t cls = class_of_pointer(object);
    if (cls == kClassNone) // a vmalloc area: its state says it
        return true;
    const kmem_cache *c = cache_of_pointer(object);
    if (c == nullptr)
        return (run_flags(object).exchange(kHeld) & kHeld) == 0;
    slab_position at = slab_find(c->info, object);
    uint64_t bit = uint64_t{1} << (at.object % 64);
    return at.exact && (at.slab->live_map()[at.object / 64].fetch_or(bit) & bit) == 0;
}

bool debug_mark_freed(const void *object) {
    const kmem_cache *c = cache_of_pointer(object);
    if (c == nullptr) {
        size_t bytes = size_t{run_pages(object)} << kPageShift;
        if (reinterpret_cast<uintptr_t>(object) % kPageSize != 0) {
            report_interior(object, bytes, reinterpret_cast<uintptr_t>(object) % kPageSize);
            return false;
        }
        if ((run_flags(object).exchange(0) & kHeld) != 0)
            return true;
        report_double_free(object, bytes);
        return false;
    }
    slab_position at = slab_find(c->info, object);
    if (!at.exact) {
        report_interior(*c, object, at.object * c->info.size);
        return false;
    }
    uint64_t bit = uint64_t{1} << (at.object % 64);
    if ((at.slab->live_map()[at.object / 64].fetch_and(~bit) & bit) != 0)
        return true;
    report_double_free(*c, object);
    return false;
}

} // namespace pagoda
