#include "lib/contig.h"

#include "hugepage/page.h"
#include "hugepage/report.h"
#include "hugepage/zone.h"
#include "lib/kernel_api.h"
#include "lib/region.h"
#include "lib/thread.h"

#include <errno.h>

namespace pagoda {
namespace {

std::atomic<pagoda_region *> area{nullptr};

void give_back(uint32_t first, uint32_t blocks) {
    slow_path scope;
    // Nobody has touched it, but it may hold what somebody wrote there before.
    zone_normal().free_set_aside(first, blocks * kPageblockPages, true);
}

} // namespace

bool contig_has(const void *p) {
    const pagoda_region *r = area.load(std::memory_order_acquire);
    return r != nullptr && reinterpret_cast<uintptr_t>(p) - r->start < (r->granules << r->order);
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT int pagoda_contig_reserve(size_t bytes) {
    if (bytes == 0)
        return -EINVAL;
    if (area.load(std::memory_order_acquire) != nullptr)
        return -EBUSY;
    if (bytes > kZoneSpan / 2 || !kernel_api_enter(GFP_KERNEL))
        return -ENOMEM;
    auto blocks = static_cast<uint32_t>(align_up(bytes, kPageblockSize) >> kPageblockShift);
    uint32_t first = kNoPage;
    {
        slow_path scope;
        if (!scope.nested())
            first = zone_normal().set_aside(blocks);
    }
    if (first == kNoPage)
        return -ENOMEM;
    pagoda_region *mine =
        pagoda_region_create(page_address(first), size_t{blocks} << kPageblockShift, kPageSize);
    if (mine == nullptr) {
        give_back(first, blocks);
        return -ENOMEM;
    }
    pagoda_region *none = nullptr;
    if (area.compare_exchange_strong(none, mine, std::memory_order_acq_rel))
        return 0;
    pagoda_region_destroy(mine); // another thread was faster
    give_back(first, blocks);
    return -EBUSY;
}

PAGODA_EXPORT void *pagoda_contig_alloc(size_t bytes, size_t align) {
    pagoda_region *r = area.load(std::memory_order_acquire);
    return r != nullptr ? pagoda_region_alloc(r, bytes, align) : nullptr;
}

PAGODA_EXPORT void pagoda_contig_free(void *p) {
    pagoda_region *r = area.load(std::memory_order_acquire);
    if (p == nullptr || (r != nullptr && region_free(r, p)))
        return;
    text_buffer<120> t;
    t << "pagoda_contig_free of " << p << ": not the start of a buffer in use";
    misuse(t);
}

PAGODA_EXPORT size_t pagoda_contig_avail() {
    pagoda_region *r = area.load(std::memory_order_acquire);
    return r != nullptr ? pagoda_region_avail(r) : 0;
}

PAGODA_EXPORT size_t pagoda_contig_largest() {
    pagoda_region *r = area.load(std::memory_order_acquire);
    return r != nullptr ? pagoda_region_largest(r) : 0;
}
