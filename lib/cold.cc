#include "lib/cold.h"

#include "hugepage/sys.h"

using namespace pagoda;

static int advise(const void *address, size_t size, bool now) {
    uintptr_t page = sys::page_size();
    uintptr_t begin = align_up(reinterpret_cast<uintptr_t>(address), page);
    uintptr_t end = align_down(reinterpret_cast<uintptr_t>(address) + size, page);
    return begin < end ? sys::make_cold(begin, end - begin, now) : 0;
}

PAGODA_EXPORT int pagoda_cold(const void *address, size_t size) {
    return advise(address, size, false);
}

PAGODA_EXPORT int pagoda_pageout(const void *address, size_t size) {
    return advise(address, size, true);
}
