#include "lib/region.h"

#include "hugepage/report.h"
#include "lib/bitmap.h"
#include "lib/gen_pool.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"

namespace pagoda {
namespace {

constexpr size_t kDefaultGranule = 64;
constexpr size_t kMaxGranule = size_t{1} << 30;

void discard(pagoda_region *r) {
    if (r->pool != nullptr)
        pagoda_gen_pool_destroy(r->pool);
    heap_free(r, GFP_KERNEL);
}

// Clears a bit and says whether it was set.
bool clear(unsigned long *map, size_t bit) { return bitmap::change(map, bit, 1, false) == 1; }

} // namespace

bool region_free(pagoda_region *region, void *p) {
    uintptr_t offset = reinterpret_cast<uintptr_t>(p) - region->start;
    size_t first = offset >> region->order;
    if (first >= region->granules || first << region->order != offset ||
        !clear(region->heads, first))
        return false;
    size_t last = bitmap::find(region->tails, region->granules, first, true);
    clear(region->tails, last);
    pagoda_gen_pool_free_owner(region->pool, reinterpret_cast<uintptr_t>(p),
                               (last - first + 1) << region->order, nullptr);
    return true;
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT struct pagoda_region *pagoda_region_create(void *start, size_t bytes,
                                                         size_t granule) {
    if (granule == 0)
        granule = kDefaultGranule;
    auto from = reinterpret_cast<uintptr_t>(start);
    if (!is_power_of_two(granule) || granule < 16 || granule > kMaxGranule || from == 0 ||
        bytes > ~uintptr_t{0} - from)
        return nullptr;
    uintptr_t end = align_down(from + bytes, granule);
    from = align_up(from, granule);
    if (from >= end || !kernel_api_enter(GFP_KERNEL))
        return nullptr;
    size_t granules = (end - from) / granule;
    size_t words = bitmap::words_for(granules);
    auto *r = static_cast<pagoda_region *>(heap_alloc(
        sizeof(pagoda_region) + 2 * words * sizeof(unsigned long), GFP_KERNEL | __GFP_ZERO));
    if (r == nullptr)
        return nullptr;
    r->start = from;
    r->granules = granules;
    r->order = log2_floor(granule);
    r->heads = reinterpret_cast<unsigned long *>(r + 1);
    r->tails = r->heads + words;
    r->pool = pagoda_gen_pool_create(static_cast<int>(r->order), -1);
    if (r->pool == nullptr ||
        pagoda_gen_pool_add_owner(r->pool, from, ~phys_addr_t{0}, end - from, -1, nullptr) != 0) {
        discard(r);
        return nullptr;
    }
    return r;
}

PAGODA_EXPORT void pagoda_region_destroy(struct pagoda_region *region) {
    if (region == nullptr)
        return;
    size_t out = (region->granules << region->order) - pagoda_gen_pool_avail(region->pool);
    if (out == 0) {
        discard(region);
        return;
    }
    text_buffer<120> t;
    t << "pagoda_region_destroy: " << uint64_t{out} << " bytes are still allocated";
    misuse(t);
}

PAGODA_EXPORT void *pagoda_region_alloc(struct pagoda_region *region, size_t bytes, size_t align) {
    if (align > kMaxGranule)
        return nullptr;
    genpool_data_align data = {static_cast<int>(align)};
    uintptr_t at = pagoda_gen_pool_alloc_algo_owner(
        region->pool, bytes, pagoda_gen_pool_first_fit_align, &data, nullptr);
    if (at == 0)
        return nullptr;
    size_t first = (at - region->start) >> region->order;
    bitmap::change(region->heads, first, 1, true);
    bitmap::change(region->tails, first + ((bytes - 1) >> region->order), 1, true);
    return reinterpret_cast<void *>(at);
}

PAGODA_EXPORT void pagoda_region_free(struct pagoda_region *region, void *p) {
    if (p == nullptr || region_free(region, p))
        return;
    text_buffer<120> t;
    t << "pagoda_region_free of " << p << ": not the start of an allocation of this region";
    misuse(t);
}

PAGODA_EXPORT size_t pagoda_region_avail(struct pagoda_region *region) {
    return pagoda_gen_pool_avail(region->pool);
}

PAGODA_EXPORT size_t pagoda_region_largest(struct pagoda_region *region) {
    const unsigned long *bits = region->pool->chunks.load(std::memory_order_acquire)->bits;
    size_t longest = 0;
    for (size_t end = 0, at = 0; at < region->granules; at = end) {
        at = bitmap::find(bits, region->granules, at, false);
        end = bitmap::find(bits, region->granules, at, true);
        longest = max_of(longest, end - at);
    }
    return longest << region->order;
}
