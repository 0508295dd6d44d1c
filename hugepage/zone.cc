#include "hugepage/zone.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"

#include <errno.h>

namespace pagoda {

pagemap g_pagemap;
constinit zone g_zones[3];
constinit thread_local uint32_t t_keeps_memory = 0;

namespace {

constexpr uint64_t kZonePages = kZoneSpan >> kPageShift;
constexpr uint32_t kMaxGrowBlocks = 32;            // 64 MiB
constexpr uint64_t kCleanKept = uint64_t{4} << 20; // in whole pageblocks, for the next growth
constexpr uint32_t kFirstPages = 128;              // enough for most small programs
constexpr uint32_t kSmallestGrowth = 16;           // pages, when a limit allows no whole pageblock
constexpr unsigned kMaxAlignOrder = 30 - kPageShift; // the zone's base is no better aligned

bool is_set(const uint64_t *map, uint32_t bit) { return (map[bit / 64] >> (bit % 64) & 1) != 0; }

uintptr_t address_of(uint64_t page) { return g_space.zone_base + (page << kPageShift); }

} // namespace

zone &zone_for(gfp_t gfp) {
    if ((gfp & __GFP_DMA) != 0)
        return g_zones[static_cast<int>(zone_type::dma)];
    if ((gfp & __GFP_DMA32) != 0)
        return g_zones[static_cast<int>(zone_type::dma32)];
    return zone_normal();
}

bool zones_init() {
    g_pagemap.base = g_space.zone_base;
    g_pagemap.page_class = g_space.page_class.as<uint8_t>();
    g_pagemap.memmap = g_space.memmap.as<page>();
    zone_normal().set_limits(read_memory_limits());
    zone_normal().start(); // at a limit the first allocation tries again
    return true;
}

// The first piece is mapped and named at once: later ones extend it, which needs no call that a
// sandbox might forbid.
bool zone::start() {
    lock_guard g(lock_);
    return options().hugetlb_shift != 0 || extend(kFirstPages);
}

bool zone::hugetlb_left() const {
    const option_values &o = options();
    return o.hugetlb_shift != 0 && !hugetlb_empty_ &&
           hugetlb_pages_ >> (o.hugetlb_shift - kPageShift) < o.hugetlb_pages;
}

uint64_t zone::watermark_pages(watermark w) const {
    switch (w) {
    case watermark::min:
        return min_pages_;
    case watermark::low:
        return min_pages_ + min_pages_ / 4;
    case watermark::high:
        break;
    }
    return min_pages_ + min_pages_ / 2;
}

bool zone::watermark_ok(uint32_t count, watermark w, gfp_t gfp) const {
    uint64_t keep = watermark_pages(w);
    if ((gfp & __GFP_HIGH) != 0)
        keep -= keep / 2;
    return buddy_.free_pages() >= keep + count;
}

// Growth.

// The tables that describe pages [0, end_page) become readable; page_class first for readers.
bool zone::tables_reach(uint64_t end_page) {
    if (!g_space.memmap.reach(end_page * sizeof(page)) ||
        !g_space.pageblocks.reach((end_page + kPageblockPages - 1) / kPageblockPages *
                                  sizeof(pageblock)) ||
        !g_space.page_class.reach(end_page))
        return false;
    std::atomic_ref<size_t>(g_pagemap.frontier)
        .store(min_of(uint64_t{g_space.page_class.bytes()}, kZonePages), std::memory_order_release);
    return true;
}

// Adds `pages` ordinary pages at the end of the zone; steps over what others mapped there.
bool zone::extend(uint32_t pages) {
    size_t os_page = sys::page_size();
    size_t bytes = align_up(size_t{pages} << kPageShift, os_page);
    pages = static_cast<uint32_t>(bytes >> kPageShift);
    for (uint64_t skip = kPageblockPages; end_ + pages <= kZonePages; skip *= 2) {
        uintptr_t at = address_of(end_);
        int r = tail_extensible_ ? sys::extend(at, bytes) : -EFAULT;
        if (r != 0)
            r = sys::map_at(at, bytes);
        if (r == 0 && !tables_reach(end_ + pages)) { // tables last: a refused giant costs nothing
            sys::unmap(at, bytes);
            return false;
        }
        if (r == 0) {
            if (!tail_extensible_) {
                sys::hint_huge(at, bytes, options().thp == thp_policy::always);
                if (present_ == 0) // later pieces extend this one: a sandbox may forbid prctl
                    sys::name_range(at, bytes, "pagoda zone");
            }
            tail_extensible_ = true;
            buddy_.release(static_cast<uint32_t>(end_), pages, false);
            for (uint64_t block = end_ / kPageblockPages;
                 (block + 1) * kPageblockPages <= end_ + pages; block++)
                buddy_.block(static_cast<uint32_t>(block)).flags |= kBlockOrdinary;
            end_ += pages;
            present_ += pages;
            note_peak();
            return true;
        }
        if (r != -EEXIST)
            return false;
        end_ = align_up(end_ + skip, kPageblockPages);
        tail_extensible_ = false;
    }
    return false;
}

// Adds one page of the hugetlb pool, while the option's budget and the pool last.
bool zone::extend_hugetlb() {
    if (!hugetlb_left())
        return false;
    unsigned shift = options().hugetlb_shift;
    uint64_t pages = uint64_t{1} << (shift - kPageShift);
    uint64_t first = align_up(end_, pages);
    if (first + pages > kZonePages || !tables_reach(first + pages))
        return false;
    if (sys::map_hugetlb_at(address_of(first), pages << kPageShift, shift) != 0) {
        hugetlb_empty_ = true;
        return false;
    }
    for (uint64_t at = first; at < first + pages; at += kPageblockPages)
        buddy_.block(static_cast<uint32_t>(at / kPageblockPages)).flags |= kBlockHugetlb;
    buddy_.release(static_cast<uint32_t>(first), static_cast<uint32_t>(pages), false);
    end_ = first + pages;
    present_ += pages;
    hugetlb_pages_ += pages;
    tail_extensible_ = false;
    return true;
}

// More memory, at least one free run of `blocks` pageblocks (or, near a limit, of 2^order pages).
// Only memory at the zone's end is sure to be aligned: the caller comes again for more.
bool zone::grow(uint32_t blocks, unsigned order, unsigned align_order) {
    uint32_t got = 0;
    while (got < blocks && extend_hugetlb())
        got += 1u << (options().hugetlb_shift - kPageblockShift);
    if (got >= blocks || map_absent(blocks))
        return true;
    uint64_t align = uint64_t{1} << max_of(align_order, kPageblockOrder);
    uint32_t lead = static_cast<uint32_t>(align_up(end_, align) - end_);
    if (order + 2 < kPageblockOrder && lead >= kPageblockPages / 2 && extend(lead))
        return true; // the pageblock that was begun
    uint32_t step =
        static_cast<uint32_t>(min_of(present_ / kPageblockPages / 16, uint64_t{kMaxGrowBlocks}));
    uint32_t need = lead + blocks * kPageblockPages;
    if (step > blocks && extend(lead + step * kPageblockPages))
        return true;
    if (extend(need))
        return true;
    if (blocks > 1 || order >= kPageblockOrder)
        return false;
    uint32_t smallest = max_of(1u << order, kSmallestGrowth);
    for (uint32_t pages = kPageblockPages / 2; pages >= smallest; pages /= 2) {
        // Blocks of this order start at its multiples, also after a piece of another size.
        uint32_t pad = static_cast<uint32_t>(align_up(end_, 1u << order) - end_);
        if (extend(pad + pages))
            return true;
    }
    return false;
}

// Allocation.

// Clean pages of a pageblock that was purged a moment ago: the purge came too early.
void zone::note_taken_again(uint32_t first, uint32_t count) {
    uint32_t &purged_at = buddy_.block(first / kPageblockPages).purged_at;
    if (purged_at == 0)
        return;
    if (static_cast<uint32_t>(sys::now_ms()) - purged_at < kRefaultWindowMs)
        note_refault(uint64_t{count} << kPageShift);
    else
        purged_at = 0;
}

// Accounts for pages that just left the buddy, the first of `got`, of which `dirty` held memory.
void zone::note_taken(uint32_t first, uint32_t count, uint32_t got, uint32_t dirty,
                      page_state *state) {
    if (dirty < got)
        note_taken_again(first, min_of(count, got - dirty));
    // Where OS pages are larger than ours, a purge leaves old bytes at its edges.
    *state = {dirty == 0 && sys::page_size() == kPageSize, dirty == got};
    allocated_ += count;
}

uint32_t zone::take_exact(uint32_t count, page_state *state) {
    uint32_t dirty = 0;
    uint32_t first = buddy_.take_exact(count, &dirty);
    if (first != kNoPage)
        note_taken(first, count, count, dirty, state);
    return first;
}

uint32_t zone::take(uint32_t count, unsigned order, unsigned align_order, page_state *state) {
    bool single = order <= kPageblockOrder;
    uint32_t align = 1u << (max_of(align_order, kPageblockOrder) - kPageblockOrder);
    uint32_t dirty = 0;
    uint32_t first =
        single ? buddy_.take(order, &dirty)
               : buddy_.take_blocks((count + kPageblockPages - 1) / kPageblockPages, align, &dirty);
    if (first == kNoPage)
        return kNoPage;
    uint32_t got = single ? 1u << order : static_cast<uint32_t>(align_up(count, kPageblockPages));
    if (got > count) // exact pages: the tail goes back
        buddy_.release(first + count, got - count, dirty != 0);
    note_taken(first, count, got, dirty, state);
    return first;
}

bool zone::want_huge(unsigned order) const {
    thp_policy thp = options().thp;
    return thp != thp_policy::never && order <= kPageblockOrder && may_give_back() &&
           buddy_.would_break_clean(order) &&
           (live_bytes() >= kHugeHeap || thp == thp_policy::always);
}

// Takes a whole clean pageblock, makes it one huge page without the lock, and serves from it.
// The hint is taken back at once: khugepaged must not refill what is given back later.
uint32_t zone::take_huge_block(uint32_t count, unsigned order, page_state *state) {
    uint32_t dirty = 0;
    uint32_t first = buddy_.take(kPageblockOrder, &dirty);
    if (first == kNoPage)
        return kNoPage;
    bool hugetlb = (buddy_.block(first / kPageblockPages).flags & kBlockHugetlb) != 0;
    lock_.unlock();
    bool populated = false;
    if (!hugetlb) {
        uintptr_t at = address_of(first);
        sys::hint_huge(at, kPageblockSize, true);
        populated = sys::populate(at, kPageblockSize) == 0;
        sys::hint_huge(at, kPageblockSize, false);
    }
    lock_.lock();
    huge_blocks_ += populated;
    note_taken_again(first, kPageblockPages);
    uint32_t got = 1u << order;
    if (got < kPageblockPages)
        buddy_.release(first + got, kPageblockPages - got, populated);
    if (got > count)
        buddy_.release(first + count, got - count, populated);
    *state = {dirty == 0 && sys::page_size() == kPageSize, populated}; // populated: zero as well
    allocated_ += count;
    return first;
}

uint32_t zone::alloc(uint32_t count, unsigned align_order, gfp_t gfp, page_state *state) {
    bool may_block = gfpflags_allow_blocking(gfp);
    unsigned order = max_of(order_of(count), align_order);
    if (align_order > kMaxAlignOrder)
        return kNoPage;
    if (may_block)
        lock_.lock();
    else if (!lock_.try_lock())
        return kNoPage;

    uint32_t first = kNoPage;
    for (int attempt = 0; first == kNoPage && attempt < 3; attempt++) {
        bool enough = watermark_ok(count, watermark::min, gfp);
        if (enough && align_order == 0 && count <= kPageblockPages)
            first = take_exact(count, state);
        if (first == kNoPage && enough && may_block && want_huge(order))
            first = take_huge_block(count, order, state);
        if (first == kNoPage && enough)
            first = take(count, order, align_order, state);
        if (first != kNoPage || !may_block || this != &zone_normal())
            break; // only NORMAL grows: the others get their memory from a device
        uint32_t blocks =
            order <= kPageblockOrder ? 1 : (count + kPageblockPages - 1) / kPageblockPages;
        if (limit_ != kNoLimit) {
            lock_.unlock();
            pay_for(uint64_t{count} << kPageShift);
            lock_.lock();
        }
        if (grow(blocks, order, align_order)) {
            attempt = -1; // another thread may take what just came: only failing to grow ends this
            continue;
        }
        // Pages are wanted first; addresses, which tables may lack, are given up for them last.
        lock_.unlock();
        if (attempt == 0)
            reclaim();
        else if (attempt == 1)
            squeeze(uint64_t{count} << kPageShift);
        lock_.lock();
    }
    lock_.unlock();
    return first;
}

bool zone::free(uint32_t first, uint32_t count, bool dirty, gfp_t gfp) {
    bool may_block = gfpflags_allow_blocking(gfp);
    if (may_block)
        lock_.lock();
    else if (!lock_.try_lock())
        return false;
    __builtin_memset(g_pagemap.page_class + first, kClassNone, count);
    buddy_.release(first, count, dirty);
    released_ += count;
    lock_.unlock();
    if (may_block)
        balance();
    return true;
}

uint32_t zone::set_aside(uint32_t count) {
    page_state state = {};
    uint32_t first = alloc(count * kPageblockPages, kPageblockOrder, GFP_KERNEL, &state);
    if (first != kNoPage) {
        lock_guard g(lock_);
        set_aside_ += uint64_t{count} * kPageblockPages;
    }
    return first;
}

void zone::free_set_aside(uint32_t first, uint32_t count, bool dirty) {
    {
        lock_guard g(lock_);
        set_aside_ -= count;
    }
    free(first, count, dirty, GFP_KERNEL);
}

// Giving back.

void zone::note_vmalloc(int64_t live, int64_t dirty) {
    vmalloc_live_.fetch_add(live, std::memory_order_relaxed);
    vmalloc_dirty_.fetch_add(dirty, std::memory_order_relaxed);
    if (live > 0)
        note_peak();
}

void zone::note_peak() {
    uint64_t now = (present_ << kPageShift) +
                   static_cast<uint64_t>(vmalloc_live_.load(std::memory_order_relaxed) +
                                         vmalloc_dirty_.load(std::memory_order_relaxed));
    uint64_t peak = peak_bytes_.load(std::memory_order_relaxed);
    while (now > peak && !peak_bytes_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
}

// The bonus halves with every second since it last changed.
uint64_t zone::decayed_bonus() {
    uint64_t bonus = bonus_.load(std::memory_order_relaxed);
    if (bonus == 0)
        return 0;
    uint64_t second = sys::now_ms() / 1000;
    uint64_t last = bonus_second_.load(std::memory_order_relaxed);
    if (second <= last ||
        !bonus_second_.compare_exchange_strong(last, second, std::memory_order_relaxed))
        return bonus;
    uint64_t kept = second - last < 64 ? bonus >> (second - last) : 0;
    bonus_.fetch_sub(bonus - kept, std::memory_order_relaxed);
    return kept;
}

void zone::note_refault(uint64_t bytes) {
    if (decayed_bonus() == 0)
        bonus_second_.store(sys::now_ms() / 1000, std::memory_order_relaxed);
    bonus_.fetch_add(bytes, std::memory_order_relaxed);
}

uint64_t zone::dirty_bound() {
    return min_of(base_bound() + min_of(decayed_bonus(), bonus_cap_), limit_bound(0));
}

uint64_t zone::live_bytes() const {
    return ((present_ - buddy_.free_pages() - set_aside_) << kPageShift) +
           static_cast<uint64_t>(vmalloc_live_.load(std::memory_order_relaxed));
}

uint64_t zone::base_bound() const {
    return max_of(options().dirty_bytes, min_of(live_bytes() / 8, kDirtyCap));
}

void zone::make_room() {
    uint64_t base = base_bound();
    if (buddy_.dirty_pages() << kPageShift > base)
        purge(base / 2);
}

bool zone::over_dirty_bound() {
    uint64_t dirty = (buddy_.dirty_pages() << kPageShift) +
                     static_cast<uint64_t>(vmalloc_dirty_.load(std::memory_order_relaxed));
    return (dirty > options().dirty_bytes || limit_ != kNoLimit) && dirty > dirty_bound();
}

void zone::balance() {
    if (PAGODA_LIKELY(!over_dirty_bound()) || !may_give_back())
        return;
    if (sys::now_ms() < purge_pause_until_.load(std::memory_order_relaxed))
        return;
    purge(dirty_bound() / 2);
}

void zone::squeeze(uint64_t wanted) {
    // An ordinary growth was refused: addresses are what is short from now on. A request for more
    // than there ever was says nothing.
    if (wanted <= peak_bytes_.load(std::memory_order_relaxed))
        tight_.store(true, std::memory_order_relaxed);
    reclaim();
    if (!may_give_back())
        return;
    lock_guard g(purge_lock_);
    purge_locked(0, true);
    unmap_clean(0);
}

uint64_t zone::purge(uint64_t keep) {
    if (!may_give_back() || !purge_lock_.try_lock())
        return 0; // one at a time; whoever is at it sees the newest counts
    bool addresses_too = tight_.load(std::memory_order_relaxed);
    uint64_t done = purge_locked(keep, addresses_too);
    if (addresses_too)
        done += unmap_clean(min_of(keep, kCleanKept));
    purge_lock_.unlock();
    return done;
}

void zone::reclaim() {
    lock_guard g(purge_lock_);
    if (reclaim_ != nullptr)
        reclaim_();
}

// `addresses_too`: whole pageblocks are unmapped.
uint64_t zone::purge_locked(uint64_t keep, bool addresses_too) {
    size_t os_page = sys::page_size();
    uint64_t done = 0;
    lock_.lock();
    while (buddy_.dirty_pages() << kPageShift > keep) {
        uint32_t number = 0;
        if (!buddy_.isolate_dirty(&number))
            break;
        pageblock &b = buddy_.block(number);
        if (addresses_too && unmap_isolated(number)) {
            done += kPageblockSize;
            continue;
        }
        uint64_t pages[8];
        __builtin_memcpy(pages, b.isolated, sizeof pages);
        lock_.unlock();
        bool ok = true;
        uintptr_t base = address_of(uint64_t{number} * kPageblockPages);
        for (uint32_t at = 0; at < kPageblockPages;) {
            uint32_t from = at;
            bool isolated = is_set(pages, at);
            while (at < kPageblockPages && is_set(pages, at) == isolated)
                at++;
            // Shrunk to OS pages: what is left at the edges stays as it was.
            uintptr_t lo = align_up(base + (uintptr_t{from} << kPageShift), os_page);
            uintptr_t hi = align_down(base + (uintptr_t{at} << kPageShift), os_page);
            if (!isolated || lo >= hi)
                continue;
            if (sys::discard(lo, hi - lo) == 0)
                done += hi - lo;
            else
                ok = false;
        }
        lock_.lock();
        buddy_.unisolate(number, !ok);
        if (!ok) { // mlocked: ask again later
            purge_pause_until_.store(sys::now_ms() + 1000, std::memory_order_relaxed);
            break;
        }
        b.purged_at = max_of(static_cast<uint32_t>(sys::now_ms()), 1u); // 0 means never
    }
    purged_ += done >> kPageShift;
    lock_.unlock();
    return done;
}

// The rest.

zone_stats zone::stats() {
    lock_guard g(lock_);
    return {present_,
            end_,
            buddy_.free_pages(),
            buddy_.dirty_pages(),
            hugetlb_pages_,
            huge_blocks_,
            allocated_,
            released_,
            purged_,
            peak_bytes_.load(),
            bonus_.load(),
            set_aside_};
}

bool zone::consistent() {
    lock_guard g(lock_);
    return buddy_.consistent(static_cast<uint32_t>((end_ + kPageblockPages - 1) / kPageblockPages));
}

void zone::after_fork_in_child() {
    purge_lock_.reset_in_child();
    // What the parent's other threads were giving back: one of them may have unmapped it already.
    for (uint32_t n; (n = buddy_.any_isolated()) != kNoPage;) {
        if ((buddy_.block(n).flags & kBlockLeaving) != 0)
            note_absent(n);
        else
            buddy_.unisolate(n, true);
    }
}

} // namespace pagoda
