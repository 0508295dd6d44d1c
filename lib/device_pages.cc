#include "lib/device_pages.h"

#include "hugepage/meta.h"
#include "hugepage/report.h"
#include "hugepage/shared_blocks.h"
#include "hugepage/sys.h"
#include "lib/kernel_api.h"
#include "lib/misuse.h"
#include "lib/page_hold.h"
#include "lib/pages.h"
#include "lib/thread.h"

#include <errno.h>
#include <string.h>

namespace pagoda {

std::atomic<bool> g_device_surplus{false};

namespace {

constexpr uint64_t kLowEnd = uint64_t{1} << 24; // addresses below are few
constexpr uint64_t kLowForMs = 1000;            // others get them before growth is tried again
constexpr unsigned kWideMask = 32;              // bits; from here on addresses are plenty
constexpr uint32_t kWideStep = (16 << 20) / kPageblockSize;
// Without an IOMMU a page has the address that it has: so many are tried for a narrow mask.
constexpr int kTries = 8;
constexpr unsigned kLargestAlignOrder = 30 - kPageShift;

struct chunk {
    chunk *next; // the next lower one
    uint64_t address;
    uint32_t first; // page index
    uint32_t pages;
    uint32_t free;
    uint32_t block() const { return first / kPageblockPages; }
    uint32_t blocks() const { return pages / kPageblockPages; }
    uint64_t bytes() const { return uint64_t{pages} << kPageShift; }
    uint64_t last_byte() const { return address + bytes() - 1; }
};

mutex growth{lock_rank::growth};
std::atomic<const thread_state *> grower{nullptr};  // who has that lock
std::atomic<const thread_state *> trimmer{nullptr}; // who gives chunks back
std::atomic<bool> refused{false};                   // and said so
std::atomic<uint64_t> low_until{0};                 // ms: there were no others a moment ago

mutex lock{lock_rank::device};
std::atomic<uint32_t> deferred{0}; // freed without the lock: page index + 1, linked
// All under the lock.
chunk *chunks = nullptr;   // the highest addresses first
uint64_t unused_pages = 0; // in chunks that are wholly free

// The free pages of a chunk are bits in its pageblocks' records, which no buddy uses meanwhile.

uint64_t &free_word(const chunk &c, uint32_t word) {
    constexpr uint32_t kWords = kPageblockPages / 64;
    return g_space.pageblocks.as<pageblock>()[c.block() + word / kWords].pages[word % kWords];
}

// The first page in [at, end) that is free, or is not; `end`: none.
uint32_t next_page(const chunk &c, uint32_t at, uint32_t end, bool is_free) {
    while (at < end) {
        uint64_t word = free_word(c, at / 64);
        word = (is_free ? word : ~word) & ~uint64_t{0} << (at % 64);
        if (word != 0)
            return min_of(end, at / 64 * 64 + static_cast<uint32_t>(__builtin_ctzll(word)));
        at = (at / 64 + 1) * 64;
    }
    return end;
}

void mark(chunk &c, uint32_t at, uint32_t count, bool is_free) {
    for (uint32_t end = at + count; at < end;) {
        uint32_t n = min_of(end - at, 64 - at % 64);
        uint64_t mask = (n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1) << (at % 64);
        uint64_t &word = free_word(c, at / 64);
        PAGODA_INVARIANT((word & mask) == (is_free ? 0 : mask));
        word ^= mask;
        at += n;
    }
    if (c.free == c.pages)
        unused_pages -= c.pages;
    c.free = is_free ? c.free + count : c.free - count;
    if (c.free == c.pages)
        unused_pages += c.pages;
}

// Whether what is aligned here is for the device too.
bool is_aligned_alike(const chunk &c, unsigned align_order) {
    return ((c.address >> kPageShift) - c.first) % (uint64_t{1} << align_order) == 0;
}

// Where in the chunk; its number of pages: nowhere.
uint32_t find_in(const chunk &c, uint32_t count, unsigned align_order, uint64_t mask) {
    if (c.free < count || c.address > mask || !is_aligned_alike(c, align_order))
        return c.pages;
    uint64_t align = uint64_t{1} << align_order;
    uint64_t whole = (mask - c.address) >> kPageShift;
    whole += mask % kPageSize == kPageSize - 1;
    auto below = static_cast<uint32_t>(min_of(uint64_t{c.pages}, whole));
    for (uint64_t at = 0;;) {
        at = next_page(c, static_cast<uint32_t>(at), below, true);
        at = align_up(c.first + at, align) - c.first;
        if (at + count > below)
            return c.pages;
        uint32_t end = static_cast<uint32_t>(at) + count;
        uint32_t used = next_page(c, static_cast<uint32_t>(at), end, false);
        if (used == end)
            return static_cast<uint32_t>(at);
        at = used + 1;
    }
}

// Who can have other memory, or wait for it, does not get what is below kLowEnd.
chunk *find(uint32_t count, unsigned align_order, uint64_t mask, bool may_grow, uint32_t *at) {
    bool spares =
        may_grow && mask >= kLowEnd && sys::now_ms() >= low_until.load(std::memory_order_relaxed);
    for (chunk *c = chunks; c != nullptr && !(spares && c->last_byte() < kLowEnd); c = c->next)
        if ((*at = find_in(*c, count, align_order, mask)) != c->pages)
            return c;
    return nullptr;
}

// Frees. The list is linked through the pages' records, as the zone's is.

void defer(uint32_t first, uint32_t count) {
    page &pg = page_at(first);
    pg.npages = count;
    uint32_t head = deferred.load(std::memory_order_relaxed);
    do
        pg.link = head;
    while (!deferred.compare_exchange_weak(head, first + 1, std::memory_order_seq_cst,
                                           std::memory_order_relaxed));
}

void give_locked(uint32_t first, uint32_t count) {
    chunk *c = chunks;
    while (first - c->first >= c->pages)
        c = c->next;
    mark(*c, first - c->first, count, true);
    if (unused_pages << kPageShift > kDeviceBytesKept)
        g_device_surplus.store(true, std::memory_order_relaxed);
}

void finish_frees_locked() {
    if (PAGODA_LIKELY(deferred.load(std::memory_order_relaxed) == 0))
        return;
    for (uint32_t at = deferred.exchange(0, std::memory_order_acquire); at != 0;) {
        uint32_t next = page_at(at - 1).link;
        give_locked(at - 1, page_at(at - 1).npages);
        at = next;
    }
}

// Whoever could not have the lock meanwhile has left his pages on the list.
void unlock() {
    lock.unlock();
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (PAGODA_UNLIKELY(deferred.load(std::memory_order_relaxed) != 0) && lock.try_lock()) {
        finish_frees_locked();
        lock.unlock();
    }
}

bool is_there(uint32_t count, unsigned align_order, uint64_t mask) {
    slow_path scope;
    lock_guard g(lock);
    finish_frees_locked();
    uint32_t at = 0;
    return find(count, align_order, mask, true, &at) != nullptr;
}

// Chunks.

void set_state(const chunk &c, uint8_t state) {
    for (uint32_t n = c.block(); n < c.block() + c.blocks(); n++)
        g_space.pageblocks.as<pageblock>()[n].device.store(state, std::memory_order_relaxed);
}

// Memory that no device reaches yet; NULL: there is none.
chunk *make(uint32_t blocks) {
    slow_path scope;
    auto *c = static_cast<chunk *>(meta_alloc(sizeof(chunk), GFP_KERNEL));
    uint32_t block = c != nullptr ? shared_blocks_take(blocks) : kNoPage;
    if (block == kNoPage) {
        if (c != nullptr)
            meta_free(c, sizeof(chunk));
        return nullptr;
    }
    zone_normal().note_vmalloc(static_cast<int64_t>(blocks) << kPageblockShift, 0);
    c->first = block * kPageblockPages;
    c->pages = blocks * kPageblockPages;
    return c;
}

void unmake(chunk *c) {
    slow_path scope;
    zone_normal().note_vmalloc(-static_cast<int64_t>(c->bytes()), 0);
    shared_blocks_give(c->block(), c->blocks());
    meta_free(c, sizeof(chunk));
}

// Makes it reachable below 2^bits. 0 or what the library above says.
int provide(const pagoda_dma_provider *by, chunk *c, unsigned bits) {
    void *at = page_address(c->first);
    int r = by->provide(at, c->bytes(), bits, &c->address);
    uint64_t most = bits < 64 ? (uint64_t{1} << bits) - 1 : ~uint64_t{0};
    if (r != 0 ||
        (c->address % kPageSize == 0 && c->address <= most && most - c->address >= c->bytes() - 1))
        return r;
    // It is not where it was asked for.
    return by->withdraw(at, c->bytes()) ? -ERANGE : -EBUSY;
}

void add(chunk *c) {
    slow_path scope;
    lock_guard g(lock);
    mark(*c, 0, c->pages, true);
    set_state(*c, kDeviceBlock);
    chunk **at = &chunks;
    while (*at != nullptr && (*at)->last_byte() > c->last_byte())
        at = &(*at)->next;
    c->next = *at;
    *at = c;
}

// A wholly free chunk, which is nobody's then; NULL: no more than `keep` bytes are.
chunk *detach(uint64_t keep) {
    slow_path scope;
    lock_guard g(lock);
    finish_frees_locked();
    g_device_surplus.store(false, std::memory_order_relaxed);
    if (unused_pages << kPageShift <= keep)
        return nullptr;
    chunk **at = &chunks;
    while ((*at)->free != (*at)->pages)
        at = &(*at)->next;
    chunk *c = *at;
    *at = c->next;
    set_state(*c, 0);
    mark(*c, 0, c->pages, false);
    return c;
}

uint64_t unused_bytes() {
    slow_path scope;
    lock_guard g(lock);
    return unused_pages << kPageShift;
}

// Growth.

// One more chunk of this size. 0, -EAGAIN: it is there, but not below 2^bits, or -errno.
int grow_by(const pagoda_dma_provider *by, uint32_t blocks, unsigned bits, bool may_be_higher) {
    chunk *c = make(blocks);
    if (c == nullptr)
        return -ENOMEM;
    int r = provide(by, c, bits);
    bool higher = r == -ERANGE && may_be_higher && bits < 64;
    if (higher)
        r = provide(by, c, 64);
    if (r == 0)
        add(c);
    else if (r != -EBUSY) // what a device still reaches is nobody's from now on
        unmake(c);
    return !higher || r == -EBUSY ? r : r == 0 ? -EAGAIN : -ERANGE;
}

int grow(const pagoda_dma_provider *by, uint32_t count, unsigned bits) {
    uint32_t need = 1u << order_of((uint64_t{count} + kPageblockPages - 1) / kPageblockPages);
    uint32_t step = bits < kWideMask ? 1 : kWideStep;
    int r = step > need ? grow_by(by, step, bits, false) : -ERANGE;
    if (r == 0 || r == -ENODEV)
        return r;
    int i = 0;
    do
        r = grow_by(by, need, bits, unused_bytes() < kDeviceBytesKept);
    while (r == -EAGAIN && ++i < kTries);
    return r == -EAGAIN ? -ERANGE : r;
}

void warn_refused(const pagoda_dma_provider *by, uint64_t mask, int error) {
    text_buffer<400> t;
    t << "no memory for devices at addresses up to " << reinterpret_cast<const void *>(mask)
      << ": ";
    const char *why = nullptr;
    if (by != nullptr && (error == -ENODEV || error == -ERANGE))
        why = by->reason();
    if (why != nullptr)
        t << why;
    else if (error == -ENODEV)
        t << "no device is attached";
    else
        t << "error " << -error;
    warn(t);
}

// Under the lock of growth.
bool grow_or_say(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp) {
    if (is_there(count, align_order, mask))
        return true; // another thread was faster
    const pagoda_dma_provider *by = dma_provider();
    unsigned bits = mask == ~uint64_t{0} ? 64 : log2_floor(mask + 1);
    int r = by == nullptr ? -ENODEV : grow(by, max_of(count, 1u << align_order), bits);
    if (mask >= kLowEnd)
        low_until.store(r != 0 ? sys::now_ms() + kLowForMs : 0, std::memory_order_relaxed);
    if (r != 0 && is_there(count, align_order, mask))
        return true;
    if (r == 0)
        refused.store(false, std::memory_order_relaxed);
    else if (r != -ENOMEM && (gfp & __GFP_NOWARN) == 0 && !refused.exchange(true))
        warn_refused(by, mask, r);
    return r == 0;
}

} // namespace

uint32_t device_pages_take(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp) {
    bool may_block = gfpflags_allow_blocking(gfp);
    if (may_block)
        lock.lock();
    else if (!lock.try_lock())
        return kNoPage;
    finish_frees_locked();
    uint32_t at = 0;
    chunk *c = find(count, align_order, mask, may_block, &at);
    if (c != nullptr)
        mark(*c, at, count, false);
    uint32_t first = c != nullptr ? c->first + at : kNoPage;
    unlock();
    return first;
}

void device_pages_give(uint32_t first, uint32_t count) {
    memset(g_pagemap.page_class + first, kClassNone, count);
    if (device_state(first) == kParentsBlock)
        return;
    if (lock.try_lock_briefly()) {
        finish_frees_locked();
        give_locked(first, count);
        unlock();
        return;
    }
    defer(first, count);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (lock.try_lock()) { // the holder may have gone before he could see it
        finish_frees_locked();
        unlock();
    }
}

bool device_pages_grow(uint32_t count, unsigned align_order, uint64_t mask, gfp_t gfp) {
    if (!gfpflags_allow_blocking(gfp_now(gfp)) || align_order > kLargestAlignOrder ||
        count > kZoneSpan / 2 / kPageSize || grower.load(std::memory_order_relaxed) == &t_thread)
        return false;
    {
        slow_path scope; // no handler comes between having the lock and saying so
        growth.lock();
        grower.store(&t_thread, std::memory_order_relaxed);
    }
    bool more = grow_or_say(count, align_order, mask, gfp);
    slow_path scope;
    grower.store(nullptr, std::memory_order_relaxed);
    growth.unlock();
    return more;
}

bool device_pages_may_come_free(uint32_t count, unsigned align_order, uint64_t mask) {
    slow_path scope;
    lock_guard g(lock);
    for (const chunk *c = chunks; c != nullptr; c = c->next)
        if (c->pages >= count && c->address <= mask && is_aligned_alike(*c, align_order) &&
            mask - c->address >= (uint64_t{count} << kPageShift) - 1)
            return true;
    return false;
}

void device_pages_trim(uint64_t keep_bytes) {
    constexpr gfp_t kNeeded = __GFP_DIRECT_RECLAIM | __GFP_IO;
    const thread_state *nobody = nullptr;
    // A handler may have interrupted the library above.
    if ((gfp_now(GFP_KERNEL) & kNeeded) != kNeeded ||
        grower.load(std::memory_order_relaxed) == &t_thread ||
        !trimmer.compare_exchange_strong(nobody, &t_thread))
        return;
    while (chunk *c = detach(keep_bytes)) {
        if (dma_provider()->withdraw(page_address(c->first), c->bytes()))
            unmake(c); // otherwise it is nobody's from now on
    }
    trimmer.store(nullptr);
}

device_pages_stats device_pages_get_stats(uint64_t from, uint64_t to) {
    device_pages_stats s = {};
    lock_guard g(lock);
    finish_frees_locked();
    for (const chunk *c = chunks; c != nullptr; c = c->next) {
        if (c->last_byte() < from || c->last_byte() >= to)
            continue;
        s.chunks++;
        s.present += c->pages;
        s.free += c->free;
    }
    return s;
}

// Those that a device uses follow by themselves, one by one, with its last hold.
static void give_unheld(uint32_t first, uint32_t pages) {
    slow_path scope;
    uint32_t run = 0;
    for (uint32_t at = first; at <= first + pages; at++) {
        if (at < first + pages && !hold_puts_off_pages(at)) {
            run++;
        } else if (run != 0) {
            pages_count(-int64_t{run}, -int64_t{run});
            device_pages_give(at - run, run);
            run = 0;
        }
    }
}

mutex &device_growth_lock() { return growth; }
mutex &device_lock() { return lock; }

// The pageblocks stay set aside, and do not count as memory any more.
void device_pages_after_fork_in_child() {
    for (chunk *c = chunks; c != nullptr; c = c->next) {
        set_state(*c, kParentsBlock);
        zone_normal().uncharge(c->bytes());
        zone_normal().note_vmalloc(-static_cast<int64_t>(c->bytes()), 0);
    }
    chunks = nullptr;
    unused_pages = 0;
    deferred.store(0, std::memory_order_relaxed);
    grower.store(nullptr, std::memory_order_relaxed);
    trimmer.store(nullptr, std::memory_order_relaxed);
    g_device_surplus.store(false, std::memory_order_relaxed);
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT void *pagoda_device_pages_alloc(uint32_t pages, unsigned order, uint64_t mask,
                                              unsigned flags) {
    if (pages == 0 || order > kLargestAlignOrder || !kernel_api_enter(flags))
        return nullptr;
    gfp_t gfp = current_gfp(flags);
    mask = device_mask(gfp) != 0 ? min_of(mask, device_mask(gfp)) : mask;
    struct piece {
        uint32_t first = kNoPage;
        explicit operator bool() const { return first != kNoPage; }
    };
    piece got = with_device_pages(pages, order, mask, gfp, [=]() -> piece {
        slow_path scope;
        return {device_pages_take(pages, order, mask, scope.limit(gfp))};
    });
    if (!got)
        return nullptr;
    for (uint32_t i = got.first; i < got.first + pages; i++) {
        pagoda::page &pg = page_at(i);
        pg.owner = nullptr;
        pg.refs.store(0, std::memory_order_relaxed);
        pg.flags = kPageHead; // single pages in a row, which a hold may cover together
        pg.head = i;
        pg.order = 0;
        pages_begin_unheld(pg);
    }
    memset(g_pagemap.page_class + got.first, kClassPages, pages);
    pages_count(pages, pages);
    void *p = page_address(got.first);
    return (gfp & __GFP_ZERO) != 0 ? memset(p, 0, size_t{pages} << kPageShift) : p;
}

PAGODA_EXPORT void pagoda_device_pages_free(void *p, uint32_t pages) {
    if (p == nullptr)
        return;
    for (uint32_t i = 0; i < pages; i++) {
        const char *at = static_cast<const char *>(p) + size_t{i} * kPageSize;
        if (reinterpret_cast<uintptr_t>(at) % kPageSize == 0 &&
            class_of_pointer(at) == kClassPages &&
            device_state(static_cast<uint32_t>(page_index(at))) != 0)
            continue;
        report_not_pages(at, "pagoda_device_pages_free");
        return;
    }
    give_unheld(static_cast<uint32_t>(page_index(p)), pages);
    device_pages_settle();
}
