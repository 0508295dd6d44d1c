#include "lib/pages.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/highmem.h"
#include "lib/kernel_api.h"
#include "lib/misuse.h"
#include "lib/page_hold.h"
#include "lib/page_run.h"
#include "lib/reclaim.h"
#include "lib/thread.h"

#include <pagoda/mm.h>

#include <string.h>

// Set by pagoda_layout_fill(). A program that is not position independent has its own copy of this,
// which the dynamic linker makes the library use as well.
PAGODA_EXPORT pagoda_layout_record pagoda_layout;
pagoda_layout_record pagoda_layout = {};

namespace pagoda {
namespace {

static_assert(sizeof(page) == PAGODA_STRUCT_PAGE_SIZE);
static_assert(kMaxPageOrder == MAX_PAGE_ORDER && kPageSize == PAGE_SIZE);

constexpr gfp_t kNoWait = 0; // for frees that may not wait for a lock

std::atomic<uint64_t> live_blocks{0};
std::atomic<uint64_t> live_pages{0};
std::atomic<uint64_t> served{0};

void count(int64_t blocks, int64_t pages) {
    live_blocks.fetch_add(static_cast<uint64_t>(blocks), std::memory_order_relaxed);
    live_pages.fetch_add(static_cast<uint64_t>(pages), std::memory_order_relaxed);
    if (blocks > 0)
        served.fetch_add(static_cast<uint64_t>(blocks), std::memory_order_relaxed);
}

bool order_allowed(unsigned order, gfp_t gfp) {
    static std::atomic<bool> said{false};
    if (order <= kMaxPageOrder)
        return true;
    warn_once(said, gfp, "a block above MAX_PAGE_ORDER was asked for: NULL");
    return false;
}

bool zone_allowed(gfp_t gfp) {
    static std::atomic<bool> said{false};
    if (count_bits(gfp & (__GFP_DMA | __GFP_DMA32 | __GFP_HIGHMEM)) <= 1)
        return true;
    warn_once(said, gfp, "pages of two zones at once were asked for: NULL");
    return false;
}

// `owner` is charged for the block; it belongs to its first page.
void set_block(uint32_t first, unsigned order, bool compound, group *owner) {
    uint32_t kind = compound ? kPageCompound : 0;
    for (uint32_t i = 1; i < 1u << order; i++) {
        page &tail = page_at(first + i);
        tail.refs.store(0, std::memory_order_relaxed);
        tail.flags = kPageTail | kind;
        tail.head = first;
        tail.order = 0;
    }
    page &head = page_at(first);
    head.owner = owner;
    head.flags = kPageHead | kind;
    head.head = first;
    head.order = static_cast<uint8_t>(order);
    pages_begin_unheld(head);
    head.refs.store(1, std::memory_order_relaxed);
}

// The charge for all of them becomes one for each.
void set_singles(uint32_t first, uint32_t pages, group *owner) {
    for (uint32_t i = 0; i < pages; i++)
        set_block(first + i, 0, false, owner);
    if (owner != nullptr)
        owner->references.fetch_add(pages - 1, std::memory_order_relaxed);
}

group *owner_of(uint32_t head) { return static_cast<group *>(page_at(head).owner); }

// `pages` in a row from the zone that the flags name, cleared if they say so; the page records are
// still to be set.
uint32_t take_uncharged(uint32_t pages, unsigned align_order, gfp_t gfp, bool once) {
    if (!kernel_api_enter(gfp) || !zone_allowed(gfp))
        return kNoPage;
    struct piece {
        uint32_t first = kNoPage;
        bool zeroed = false;
        explicit operator bool() const { return first != kNoPage; }
    };
    auto attempt = [=]() -> piece {
        slow_path scope;
        gfp_t now = once ? gfp : scope.limit(gfp); // the _nolock family has no reserve in handlers
        page_state state = {};
        uint32_t first = pages_take(pages, align_order, device_mask(now), now, &state);
        return {first, state.zeroed};
    };
    uint64_t mask = device_mask(gfp);
    piece got = once        ? attempt()
                : mask != 0 ? with_device_pages(pages, align_order, mask, gfp, attempt)
                            : with_reclaim(gfp, uint64_t{pages} << kPageShift, attempt);
    if (!got)
        return kNoPage;
    memset(g_pagemap.page_class + got.first, kClassPages, pages);
    if ((gfp & __GFP_ZERO) != 0 && !got.zeroed)
        memset(page_address(got.first), 0, size_t{pages} << kPageShift);
    return got.first;
}

uint32_t take(uint32_t pages, unsigned align_order, gfp_t gfp, bool once, group **owner) {
    uint64_t bytes = uint64_t{pages} << kPageShift;
    *owner = (gfp & __GFP_ACCOUNT) != 0 ? current_group() : nullptr;
    if (!group_charge(*owner, bytes))
        return kNoPage;
    uint32_t first = take_uncharged(pages, align_order, gfp, once);
    if (first == kNoPage)
        group_uncharge(*owner, bytes);
    return first;
}

uint32_t alloc_block(unsigned order, gfp_t gfp, bool once) {
    if (!order_allowed(order, gfp))
        return kNoPage;
    group *owner = nullptr;
    uint32_t first = take(1u << order, order, gfp, once, &owner);
    if (first == kNoPage)
        return kNoPage;
    set_block(first, order, order > 0 && (gfp & __GFP_COMP) != 0, owner);
    count(1, int64_t{1} << order);
    return first;
}

uint32_t alloc_singles(uint32_t pages, unsigned align_order, gfp_t gfp) {
    group *owner = nullptr;
    uint32_t first = take(pages, align_order, gfp, false, &owner);
    if (first == kNoPage)
        return kNoPage;
    set_singles(first, pages, owner);
    count(pages, pages);
    return first;
}

// `reported`: what a report of too few references names.
bool drop(page &pg, uint32_t references, const void *reported) {
    uint32_t refs = pg.refs.load(std::memory_order_relaxed);
    do {
        if (refs < references) {
            report_double_free(reported);
            return false;
        }
    } while (!pg.refs.compare_exchange_weak(refs, refs - references, std::memory_order_acq_rel));
    return refs == references;
}

// A page of HIGHMEM; NULL where that zone is empty or not meant: the others serve. Not where it was
// *refused: who pays is at his limit.
::page *alloc_high(unsigned order, gfp_t gfp, bool *refused) {
    constexpr gfp_t kWhich = __GFP_HIGHMEM | __GFP_DMA | __GFP_DMA32;
    if (order != 0 || (gfp & kWhich) != __GFP_HIGHMEM || !kernel_api_enter(gfp) ||
        options().highmem_bytes == 0)
        return nullptr;
    gfp = current_gfp(gfp);
    group *payer = (gfp & __GFP_ACCOUNT) != 0 ? current_group() : nullptr;
    *refused = !group_charge(payer, kPageSize);
    if (*refused)
        return nullptr;
    page *p = highmem_alloc(gfp);
    if (p == nullptr) {
        group_uncharge(payer, kPageSize);
        return nullptr;
    }
    p->payer = group_number(payer);
    count(1, 1);
    return public_page(p);
}

void give_back(uint32_t first, uint32_t pages, gfp_t gfp) {
    for (uint32_t i = 0; i < pages; i++)
        page_at(first + i).flags = 0; // the next owner has flags of its own there
    {
        slow_path scope;
        pages_give(first, pages, scope.limit(gfp));
    }
    if (gfpflags_allow_blocking(gfp))
        device_pages_settle();
}

uint32_t index_of_address(const void *p, const char *operation) {
    if (class_of_pointer(p) == kClassPages)
        return static_cast<uint32_t>(page_index(p));
    report_not_pages(p, operation);
    return kNoPage;
}

// The first page of a block of this order, or kNoPage after a report.
uint32_t block_index(uint32_t index, unsigned order, const char *operation) {
    if (index == kNoPage)
        return kNoPage;
    page &pg = page_at(index);
    bool head = (pg.flags & kPageHead) != 0;
    if (head && pg.order == order)
        return index;
    report_wrong_block(page_address(index), order, page_address(pg.head),
                       head ? pg.order : page_at(pg.head).order, operation);
    return kNoPage;
}

void free_block(uint32_t index, unsigned order, gfp_t gfp) {
    page &pg = page_at(index);
    if (order == 0 || (pg.flags & kPageCompound) != 0) {
        if (pages_drop(index, 1))
            pages_release(index, gfp);
        return;
    }
    if (pg.refs.load(std::memory_order_relaxed) > 1 && hold_puts_off_pages(index))
        return; // its tails would be free at once
    uint32_t last = 1;
    if (pg.refs.compare_exchange_strong(last, 0, std::memory_order_acq_rel)) {
        pages_release(index, gfp);
        return;
    }
    // Whoever has the other references has the first page only, and may drop them at any time. So
    // the block is made smaller while ours keeps it from being free.
    auto whole = static_cast<uint8_t>(order);
    if (last == 0 || !std::atomic_ref<uint8_t>(pg.order).compare_exchange_strong(whole, 0)) {
        report_double_free(page_address(index));
        return;
    }
    uint32_t tails = (1u << order) - 1;
    count(0, -int64_t{tails});
    if (group *owner = owner_of(index)) {
        owner->references.fetch_add(1, std::memory_order_relaxed);
        group_uncharge(owner, uint64_t{tails} << kPageShift);
    }
    give_back(index + 1, tails, gfp);
    if (pages_drop(index, 1))
        pages_release(index, gfp);
}

// Drops a reference of each of these single pages; those that are free go back in runs.
void free_singles(uint32_t first, uint64_t pages, const char *operation) {
    uint32_t run = 0;
    for (uint64_t i = 0; i < pages; i++) {
        auto at = static_cast<uint32_t>(first + i);
        const void *address = page_address(at);
        bool is_free = block_index(index_of_address(address, operation), 0, operation) != kNoPage &&
                       pages_drop(at, 1) && !hold_puts_off_pages(at);
        if (is_free)
            group_uncharge(owner_of(at), kPageSize);
        run += is_free;
        // By pageblocks: two that lie side by side need not be of the same zone or reserve.
        bool goes_on = is_free && i + 1 < pages && (at + 1) % kPageblockPages != 0;
        if (run == 0 || goes_on)
            continue;
        count(-int64_t{run}, -int64_t{run});
        give_back(is_free ? at + 1 - run : at - run, run, GFP_KERNEL);
        run = 0;
    }
}

} // namespace

uint32_t pages_alloc(unsigned order, gfp_t gfp) {
    return alloc_block(order, current_gfp(gfp), false);
}

void pages_free(const ::page *block, unsigned order, gfp_t gfp) {
    if (order == 0 && is_highmem_page(block)) {
        pages_put_high(record_of(const_cast<::page *>(block)), 1, gfp);
        return;
    }
    uint32_t index = block_index(pages_index(block, "__free_pages"), order, "__free_pages");
    if (index != kNoPage)
        free_block(index, order, gfp);
}

uint32_t pages_index(const ::page *p, const char *operation) {
    uintptr_t offset =
        reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(g_pagemap.memmap);
    uintptr_t index = offset / sizeof(page);
    if (offset % sizeof(page) == 0 && index < g_pagemap.frontier &&
        g_pagemap.page_class[index] == kClassPages)
        return static_cast<uint32_t>(index);
    report_not_pages(reinterpret_cast<const void *>(g_pagemap.base + (index << kPageShift)),
                     operation);
    return kNoPage;
}

uint32_t pages_compound_head(uint32_t index) {
    const page &pg = page_at(index);
    return pg.flags == (kPageTail | kPageCompound) ? pg.head : index;
}

bool pages_drop(uint32_t head, uint32_t references) {
    return drop(page_at(head), references, page_address(head));
}

page *pages_record(const ::page *p, const char *operation) {
    if (is_highmem_page(p))
        return record_of(const_cast<::page *>(p));
    uint32_t index = pages_index(p, operation);
    return index != kNoPage ? &page_at(index) : nullptr;
}

void pages_put_high(page *p, uint32_t references, gfp_t gfp) {
    group *payer = group_of_number(p->payer);
    if (!drop(*p, references, p) || !highmem_free(p, gfp))
        return;
    count(-1, -1);
    group_uncharge(payer, kPageSize);
}

void pages_release(uint32_t head, gfp_t gfp) {
    if (hold_puts_off_pages(head))
        return;
    uint32_t pages = 1u << page_at(head).order;
    count(-1, -int64_t{pages});
    group_uncharge(owner_of(head), uint64_t{pages} << kPageShift);
    give_back(head, pages, gfp);
}

void pages_finish_free(uint32_t head) {
    const page &pg = page_at(head);
    if (pg.refs.load(std::memory_order_acquire) == 0)
        pages_release(head, GFP_KERNEL);
    else
        free_block(head, pg.order, GFP_KERNEL);
}

void pages_count(int64_t blocks, int64_t pages) { count(blocks, pages); }

pages_stats pages_get_stats() {
    return {live_blocks.load(std::memory_order_relaxed), live_pages.load(std::memory_order_relaxed),
            served.load(std::memory_order_relaxed)};
}

} // namespace pagoda

using namespace pagoda;

namespace {

::page *page_or_null(uint32_t index) { return index != kNoPage ? public_page(index) : nullptr; }

} // namespace

PAGODA_EXPORT const pagoda_layout_record *pagoda_layout_fill() {
    pagoda_layout_record &l = pagoda_layout;
    if (kernel_api_enter(GFP_KERNEL) && __atomic_load_n(&l.memmap, __ATOMIC_ACQUIRE) == 0) {
        __atomic_store_n(&l.zone_base, g_pagemap.base, __ATOMIC_RELAXED);
        __atomic_store_n(&l.vmalloc_start, g_space.vmalloc_base, __ATOMIC_RELAXED);
        __atomic_store_n(&l.vmalloc_end, g_space.vmalloc_base + kVmallocSpan, __ATOMIC_RELAXED);
        __atomic_store_n(&l.memmap, reinterpret_cast<uintptr_t>(g_pagemap.memmap),
                         __ATOMIC_RELEASE);
    }
    return &l;
}

PAGODA_EXPORT ::page *pagoda_alloc_pages(gfp_t gfp, unsigned order) {
    bool refused = false;
    ::page *high = alloc_high(order, gfp, &refused);
    return high != nullptr || refused ? high : page_or_null(pages_alloc(order, gfp));
}

PAGODA_EXPORT ::page *pagoda_alloc_pages_node(int node, gfp_t gfp, unsigned order) {
    return node_allowed(gfp, node) ? pagoda_alloc_pages(gfp, order) : nullptr;
}

PAGODA_EXPORT unsigned long pagoda_get_free_pages(gfp_t gfp, unsigned order) {
    static std::atomic<bool> said{false};
    if ((gfp & __GFP_HIGHMEM) != 0) {
        warn_once(said, gfp, "__get_free_pages with __GFP_HIGHMEM: such pages have no address");
        return 0;
    }
    uint32_t first = pages_alloc(order, gfp);
    return first != kNoPage ? reinterpret_cast<unsigned long>(page_address(first)) : 0;
}

PAGODA_EXPORT void pagoda_free_block(::page *block, unsigned order) {
    if (block != nullptr)
        pages_free(block, order, GFP_KERNEL);
}

PAGODA_EXPORT void pagoda_free_pages(unsigned long address, unsigned order) {
    if (address == 0)
        return;
    const void *p = reinterpret_cast<const void *>(address);
    uint32_t index = block_index(index_of_address(p, "free_pages"), order, "free_pages");
    if (index != kNoPage)
        free_block(index, order, GFP_KERNEL);
}

PAGODA_EXPORT void *pagoda_alloc_pages_exact(int node, size_t size, gfp_t gfp) {
    static std::atomic<bool> said{false};
    if ((gfp & (__GFP_COMP | __GFP_HIGHMEM)) != 0) {
        warn_once(said, gfp, "alloc_pages_exact ignores __GFP_COMP and __GFP_HIGHMEM");
        gfp &= ~(__GFP_COMP | __GFP_HIGHMEM);
    }
    auto order = static_cast<unsigned>(get_order(size));
    if (!order_allowed(order, gfp) || !node_allowed(gfp, node))
        return nullptr;
    auto pages = static_cast<uint32_t>((size + kPageSize - 1) >> kPageShift);
    uint32_t first = alloc_singles(pages, order, current_gfp(gfp));
    return first != kNoPage ? page_address(first) : nullptr;
}

PAGODA_EXPORT void pagoda_free_pages_exact(void *address, size_t size) {
    if (address == nullptr)
        return;
    uint32_t first = index_of_address(address, "free_pages_exact");
    if (first != kNoPage)
        free_singles(first, (size + kPageSize - 1) >> kPageShift, "free_pages_exact");
}

PAGODA_EXPORT unsigned long pagoda_alloc_pages_bulk(int node, gfp_t gfp, unsigned long wanted,
                                                    ::page **pages) {
    for (unsigned long i = 0; i < wanted; i++) {
        if (pages[i] == nullptr)
            pages[i] = pagoda_alloc_pages_node(node, gfp & ~__GFP_COMP, 0);
        if (pages[i] == nullptr)
            return i;
    }
    return wanted;
}

PAGODA_EXPORT ::page *pagoda_alloc_pages_nolock(gfp_t gfp, int node, unsigned order) {
    gfp = (gfp & (__GFP_ACCOUNT | __GFP_COMP)) | __GFP_ZERO | __GFP_NOWARN | __GFP_NOMEMALLOC;
    return node_allowed(gfp, node) ? page_or_null(alloc_block(order, gfp, true)) : nullptr;
}

PAGODA_EXPORT void pagoda_free_pages_nolock(::page *block, unsigned order) {
    if (block != nullptr)
        pages_free(block, order, kNoWait);
}

PAGODA_EXPORT ::page *pagoda_alloc_contig_pages(unsigned long pages, gfp_t gfp, int node,
                                                const void *nodes) {
    constexpr unsigned kLargestAlignment = 30 - kPageShift;
    if (pages == 0 || pages > kZoneSpan / 2 / kPageSize || nodes != nullptr ||
        !node_allowed(gfp, node))
        return nullptr;
    unsigned align_order = is_power_of_two(pages) ? order_of(pages) : 0;
    return page_or_null(alloc_singles(static_cast<uint32_t>(pages),
                                      min_of(align_order, kLargestAlignment), current_gfp(gfp)));
}

PAGODA_EXPORT void pagoda_free_contig_range(unsigned long pfn, unsigned long pages) {
    const void *address =
        reinterpret_cast<const void *>(g_pagemap.base + (uintptr_t{pfn} << kPageShift));
    if (pages != 0 && index_of_address(address, "free_contig_range") != kNoPage)
        free_singles(static_cast<uint32_t>(pfn), pages, "free_contig_range");
}

PAGODA_EXPORT void pagoda_split_page(::page *block, unsigned order) {
    uint32_t first = block_index(pages_index(block, "split_page"), order, "split_page");
    if (first == kNoPage)
        return;
    const pagoda::page &pg = page_at(first);
    if ((pg.flags & kPageCompound) != 0 || pg.refs.load(std::memory_order_relaxed) != 1 ||
        pages_are_held(first)) {
        text_buffer<160> t;
        t << "split_page of " << page_address(first)
          << ": it is compound, or somebody else refers to it";
        misuse(t);
        return;
    }
    set_singles(first, 1u << order, owner_of(first));
    count((int64_t{1} << order) - 1, 0);
}
