#include "lib/misuse.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"

#include <atomic>

namespace pagoda {
namespace {

// "malloc-64", or what larger memory is.
void name_memory(text &t, size_t size) {
    if (size <= kMaxSmall)
        t << "cache malloc-" << uint64_t{size};
    else
        t << "a page run of " << uint64_t{size} << " bytes";
}

} // namespace

void report_double_free(const void *object, size_t size) {
    text_buffer<256> t;
    t << "double free of " << object << ": an object of ";
    name_memory(t, size);
    misuse(t);
}

void report_double_free(const class_info &info, const slab *s, uint32_t object) {
    const char *base = static_cast<const char *>(page_address(s->first));
    report_double_free(base + size_t{object} * info.size, info.size);
}

void report_double_free(const void *p) {
    text_buffer<256> t;
    t << "double free of " << p << ": its memory is free";
    misuse(t);
}

void report_interior(const void *p, size_t size, size_t offset) {
    text_buffer<256> t;
    const char *at = static_cast<const char *>(p);
    uintptr_t into = reinterpret_cast<uintptr_t>(p) % kPageSize;
    t << "invalid free of " << p << ": inside an object of ";
    name_memory(t, size);
    if (offset % kPageSize != into) // the object's start as its slab counts
        t << " that starts at " << static_cast<const void *>(at - (into - offset % kPageSize));
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

} // namespace pagoda
