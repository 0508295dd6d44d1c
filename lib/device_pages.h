// Memory for devices: the zones DMA and DMA32, and what coherent memory is made of. It is a list of
// chunks, whole pageblocks (hugepage/shared_blocks.h) that the library above has made reachable for
// every device in one piece; so each page has a device address. Their records lie elsewhere:
// nothing here reads or writes the pages. Chunks come when pages are wanted that none of them has,
// and those wholly free beyond a few go.
//
// In a child of fork the parent's pages are gone. What is freed of them there is ignored, quietly,
// and new memory is had as in a new process.
#pragma once

#include "hugepage/provider.h"
#include "hugepage/zone.h"
#include "lib/reclaim.h"

#include <pagoda/gfp.h>

namespace pagoda {

// pageblock::device.
inline constexpr uint8_t kDeviceBlock = 1;
inline constexpr uint8_t kParentsBlock = 2; // a fork parent's: no memory is there

// The highest device address that the flags allow; 0: they ask for no device's memory.
constexpr uint64_t device_mask(gfp_t gfp) {
    return (gfp & __GFP_DMA) != 0     ? (uint64_t{1} << 24) - 1
           : (gfp & __GFP_DMA32) != 0 ? (uint64_t{1} << 32) - 1
                                      : 0;
}

// `count` pages in a row at device addresses up to `mask`, aligned to 2^align_order pages there and
// here, of what there is; the highest that serve, for low ones are rare. kNoPage: none. Waits for
// the lock with blocking flags only.
uint32_t device_pages_take(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp);
// Gives them back, in one piece or several. Never waits: any context.
void device_pages_give(uint32_t first, uint32_t count);

inline uint8_t device_state(uint32_t page) {
    return g_space.pageblocks.as<pageblock>()[page / kPageblockPages].device.load(
        std::memory_order_relaxed);
}

// All pages of slabs, runs and the page allocator come and go through these two.
inline uint32_t pages_take(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp,
                           page_state *state) {
    if (PAGODA_LIKELY(mask == 0))
        return zone_normal().alloc(count, align_order, gfp, state);
    *state = {false, true};
    return device_pages_take(count, align_order, mask, gfp);
}
inline void pages_give(uint32_t first, uint32_t count, gfp_t gfp) {
    if (PAGODA_LIKELY(device_state(first) == 0))
        zone_normal().free(first, count, true, gfp);
    else
        device_pages_give(first, count);
}

// Another chunk, so that what found nothing is worth one more attempt. False: that cannot be had
// now, or not in this context; where devices are the reason there is a warning. Not inside a
// slow_path: the library above may allocate.
bool device_pages_grow(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp);

// So many pages below the mask are in one piece that is aligned, whoever has them now.
bool device_pages_may_come_free(uint32_t count, unsigned align_order, uint64_t mask);

// with_reclaim() for what is made of such pages; `count` and `align_order` are what an attempt
// takes. Short of devices' addresses no shrinker helps, so it soon gives up; but __GFP_NOFAIL waits
// where others may free what it needs.
template <class Attempt>
auto with_device_pages(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp,
                       Attempt attempt) {
    constexpr int kTries = 8; // others may take what was had
    uint64_t bytes = uint64_t{count} << kPageShift;
    bool nofail = (gfp & __GFP_NOFAIL) != 0;
    auto try_growing = [&] {
        auto result = attempt();
        for (int i = 0; !result && i < kTries && device_pages_grow(count, align_order, mask, gfp);
             i++)
            result = attempt();
        return result;
    };
    gfp_t soon = (gfp & ~__GFP_NOFAIL) | __GFP_NORETRY | (nofail ? __GFP_NOWARN : 0);
    auto result = with_reclaim(soon, bytes, try_growing);
    if (PAGODA_UNLIKELY(!result && nofail) && device_pages_may_come_free(count, align_order, mask))
        result = with_reclaim(gfp, bytes, try_growing);
    return result;
}

// After frees that may have left more chunks free than are kept, outside of the slow_path: gives
// them back, where the context may block.
extern PAGODA_INTERNAL std::atomic<bool> g_device_surplus;
void device_pages_trim(uint64_t keep_bytes);
inline constexpr uint64_t kDeviceBytesKept = uint64_t{16} << 20;
inline void device_pages_settle() {
    if (PAGODA_UNLIKELY(g_device_surplus.load(std::memory_order_relaxed)))
        device_pages_trim(kDeviceBytesKept);
}

struct device_pages_stats {
    uint64_t chunks;
    uint64_t present; // pages
    uint64_t free;    // pages
};
// Of the chunks whose device addresses are below `to`, and not all below `from`.
device_pages_stats device_pages_get_stats(uint64_t from, uint64_t to);

mutex &device_growth_lock();
mutex &device_lock();
void device_pages_after_fork_in_child();

} // namespace pagoda
