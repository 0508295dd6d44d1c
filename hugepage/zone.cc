#include "hugepage/zone.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"

#include <errno.h>

namespace pagoda {

pagemap g_pagemap;
constinit zone g_zone_normal;
constinit thread_local uint32_t t_keeps_memory = 0;

namespace {

constexpr uint64_t kZonePages = kZoneSpan >> kPageShift;
constexpr uint32_t kMaxGrowBlocks = 32;  // 64 MiB
constexpr uint32_t kFirstPages = 128;    // enough for most small programs
constexpr uint32_t kSmallestGrowth = 16; // pages, when a limit allows no whole pageblock
constexpr unsigned kMaxAlignOrder = 30 - kPageShift; // the zone's base is no better aligned

uintptr_t address_of(uint64_t page) { return g_space.zone_base + (page << kPageShift); }

} // namespace

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
    uint32_t step = static_cast<uint32_t>(
        min_of((present_ - set_aside_) / kPageblockPages / 16, uint64_t{kMaxGrowBlocks}));
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

uint32_t zone::take_backed(uint32_t count, unsigned align_order, page_state *state) {
    if (count > kPageblockPages || align_order > kPageblockOrder)
        return kNoPage;
    uint32_t first = buddy_.take_backed(count, align_order);
    if (first != kNoPage)
        note_taken(first, count, count, count, state);
    return first;
}

// Without waiting, mapping or, unless the flags say so, a fault to come.
uint32_t zone::alloc_at_once(uint32_t count, unsigned align_order, unsigned order, gfp_t gfp,
                             page_state *state) {
    if (!lock_.try_lock())
        return kNoPage;
    finish_frees_locked();
    uint32_t first = kNoPage;
    if ((gfp & kGfpMayFault) == 0 || !within_limit(uint64_t{1} << order))
        first = take_backed(count, align_order, state);
    else if (align_order == 0 && count <= kPageblockPages)
        first = take_exact(count, state);
    if (first == kNoPage && (gfp & kGfpMayFault) != 0 && within_limit(uint64_t{1} << order))
        first = take(count, order, align_order, state);
    unlock();
    return first;
}

uint32_t zone::alloc_blocking(uint32_t count, unsigned align_order, unsigned order,
                              page_state *state) {
    uint64_t bytes = uint64_t{count} << kPageShift;
    // What taking turns from clean to dirty or used, at most.
    // A block's tail goes back as dirty where a part of the block was.
    uint64_t most =
        order <= kPageblockOrder ? uint64_t{1} << order : align_up(count, kPageblockPages);
    lock_.lock();
    finish_frees_locked();
    uint32_t first = kNoPage;
    for (int attempt = 0; first == kNoPage && attempt < 3; attempt++) {
        bool room = within_limit(most);
        if (!room)
            first = take_backed(count, align_order, state);
        else if (align_order == 0 && count <= kPageblockPages)
            first = take_exact(count, state);
        if (first == kNoPage && want_huge(order) && within_limit(kPageblockPages))
            first = take_huge_block(count, order, state);
        if (first == kNoPage && room)
            first = take(count, order, align_order, state);
        if (first != kNoPage)
            break;
        uint32_t blocks =
            order <= kPageblockOrder ? 1 : (count + kPageblockPages - 1) / kPageblockPages;
        if (limit_ != kNoLimit) {
            lock_.unlock();
            pay_for(bytes);
            lock_.lock();
        }
        if (room && grow(blocks, order, align_order)) {
            attempt = -1; // another thread may take what just came: only failing to grow ends this
            continue;
        }
        lock_.unlock();
        if (!room && attempt < 2)
            give_back_for(most << kPageShift, attempt > 0);
        else if (room && attempt == 0)
            reclaim();
        // Pages are wanted first; addresses, which tables may lack, are given up for them last.
        else if (room && attempt == 1)
            squeeze(bytes);
        lock_.lock();
    }
    unlock();
    return first;
}

uint32_t zone::alloc(uint32_t count, unsigned align_order, gfp_t gfp, page_state *state) {
    bool may_block = gfpflags_allow_blocking(gfp);
    unsigned order = max_of(order_of(count), align_order);
    if (align_order > kMaxAlignOrder)
        return kNoPage;
    uint32_t first = may_block ? alloc_blocking(count, align_order, order, state)
                               : alloc_at_once(count, align_order, order, gfp, state);
    if (first == kNoPage) {
        first = reserve_.alloc(count, align_order, gfp);
        if (first != kNoPage)
            *state = {false, true};
    } else if (PAGODA_UNLIKELY(keep_backed_.load(std::memory_order_relaxed)) && !state->backed &&
               !(may_block && (gfp & kGfpMayFault) != 0)) {
        state->backed = populate(first, count);
    }
    if (PAGODA_UNLIKELY(may_block && wants_restock() && may_give_back()))
        restock(true);
    return first;
}

// Freeing.

void zone::release_locked(uint32_t first, uint32_t count, bool dirty) {
    buddy_.release(first, count, dirty);
    released_ += count;
}

// The list is linked through the pages' records, which are nobody else's any more.
void zone::defer(uint32_t first, uint32_t count, bool dirty) {
    page &pg = page_at(first);
    pg.npages = count;
    pg.flags = dirty;
    uint32_t head = deferred_.load(std::memory_order_relaxed);
    do
        pg.link = head;
    while (!deferred_.compare_exchange_weak(head, first + 1, std::memory_order_seq_cst,
                                            std::memory_order_relaxed));
}

void zone::finish_frees_locked() {
    if (PAGODA_UNLIKELY(purges_left_.load(std::memory_order_relaxed)))
        finish_purges_locked();
    if (PAGODA_LIKELY(deferred_.load(std::memory_order_relaxed) == 0))
        return;
    for (uint32_t at = deferred_.exchange(0, std::memory_order_acquire); at != 0;) {
        page &pg = page_at(at - 1);
        uint32_t next = pg.link;
        bool dirty = pg.flags != 0;
        pg.flags = 0;
        if (!reserve::has((at - 1) / kPageblockPages))
            release_locked(at - 1, pg.npages, dirty);
        else if (!reserve_.free(at - 1, pg.npages))
            defer(at - 1, pg.npages, true);
        at = next;
    }
}

// Whoever could not have the lock meanwhile has left his pages on the list.
void zone::unlock() {
    lock_.unlock();
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (PAGODA_UNLIKELY(deferred_.load(std::memory_order_relaxed) != 0 ||
                        purges_left_.load(std::memory_order_relaxed)) &&
        lock_.try_lock()) {
        finish_frees_locked();
        lock_.unlock();
    }
}

void zone::finish_frees() {
    lock_guard g(lock_);
    finish_frees_locked();
}

// Has somebody else finish what was left where the lock was not to be had; the holder may have gone
// before he could see it.
void zone::leave_to_holder() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (lock_.try_lock()) {
        finish_frees_locked();
        unlock();
    }
}

void zone::give_back(uint32_t first, uint32_t count, bool dirty, bool may_spin) {
    if (PAGODA_UNLIKELY(reserve::has(first / kPageblockPages))) {
        if (reserve_.free(first, count))
            return;
    } else if (may_spin ? lock_.try_lock_briefly() : lock_.try_lock()) {
        finish_frees_locked();
        release_locked(first, count, dirty);
        unlock();
        return;
    }
    defer(first, count, dirty);
    leave_to_holder();
}

void zone::free(uint32_t first, uint32_t count, bool dirty, gfp_t gfp) {
    bool may_block = gfpflags_allow_blocking(gfp);
    __builtin_memset(g_pagemap.page_class + first, kClassNone, count);
    give_back(first, count, dirty, may_block);
    if (!may_block)
        return;
    if (PAGODA_UNLIKELY(wants_restock() && may_give_back()))
        restock(false);
    balance();
}

// What is set aside need hold no memory, and freed it does not.
uint32_t zone::set_aside(uint32_t count, unsigned align_order) {
    page_state state = {};
    uint64_t peak = peak_bytes_.load(std::memory_order_relaxed);
    uint32_t first = alloc(count * kPageblockPages, align_order, GFP_KERNEL | kGfpMayFault, &state);
    if (first != kNoPage) {
        lock_guard g(lock_);
        set_aside_ += uint64_t{count} * kPageblockPages;
        peak_bytes_.store(peak, std::memory_order_relaxed); // growth for it was no peak
        note_peak();
    }
    return first;
}

bool zone::discard_set_aside(uint32_t first, uint32_t count) {
    lock_guard no_hold(purge_lock_);
    return !is_held(first, count) &&
           sys::discard(address_of(first), size_t{count} << kPageShift) == 0;
}

void zone::free_set_aside(uint32_t first, uint32_t count, bool dirty) {
    {
        lock_guard g(lock_);
        set_aside_ -= count;
    }
    if (keep_backed_.load(std::memory_order_relaxed) && sys::page_size() == kPageSize)
        dirty = dirty && !discard_set_aside(first, count);
    free(first, count, dirty, GFP_KERNEL);
}

// Accounts.

void zone::note_vmalloc(int64_t live, int64_t dirty) {
    vmalloc_live_.fetch_add(live, std::memory_order_relaxed);
    vmalloc_dirty_.fetch_add(dirty, std::memory_order_relaxed);
    if (live > 0)
        note_peak();
}

void zone::note_peak() {
    uint64_t now = ((present_ - set_aside_) << kPageShift) +
                   static_cast<uint64_t>(vmalloc_live_.load(std::memory_order_relaxed) +
                                         vmalloc_dirty_.load(std::memory_order_relaxed));
    uint64_t peak = peak_bytes_.load(std::memory_order_relaxed);
    while (now > peak && !peak_bytes_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
}

uint64_t zone::live_bytes() const {
    uint64_t used = present_ - buddy_.free_pages() - reserve_.free_pages() - set_aside_;
    return (used << kPageShift) +
           static_cast<uint64_t>(vmalloc_live_.load(std::memory_order_relaxed));
}

zone_stats zone::stats() {
    lock_guard g(lock_);
    return {present_,
            end_,
            buddy_.free_pages() + reserve_.free_pages(),
            buddy_.dirty_pages(),
            reserve_.free_pages(),
            hugetlb_pages_,
            huge_blocks_,
            allocated_,
            released_,
            purged_.load(),
            peak_bytes_.load(),
            bonus_.load(),
            set_aside_};
}

bool zone::consistent() {
    lock_guard g(lock_);
    finish_frees_locked();
    uint32_t blocks = static_cast<uint32_t>((end_ + kPageblockPages - 1) / kPageblockPages);
    return buddy_.consistent(blocks) && reserve_.consistent(blocks);
}

void zone::after_fork_in_child() {
    purge_lock_.reset_in_child();
    reserve_.after_fork_in_child();
    // What the parent's other threads were giving back: one of them may have unmapped it already.
    finish_purges_locked();
    for (uint32_t n; (n = buddy_.any_isolated()) != kNoPage;)
        end_purge(n, (buddy_.block(n).flags & kBlockLeaving) != 0 ? purge_end::absent
                                                                  : purge_end::kept);
    forget_holds_in_child();
}

} // namespace pagoda
