#include "lib/page_hold.h"

#include "lib/hold.h"
#include "lib/misuse.h"
#include "lib/pages.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <errno.h>

namespace pagoda {
namespace {

// Of a single page that is held: how many pages the holds that begin here cover, and how many that
// begin elsewhere cover it. Under vmalloc's lock, as areas are: it is the one of large objects.
uint32_t &covered(page &pg) { return pg.npages; }
uint32_t &covering(page &pg) { return pg.link; }

uint32_t block_head(const void *p) {
    auto index = static_cast<uint32_t>(page_index(p));
    const page &pg = page_at(index);
    return (pg.flags & kPageTail) != 0 ? pg.head : index;
}

bool is_single(uint32_t index) {
    return index < g_pagemap.frontier && g_pagemap.page_class[index] == kClassPages &&
           page_at(index).order == 0 && (page_at(index).flags & kPageHead) != 0;
}

int raise(page &pg) {
    if (pg.holds.load(std::memory_order_relaxed) == 0)
        covered(pg) = covering(pg) = 0;
    return hold_raise(pg.holds);
}

// Pages [from, to) are covered no more; those that were freed meanwhile go.
void uncover(uint32_t from, uint32_t to) {
    for (uint32_t at = from; at < to; at++) {
        vmalloc_lock().lock();
        covering(page_at(at))--;
        bool freed = is_last(hold_lower(page_at(at).holds));
        vmalloc_lock().unlock();
        if (freed)
            pages_finish_free(at);
    }
}

int hold_singles(uint32_t first, uint32_t pages) {
    slow_path scope;
    uint32_t done = 1;
    int r = 0;
    uint32_t from = 0;
    {
        lock_guard l(vmalloc_lock());
        page &pg = page_at(first);
        r = raise(pg);
        if (r != 0)
            return r;
        from = max_of(covered(pg), 1u);
        for (done = from; done < pages && r == 0; done += r == 0) {
            r = is_single(first + done) ? raise(page_at(first + done)) : -ERANGE;
            if (r == 0)
                covering(page_at(first + done))++;
        }
        if (r == 0) {
            covered(pg) = max_of(from, pages);
            return 0;
        }
    }
    uncover(first + from, first + done);
    pages_unhold(page_address(first));
    return r;
}

bool unhold_single(uint32_t first) {
    slow_path scope;
    page &pg = page_at(first);
    uint32_t covers = 1;
    vmalloc_lock().lock();
    uint32_t begun = (pg.holds.load(std::memory_order_relaxed) & kHoldMask) - covering(pg);
    if (begun == 1) {
        covers = max_of(covered(pg), 1u);
        covered(pg) = 0;
    }
    hold_end end = begun != 0 ? hold_lower(pg.holds) : hold_end::none;
    vmalloc_lock().unlock();
    uncover(first + 1, first + covers);
    if (is_last(end))
        pages_finish_free(first);
    return end != hold_end::none;
}

} // namespace

int pages_hold(const void *p, size_t bytes) {
    uint32_t head = block_head(p);
    page &pg = page_at(head);
    auto offset = static_cast<size_t>(static_cast<const char *>(p) -
                                      static_cast<const char *>(page_address(head)));
    if (is_single(head) && bytes < kZoneSpan)
        return hold_singles(head,
                            static_cast<uint32_t>(
                                (offset + max_of(bytes, size_t{1}) + kPageSize - 1) >> kPageShift));
    if (bytes > (kPageSize << pg.order) - offset)
        return -ERANGE;
    return hold_raise(pg.holds);
}

bool pages_unhold(const void *p) {
    uint32_t head = block_head(p);
    if (is_single(head))
        return unhold_single(head);
    hold_end end = hold_lower(page_at(head).holds);
    if (is_last(end))
        pages_finish_free(head);
    return end != hold_end::none;
}

bool hold_puts_off_pages(uint32_t head) {
    page &pg = page_at(head);
    switch (hold_note_free(pg.holds)) {
    case held_free::put_off:
        report_free_held(nullptr, page_address(head), kPageSize << pg.order);
        return true;
    case held_free::again:
        report_double_free(page_address(head), kPageSize << pg.order);
        return true;
    case held_free::now:
        break;
    }
    return false;
}

} // namespace pagoda
