#include "lib/dump.h"

#include "lib/debug_layout.h"
#include "lib/heap.h"
#include "lib/page_run.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

namespace pagoda {

bool describe_object(text &t, const void *p) {
    const kmem_cache *c = cache_of_pointer(p);
    if (c == nullptr)
        return false;
    slab_position at = slab_find(c->info, p);
    if (at.slab == nullptr)
        return false;
    uint32_t lead = c->traits != nullptr ? c->traits->lead : 0;
    const char *slot =
        static_cast<const char *>(page_address(at.slab->first)) + size_t{at.object} * c->info.size;
    const char *start = slot + lead;
    t << (slab_is_free(at) ? "a free object of cache " : "an object of cache ") << *c;
    if (p < start)
        t << ", " << static_cast<uint64_t>(start - static_cast<const char *>(p)) << " bytes before";
    else
        t << ", " << static_cast<uint64_t>(static_cast<const char *>(p) - start) << " bytes behind";
    t << " its start at " << static_cast<const void *>(start) << ", "
      << (c->traits != nullptr ? c->traits->object_size : c->info.size) << " bytes, in the slab at "
      << static_cast<const void *>(page_address(at.slab->first));
    if (c->traits != nullptr)
        debug_show_users(t, *c, slot);
    return true;
}

void describe(text &t, const void *p) {
    slow_path scope;
    if (describe_object(t, p))
        return;
    uint8_t cls = class_of_pointer(p);
    size_t bytes = 0;
    void *start = nullptr;
    if (cls == kClassPages) {
        t << "a page of the page allocator";
    } else if (cls != kClassNone) {
        t << "in a page run of " << (uint64_t{run_pages(run_head(p))} << kPageShift) << " bytes at "
          << run_head(p);
    } else if (in_zone(p)) {
        t << "free memory of a zone";
    } else if (vmalloc_classify(p, &bytes, &start, scope.limit(GFP_KERNEL)) != vm_pointer::none) {
        t << "in a vmalloc area of " << uint64_t{bytes} << " bytes at " << start;
    } else {
        t << "not Pagoda's memory";
    }
}

PAGODA_EXPORT bool pagoda_kmem_dump_obj(void *object) {
    text_buffer<400> t;
    t << object << " is ";
    if (!describe_object(t, object))
        return false;
    warn(t);
    return true;
}

PAGODA_EXPORT void pagoda_mem_dump_obj(void *object) {
    text_buffer<400> t;
    t << object << " is ";
    if (object == nullptr)
        t << "NULL";
    else if (object == ZERO_SIZE_PTR)
        t << "ZERO_SIZE_PTR";
    else
        describe(t, object);
    warn(t);
}

} // namespace pagoda
