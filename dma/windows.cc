#include "dma/windows.h"

#include <errno.h>

namespace pagoda::dma {

int window_list::read(iommu &from) {
    iova_window all[kMaxSpaceWindows];
    int n = from.ops->windows(from, all, kMaxSpaceWindows);
    if (n < 0)
        return n;
    uint64_t mask = from.granule - 1;
    count = 0;
    for (int i = 0; i < min_of(n, kMaxSpaceWindows); i++) {
        iova_window w = {align_up(all[i].first, from.granule), min_of(all[i].last, kLastAddress)};
        if ((w.last & mask) != mask)
            w.last = align_down(w.last, from.granule) - 1; // wraps where nothing is left
        if (w.first >= all[i].first && w.first < w.last && w.last <= all[i].last)
            window[count++] = w;
    }
    return count > 0 ? 0 : -ENOSPC;
}

bool window_list::contains(uint64_t first, uint64_t last) const {
    for (int i = 0; i < count; i++)
        if (first >= window[i].first && last <= window[i].last)
            return true;
    return false;
}

iova_window window_list::largest(bool *high) const {
    constexpr uint64_t k4Gib = uint64_t{1} << 32;
    iova_window best = {1, 0};
    *high = false;
    for (int i = 0; i < count; i++) {
        iova_window w = window[i];
        bool is_high = w.last >= k4Gib + 16 * kPageblockSize;
        if (is_high)
            w.first = max_of(w.first, k4Gib);
        bool larger = w.last - w.first + 1 > best.last - best.first + 1;
        if (is_high > *high || (is_high == *high && larger))
            best = w;
        *high |= is_high;
    }
    return best;
}

bool window_list::each_hole(bool (*f)(void *, uint64_t, uint64_t), void *context) const {
    uint64_t from = 0;
    for (int i = 0; i < count; i++) {
        if (window[i].first > from && !f(context, from, window[i].first - 1))
            return false;
        from = window[i].last + 1;
    }
    return f(context, from, UINT64_MAX);
}

} // namespace pagoda::dma
