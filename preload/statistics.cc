// glibc's windows into the heap: malloc_trim, mallopt, mallinfo, mallinfo2, malloc_info,
// malloc_stats.
#include "preload/malloc.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/heap.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

using namespace pagoda;

namespace {

struct mallinfo2 current_info() {
    heap_stats s = heap_get_stats();
    struct mallinfo2 m = {};
    m.arena = s.committed - s.vmalloc_bytes;     // from the zone and areas kept
    m.ordblks = s.cached_objects + 1;            // free pieces at hand
    m.hblks = s.vmalloc_areas;                   // large areas in use,
    m.hblkhd = s.vmalloc_bytes;                  // and their bytes
    m.uordblks = s.live_bytes - s.vmalloc_bytes; // in use
    m.fordblks = m.arena > m.uordblks ? m.arena - m.uordblks : 0;
    m.keepcost = s.dirty_bytes; // what malloc_trim would give back
    return m;
}

int clamp(size_t v) { return v > INT_MAX ? INT_MAX : static_cast<int>(v); }

} // namespace

PAGODA_EXPORT int malloc_trim(size_t pad) { return heap_trim(pad) ? 1 : 0; }

// The trim threshold is the bound of free memory kept. No other parameter of glibc's has a
// counterpart: 0, and nothing changes.
PAGODA_EXPORT int mallopt(int param, int value) {
    if (param != M_TRIM_THRESHOLD || value < 0)
        return 0;
    mutable_options().dirty_bytes = static_cast<uint64_t>(value);
    return 1;
}

PAGODA_EXPORT struct mallinfo2 mallinfo2() { return current_info(); }

PAGODA_EXPORT struct mallinfo mallinfo() {
    struct mallinfo2 m = current_info();
    struct mallinfo out = {};
    out.arena = clamp(m.arena);
    out.ordblks = clamp(m.ordblks);
    out.hblks = clamp(m.hblks);
    out.hblkhd = clamp(m.hblkhd);
    out.uordblks = clamp(m.uordblks);
    out.fordblks = clamp(m.fordblks);
    out.keepcost = clamp(m.keepcost);
    return out;
}

PAGODA_EXPORT void malloc_stats() {
    heap_stats s = heap_get_stats();
    text_buffer<300> t;
    t << "in use " << s.live_bytes << " bytes in " << s.live_objects << " objects; cached "
      << s.cached_bytes << "; mapped " << s.committed << "; free and kept " << s.dirty_bytes
      << "; given back so far " << s.purged_bytes;
    warn(t);
}

namespace {

bool write(FILE *stream, const text &t) {
    return fwrite(t.data(), 1, t.size(), stream) == t.size();
}

bool write_total(FILE *stream, const char *type, uint64_t count, uint64_t size) {
    text_buffer<120> t;
    t << "<total type=\"" << type << "\" count=\"" << count << "\" size=\"" << size << "\"/>\n";
    return write(stream, t);
}

bool write_system(FILE *stream, const char *type, uint64_t size) {
    text_buffer<80> t;
    t << "<system type=\"" << type << "\" size=\"" << size << "\"/>\n";
    return write(stream, t);
}

} // namespace

// malloc_info(3): XML. Only options 0 exists.
PAGODA_EXPORT int malloc_info(int options, FILE *stream) {
    if (options != 0) {
        errno = EINVAL;
        return -1;
    }
    heap_stats s = heap_get_stats(); // before stdio allocates
    bool written = fputs("<malloc version=\"pagoda-1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>\n",
                         stream) != EOF &&
                   write_total(stream, "rest", s.cached_objects, s.cached_bytes) &&
                   write_total(stream, "used", s.live_objects, s.live_bytes) &&
                   write_total(stream, "mmap", s.vmalloc_areas, s.vmalloc_bytes) &&
                   write_system(stream, "current", s.committed) &&
                   write_system(stream, "dirty", s.dirty_bytes) &&
                   fputs("</heap>\n</malloc>\n", stream) != EOF;
    return written ? 0 : -1;
}
