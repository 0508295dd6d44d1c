#include "hugepage/address_space.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <errno.h>

namespace pagoda {

address_space g_space;

// By hand where the kernel cannot (before 5.14) or no such call is wanted (in a noio scope).
static void back(uintptr_t at, size_t len) {
    if (may_give_back() && sys::populate(at, len) != -EINVAL)
        return;
    for (size_t i = 0; i < len; i += kPageSize)
        __atomic_fetch_or(reinterpret_cast<uint8_t *>(at + i), 0, __ATOMIC_RELAXED);
}

bool window::open(uintptr_t base, size_t limit, size_t bytes, const char *name) {
    bytes = align_up(bytes, sys::page_size());
    if (bytes != 0 && sys::map_at(base, bytes) != 0)
        return false;
    base_ = base;
    limit_ = limit;
    bytes_ = bytes;
    if (bytes == 0)
        return true;
    // Sparse tables under THP=always would cost 2 MiB per byte; growth inherits hint and name.
    sys::hint_huge(base, bytes, false);
    sys::name_range(base, bytes, name);
    return true;
}

void window::close() {
    if (bytes_ != 0)
        sys::unmap(base_, bytes_);
    bytes_ = 0;
}

bool window::reach(size_t bytes) {
    if (PAGODA_LIKELY(bytes <= bytes_))
        return true;
    if (bytes > limit_)
        return false;
    size_t need = align_up(bytes - bytes_, sys::page_size());
    size_t step = align_up(max_of(need, bytes_ / 16), sys::page_size());
    step = min_of(step, limit_ - bytes_);
    for (size_t grow : {step, need}) {
        if (sys::extend(base_ + bytes_, grow) == 0 || sys::map_at(base_ + bytes_, grow) == 0) {
            if (populated_)
                back(base_ + bytes_, grow);
            bytes_ += grow;
            return true;
        }
    }
    return false;
}

void window::keep_populated() {
    populated_ = true;
    back(base_, bytes_);
}

bool window::reach_if_easy(size_t bytes) {
    if (PAGODA_LIKELY(bytes <= bytes_))
        return true;
    if (sys::now_ms() == refused_at_)
        return false;
    if (reach(bytes))
        return true;
    refused_at_ = sys::now_ms();
    return false;
}

namespace {

constexpr uint64_t kZonePages = kZoneSpan >> kPageShift;

struct plan {
    window *w;
    size_t limit;
    size_t first;
    const char *name;
};

bool try_region(uintptr_t at, const plan *plans, int count) {
    for (int i = 0; i < count; i++) {
        if (!plans[i].w->open(at, plans[i].limit, plans[i].first, plans[i].name)) {
            while (i-- > 0)
                plans[i].w->close();
            return false;
        }
        at += align_up(plans[i].limit, kGiB) + kGiB; // a hole: an overrun faults
    }
    g_space.zone_base = at;
    g_space.vmalloc_base = at + kZoneSpan + kGiB;
    return true;
}

} // namespace

bool address_space_init(size_t percpu_bytes) {
    const plan plans[] = {
        {&g_space.percpu, percpu_bytes, percpu_bytes, "pagoda per-cpu"},
        {&g_space.sheaves, kGiB, 16 * kPageSize, "pagoda sheaves"},
        {&g_space.slots, size_t{16} << 30, kPageSize, "pagoda slots"},
        {&g_space.sheaf_links, size_t{4} << 20, kPageSize, "pagoda links"},
        {&g_space.memfd_pages, kMemfdPagesSpan, 0, nullptr},
        {&g_space.page_class, kZonePages, 4 * kPageSize, "pagoda classes"},
        {&g_space.memmap, kZonePages * 32, 32 * kPageSize, "pagoda memmap"},
        {&g_space.pageblocks, (kZoneSpan >> kPageblockShift) * 512, kPageSize, "pagoda blocks"},
        {&g_space.meta, size_t{64} << 30, 8 * kPageSize, "pagoda meta"},
        {&g_space.vm_index, (kVmallocSpan >> kPageblockShift) * 8, kPageSize, "pagoda vm index"},
    };
    static_assert(kSheavesBehindPercpu == 2 * kGiB, "the second window, behind one of 1 GiB");
    if (percpu_bytes > kGiB)
        return false;
    constexpr int kCount = sizeof plans / sizeof plans[0];
    // Between a program's break and its libraries nearly all of the address space is empty; the
    // smaller bases are for kernels that give user space 39 bits.
    for (int attempt = 0; attempt < 64; attempt++) {
        uint64_t random =
            sys::random_bits() + static_cast<uint64_t>(attempt) * 0x9e3779b97f4a7c15ULL;
        uintptr_t base = attempt < 48 ? (uintptr_t{16} << 40) + (random >> 20) % (8 * 1024) * kGiB
                                      : (uintptr_t{16} << 30) + (random >> 20) % 256 * kGiB;
        if (try_region(base, plans, kCount))
            return true;
    }
    return false;
}

} // namespace pagoda
