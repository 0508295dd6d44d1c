#include "lib/misuse.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"

#include <atomic>

namespace pagoda {
namespace {

// "cache malloc-64", or what larger memory is.
void name_memory(text &t, const kmem_cache *c, size_t size) {
    if (c != nullptr && !c->info.is_run)
        t << "cache " << *c;
    else
        t << "a page run of " << uint64_t{size} << " bytes";
}

void report_double_free(const kmem_cache *c, const void *object, size_t size) {
    text_buffer<256> t;
    t << "double free of " << object << ": an object of ";
    name_memory(t, c, size);
    misuse(t);
}

void report_interior(const kmem_cache *c, const void *p, size_t size, size_t offset) {
    text_buffer<256> t;
    const char *at = static_cast<const char *>(p);
    uintptr_t into = reinterpret_cast<uintptr_t>(p) % kPageSize;
    t << "invalid free of " << p << ": inside an object of ";
    name_memory(t, c, size);
    if (offset % kPageSize != into) // the object's start as its slab counts
        t << " that starts at " << static_cast<const void *>(at - (into - offset % kPageSize));
    misuse(t);
}

} // namespace

void report_double_free(const kmem_cache &c, const void *object) {
    report_double_free(&c, object, c.info.size);
}

void report_double_free(const kmem_cache &c, const slab *s, uint32_t object) {
    const char *base = static_cast<const char *>(page_address(s->first));
    report_double_free(c, base + size_t{object} * c.info.size);
}

void report_double_free(const void *run, size_t size) { report_double_free(nullptr, run, size); }

void report_double_free(const void *p) {
    text_buffer<256> t;
    t << "double free of " << p << ": its memory is free";
    misuse(t);
}

void report_free_held(const kmem_cache *c, const void *p, size_t size) {
    text_buffer<256> t;
    t << "free of " << p << ", " << uint64_t{size} << " bytes that a device uses";
    if (c != nullptr && !c->info.is_run)
        t << " (cache " << *c << ')';
    t << ": put off until the device is done";
    harmless_misuse(t);
}

void report_interior(const kmem_cache &c, const void *p, size_t offset) {
    report_interior(&c, p, c.info.size, offset);
}

void report_interior(const void *p, size_t size, size_t offset) {
    report_interior(nullptr, p, size, offset);
}

void report_page_freed(const void *p) {
    text_buffer<256> t;
    t << "invalid free of " << p << ": it belongs to the page allocator, free_pages() frees it";
    misuse(t);
}

void report_not_pages(const void *p, const char *operation) {
    text_buffer<256> t;
    t << operation << " of " << p << ": no page there is the page allocator's";
    if (in_zone(p))
        t << (class_of_pointer(p) == kClassNone ? "; it is free" : "; it is malloc's or kmalloc's");
    misuse(t);
}

void report_wrong_block(const void *p, unsigned order, const void *head, unsigned head_order,
                        const char *operation) {
    text_buffer<256> t;
    t << operation << " of " << p << ", order " << order << ": it ";
    if (align_down(reinterpret_cast<uintptr_t>(p), kPageSize) == reinterpret_cast<uintptr_t>(head))
        t << "is a block of order " << head_order;
    else
        t << "lies in the block of order " << head_order << " at " << head;
    misuse(t);
}

void report_foreign(const void *p) {
    static std::atomic<bool> warned{false};
    foreign_policy policy = options().foreign;
    if (policy == foreign_policy::ignore && warned.exchange(true, std::memory_order_relaxed))
        return;
    text_buffer<256> t;
    t << "free of " << p << ": not Pagoda's memory";
    if (policy == foreign_policy::ignore)
        t << "; ignored, as later ones are (PAGODA_OPTIONS=foreign=report shows each)";
    warn(t);
    if (policy == foreign_policy::abort)
        sys::abort_process();
}

void warn_once(std::atomic<bool> &said, gfp_t gfp, const char *line) {
    if ((gfp & __GFP_NOWARN) != 0 || said.exchange(true, std::memory_order_relaxed))
        return;
    text_buffer<160> t;
    t << line;
    warn(t);
}

} // namespace pagoda
