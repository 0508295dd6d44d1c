#include "lib/page_frag.h"

#include "hugepage/watermark.h"
#include "lib/page_ref.h"

namespace pagoda {
namespace {

// Given to the block at once, so that a fragment costs the allocating side no atomic operation.
constexpr unsigned kReferences =
    PAGE_FRAG_CACHE_MAX_SIZE + 1; // a fragment of one byte each, and us

bool refill(page_frag_cache *cache, gfp_t gfp) {
    // The large block is a convenience: no growth, no reclaim, no reserve and no report for it.
    gfp_t easy = (gfpflags_allow_blocking(gfp) ? kGfpMayFault : 0) |
                 (gfp & ~(__GFP_DIRECT_RECLAIM | __GFP_NOFAIL)) | __GFP_COMP | __GFP_NOWARN |
                 __GFP_NORETRY | __GFP_NOMEMALLOC;
    unsigned order = PAGE_FRAG_CACHE_MAX_ORDER;
    uint32_t first = pages_alloc(order, easy);
    if (first == kNoPage) {
        order = 0;
        first = pages_alloc(0, gfp);
    }
    if (first == kNoPage) {
        *cache = {};
        return false;
    }
    page_at(first).refs.store(kReferences, std::memory_order_relaxed);
    *cache = {public_page(first), 0, static_cast<unsigned>(kPageSize << order), kReferences};
    return true;
}

// The block is used up: it serves again if all its fragments are free, or else is left to them.
bool renew(page_frag_cache *cache, gfp_t gfp) {
    uint32_t first = pages_index(cache->pagoda_page, "page_frag_alloc");
    if (first != kNoPage && pages_drop(first, cache->pagoda_left)) {
        page_at(first).refs.store(kReferences, std::memory_order_relaxed);
        cache->pagoda_offset = 0;
        cache->pagoda_left = kReferences;
        return true;
    }
    return refill(cache, gfp);
}

} // namespace
} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT void *pagoda_page_frag_alloc(page_frag_cache *cache, unsigned size, gfp_t gfp,
                                           unsigned align_mask) {
    if (size == 0 || size > kPageSize)
        return nullptr;
    if (cache->pagoda_page == nullptr && !refill(cache, gfp))
        return nullptr;
    uint64_t align = uint64_t{~align_mask} + 1;
    uint64_t offset = align_up(cache->pagoda_offset, align);
    if (offset + size > cache->pagoda_size) {
        if (!renew(cache, gfp))
            return nullptr;
        offset = 0;
    }
    cache->pagoda_offset = static_cast<unsigned>(offset + size);
    cache->pagoda_left--;
    return static_cast<char *>(::page_address(cache->pagoda_page)) + offset;
}

PAGODA_EXPORT void pagoda_page_frag_free(void *fragment) {
    if (fragment != nullptr)
        page_refs_put(virt_to_page(fragment), 1, "page_frag_free");
}

PAGODA_EXPORT void pagoda_page_frag_cache_drain(page_frag_cache *cache) {
    if (cache->pagoda_page != nullptr)
        page_refs_put(cache->pagoda_page, cache->pagoda_left, "page_frag_cache_drain");
    *cache = {};
}
