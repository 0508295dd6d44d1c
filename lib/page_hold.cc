#include "lib/page_hold.h"

#include "hugepage/sys.h"
#include "lib/misuse.h"
#include "lib/pages.h"
#include "lib/thread.h"

#include <errno.h>

namespace pagoda {
namespace {

// All that is known of a block's holds is one word of its first page's record, so whoever begins or
// ends one takes no lock, in any context.
constexpr uint32_t kBegun = 1; // holds that begin here,
constexpr uint32_t kBegunMask = 32767;
constexpr uint32_t kCover = 1u << 15; // and rows that begin elsewhere and cover this page
constexpr uint32_t kCoverMask = 16383 * kCover;
constexpr uint32_t kRow = 1u << 29;    // a row begins here, which lasts as long as a hold that does
constexpr uint32_t kEnding = 1u << 30; // it has ended; somebody is about to take down its length
constexpr uint32_t kFreed = 1u << 31;  // and waits for all these

// Of builtins: a call of atomic_ref's functions, where the compiler does not expand them, would
// take as long as what they do.
inline uint32_t state(const page &pg) { return __atomic_load_n(&pg.link, __ATOMIC_RELAXED); }
[[gnu::always_inline]] inline bool change(page &pg, uint32_t &seen, uint32_t to) {
    return __atomic_compare_exchange_n(&pg.link, &seen, to, true, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}
// How many pages behind this one the row that begins here covers.
std::atomic_ref<uint32_t> behind(page &pg) { return std::atomic_ref<uint32_t>(pg.npages); }

[[gnu::always_inline]] inline uint32_t block_head(const void *p) {
    auto index = static_cast<uint32_t>(page_index(p));
    const page &pg = page_at(index);
    return (pg.flags & kPageTail) != 0 ? pg.head : index;
}

bool is_single(uint32_t index) {
    return index < g_pagemap.frontier && g_pagemap.page_class[index] == kClassPages &&
           page_at(index).order == 0 && (page_at(index).flags & kPageHead) != 0;
}

// Adds one of what `mask` counts.
[[gnu::always_inline]] inline int raise(page &pg, uint32_t one, uint32_t mask) {
    uint32_t seen = state(pg);
    do {
        if ((seen & kFreed) != 0)
            return -ENOENT;
        if ((seen & mask) == mask)
            return -EOVERFLOW;
    } while (PAGODA_UNLIKELY(!change(pg, seen, seen + one)));
    return 0;
}

// True: it was the last that the free of the block waited for.
bool take_away(page &pg, uint32_t what) {
    uint32_t seen = state(pg);
    uint32_t left = 0;
    do
        left = seen - what == kFreed ? 0 : seen - what;
    while (!change(pg, seen, left));
    return seen - what == kFreed;
}

// Begins a hold, and a row unless there is one.
int raise_with_row(page &pg) {
    uint32_t seen = state(pg);
    for (int spins = 0;;) {
        if ((seen & kFreed) != 0)
            return -ENOENT;
        if ((seen & kBegunMask) == kBegunMask)
            return -EOVERFLOW;
        if ((seen & kEnding) == 0) {
            if (change(pg, seen, (seen + kBegun) | kRow))
                return 0;
            continue;
        }
        if (t_thread.depth != 0)
            return -EAGAIN; // whoever ends it may be who this thread interrupted
        if (++spins > 100)
            sys::nap(1);
        seen = state(pg);
    }
}

int hold_row(uint32_t first, uint32_t pages) {
    for (uint32_t at = first + 1; at < first + pages; at++)
        if (!is_single(at))
            return -ERANGE;
    page &pg = page_at(first);
    int r = raise_with_row(pg);
    if (r != 0)
        return r;
    // Others may make the row longer too: page by page, whoever is first.
    uint32_t have = behind(pg).load();
    while (have + 1 < pages) {
        page &next = page_at(first + 1 + have);
        r = raise(next, kCover, kCoverMask);
        if (r != 0) {
            pages_unhold(page_address(first));
            return r;
        }
        if (behind(pg).compare_exchange_strong(have, have + 1))
            have++;
        else
            take_away(next, kCover); // not the last: it is in the row
    }
    return 0;
}

void uncover(uint32_t from, uint32_t pages) {
    for (uint32_t at = from; at < from + pages; at++)
        if (take_away(page_at(at), kCover))
            pages_finish_free(at);
}

} // namespace

int pages_hold(const void *p, size_t bytes) {
    uint32_t head = block_head(p);
    page &pg = page_at(head);
    auto offset = static_cast<size_t>(static_cast<const char *>(p) -
                                      static_cast<const char *>(page_address(head)));
    if (PAGODA_LIKELY(bytes <= (kPageSize << pg.order) - offset))
        return raise(pg, kBegun, kBegunMask);
    if (!is_single(head) || bytes >= kZoneSpan)
        return -ERANGE;
    return hold_row(head, static_cast<uint32_t>((offset + bytes + kPageSize - 1) >> kPageShift));
}

static PAGODA_NOINLINE bool unhold_slow(uint32_t head) {
    page &pg = page_at(head);
    uint32_t seen = state(pg);
    uint32_t covered = 0;
    bool freed = false;
    {
        slow_path scope; // a handler does not wait for what it interrupted
        uint32_t left = 0;
        do {
            if ((seen & kBegunMask) == 0)
                return false;
            left = seen - kBegun;
            if ((left & (kBegunMask | kRow)) == kRow)
                left ^= kRow | kEnding;
            freed = left == kFreed;
            left = freed ? 0 : left;
        } while (!change(pg, seen, left));
        if ((left & kEnding) != 0 && (seen & kRow) != 0) {
            covered = behind(pg).exchange(0);
            freed = take_away(pg, kEnding);
        }
    }
    uncover(head + 1, covered);
    if (freed)
        pages_finish_free(head);
    return true;
}

bool pages_unhold(const void *p) {
    uint32_t head = block_head(p);
    page &pg = page_at(head);
    uint32_t seen = state(pg);
    bool usual = (seen & kBegunMask) != 0 && (seen & (kRow | kFreed)) == 0;
    return PAGODA_LIKELY(usual && change(pg, seen, seen - kBegun)) || unhold_slow(head);
}

bool pages_are_held(uint32_t head) { return state(page_at(head)) != 0; }

bool hold_puts_off_pages(uint32_t head) {
    page &pg = page_at(head);
    uint32_t seen = __atomic_load_n(&pg.link, __ATOMIC_ACQUIRE);
    do {
        if (PAGODA_LIKELY(seen == 0))
            return false;
        if ((seen & kFreed) != 0) {
            report_double_free(page_address(head), kPageSize << pg.order);
            return true;
        }
    } while (!change(pg, seen, seen | kFreed));
    report_free_held(nullptr, page_address(head), kPageSize << pg.order);
    return true;
}

} // namespace pagoda
