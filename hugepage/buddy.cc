#include "hugepage/buddy.h"

namespace pagoda {
namespace {

// Calls fn(word, mask) for the bits [first, first + count) of a bitmap.
template <class F> void for_words(uint32_t first, uint32_t count, F fn) {
    while (count > 0) {
        uint32_t bit = first % 64;
        uint32_t n = min_of(count, 64 - bit);
        uint64_t mask = (n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1) << bit;
        fn(first / 64, mask);
        first += n;
        count -= n;
    }
}

bool test(const uint64_t *map, uint32_t bit) { return (map[bit / 64] >> (bit % 64) & 1) != 0; }

// First set bit in [from, to), or `to`.
uint32_t find(const uint64_t *map, uint32_t from, uint32_t to, bool value) {
    while (from < to) {
        uint64_t w = value ? map[from / 64] : ~map[from / 64];
        w &= ~uint64_t{0} << (from % 64);
        if (w != 0)
            return min_of(to, from / 64 * 64 + static_cast<uint32_t>(__builtin_ctzll(w)));
        from = (from / 64 + 1) * 64;
    }
    return to;
}

// First of the set bits that end just below `end`; `end` itself when there are none.
uint32_t run_start(const uint64_t *map, uint32_t end) {
    while (end > 0) {
        uint32_t word = (end - 1) / 64;
        uint64_t gaps = ~map[word];
        if (end % 64 != 0)
            gaps &= (uint64_t{1} << (end % 64)) - 1;
        if (gaps != 0)
            return word * 64 + 64 - static_cast<uint32_t>(__builtin_clzll(gaps));
        end = word * 64;
    }
    return 0;
}

// Length of the run that the set bits [first, first + count) lie in.
uint32_t run_around(const uint64_t *map, uint32_t first, uint32_t count) {
    return find(map, first + count, kPageblockPages, false) - run_start(map, first);
}

// Runs of up to 15 pages have a bucket each, longer ones eight per doubling.
unsigned run_bucket(uint32_t length) {
    if (length < 16)
        return length;
    unsigned order = log2_floor(length);
    return 16 + (order - 4) * 8 + (length >> (order - 3) & 7);
}

// The shortest bucket whose runs all have `count` pages.
unsigned run_bucket_at_least(uint32_t count) { return count == 1 ? 1 : run_bucket(count - 1) + 1; }

// Calls fn(first, length) for each run of set bits, until it returns false.
template <class F> void for_runs(const uint64_t *map, F fn) {
    for (uint32_t at = 0;;) {
        uint32_t first = find(map, at, kPageblockPages, true);
        if (first == kPageblockPages)
            return;
        at = find(map, first, kPageblockPages, false);
        if (!fn(first, at - first))
            return;
    }
}

// The first of `count` set bits in a row at a multiple of `align`; kPageblockPages: none.
uint32_t find_aligned(const uint64_t *map, uint32_t count, uint32_t align) {
    uint32_t found = kPageblockPages;
    for_runs(map, [&](uint32_t first, uint32_t length) {
        uint32_t from = static_cast<uint32_t>(align_up(first, align));
        if (from + count <= first + length)
            found = from;
        return found == kPageblockPages;
    });
    return found;
}

uint32_t longest_run(const uint64_t *map) {
    uint32_t longest = 0;
    for_runs(map, [&](uint32_t, uint32_t length) {
        longest = max_of(longest, length);
        return true;
    });
    return longest;
}

// The free block that holds page `at`, as its node and order; false: the page is in use.
bool free_block_at(const pageblock &b, uint32_t at, uint32_t *node, unsigned *order) {
    *node = kPageblockPages + at;
    for (*order = 0; *node > 0; *node /= 2, ++*order)
        if (test(b.free, *node))
            return true;
    return false;
}

} // namespace

bool buddy::belongs(const pageblock &b, unsigned list) {
    switch (list) {
    case kDirtyList:
        return b.ndirty != 0 && b.pins == 0 && (b.flags & kBlockHugetlb) == 0;
    case kDirtyRuns:
        return b.ndirty != 0;
    case kFreeRuns:
        return b.nfree != 0;
    case kHeldList:
        return b.pins != 0 && b.blocks[kPageblockOrder] != 0 && (b.flags & kBlockHugetlb) == 0;
    default:
        return b.blocks[list] != 0;
    }
}

unsigned buddy::bucket_for(const pageblock &b, unsigned list) {
    if (list == kDirtyList) // most dirty pages first, whole free blocks before all
        return b.blocks[9] != 0 ? 0 : 8 - min_of(7u, b.ndirty / 64u);
    if (list == kDirtyRuns)
        return run_bucket(b.longest_dirty);
    if (list == kFreeRuns)
        return run_bucket(b.longest);
    if (list == kHeldList)
        return (b.flags & kBlockRefused) != 0;
    if (list == 9) // whole blocks: those that hold memory first
        return b.ndirty != 0 ? 0 : 1;
    return min_of(7u, b.nfree / 64u); // the fullest pageblock first
}

void buddy::link(uint32_t number, unsigned list, unsigned bucket) {
    pageblock &b = block(number);
    uint32_t head = heads_[list][bucket];
    b.next[list] = head;
    b.prev[list] = 0;
    if (head != 0)
        block(head - 1).prev[list] = number + 1;
    else
        tails_[list][bucket] = number + 1;
    heads_[list][bucket] = number + 1;
    filled_[list] |= uint64_t{1} << bucket;
    b.bucket[list] = static_cast<uint8_t>(bucket + 1);
    if (list == kHeldList)
        held_[bucket]++;
}

void buddy::unlink(uint32_t number, unsigned list) {
    pageblock &b = block(number);
    unsigned bucket = b.bucket[list] - 1u;
    uint32_t next = b.next[list];
    uint32_t prev = b.prev[list];
    if (prev != 0)
        block(prev - 1).next[list] = next;
    else
        heads_[list][bucket] = next;
    if (next != 0)
        block(next - 1).prev[list] = prev;
    else
        tails_[list][bucket] = prev;
    if (heads_[list][bucket] == 0)
        filled_[list] &= ~(uint64_t{1} << bucket);
    if (list == kHeldList)
        held_[bucket]--;
    b.bucket[list] = 0;
}

// Brings the lists in line with a pageblock's counts; once per operation.
void buddy::relist(uint32_t number) {
    pageblock &b = block(number);
    for (unsigned list = 0; list < kLists; list++) {
        unsigned bucket = belongs(b, list) ? bucket_for(b, list) + 1 : 0;
        if (bucket == b.bucket[list])
            continue;
        if (b.bucket[list] != 0)
            unlink(number, list);
        if (bucket != 0)
            link(number, list, bucket - 1);
    }
}

void buddy::mark(pageblock &b, unsigned order, uint32_t node, bool is_free) {
    PAGODA_INVARIANT(test(b.free, node) != is_free);
    b.free[node / 64] ^= uint64_t{1} << (node % 64);
    b.blocks[order] = static_cast<uint16_t>(b.blocks[order] + (is_free ? 1 : -1));
    total_blocks_[order] += is_free ? 1 : ~uint64_t{0};
}

// Frees one aligned block and merges it with its buddies as far as they are free.
void buddy::insert(pageblock &b, unsigned order, uint32_t node) {
    while (order < 9 && test(b.free, node ^ 1)) {
        mark(b, order, node ^ 1, false);
        node /= 2;
        order++;
    }
    mark(b, order, node, true);
}

// Pages [offset, offset + count) of a pageblock into the free maps, in the largest aligned blocks.
void buddy::insert_range(pageblock &b, uint32_t offset, uint32_t count) {
    while (count > 0) {
        unsigned order = min_of(log2_floor(count),
                                offset == 0 ? 9u : static_cast<unsigned>(__builtin_ctz(offset)));
        insert(b, order, (kPageblockPages >> order) + (offset >> order));
        offset += 1u << order;
        count -= 1u << order;
    }
}

// Takes free pages out of the free maps; the rests of the blocks they lay in stay free.
void buddy::carve(pageblock &b, uint32_t offset, uint32_t count) {
    uint32_t end = offset + count;
    for (uint32_t at = offset; at < end;) {
        uint32_t node = 0;
        unsigned order = 0;
        bool found = free_block_at(b, at, &node, &order);
        PAGODA_INVARIANT(found);
        (void)found;
        uint32_t first = (node << order) - kPageblockPages;
        uint32_t last = first + (1u << order);
        mark(b, order, node, false);
        if (first < offset)
            insert_range(b, first, offset - first);
        if (last > end)
            insert_range(b, end, last - end);
        at = last;
    }
}

uint32_t buddy::take_run(unsigned list, unsigned last_bucket, uint32_t count, uint32_t *dirty) {
    uint64_t wanted = filled_[list] & ~uint64_t{0} << run_bucket_at_least(count);
    if (wanted == 0)
        return kNoPage;
    unsigned bucket = static_cast<unsigned>(__builtin_ctzll(wanted));
    if (bucket > last_bucket)
        return kNoPage;
    uint32_t number = heads_[list][bucket] - 1;
    pageblock &b = block(number);
    uint32_t offset = 0;
    uint32_t best = kPageblockPages + 1;
    for_runs(list == kDirtyRuns ? b.dirty : b.pages, [&](uint32_t first, uint32_t length) {
        if (length >= count && length < best) {
            offset = first;
            best = length;
        }
        return best != count;
    });
    PAGODA_INVARIANT(best <= kPageblockPages);
    carve(b, offset, count);
    *dirty = take_pages(b, offset, count);
    relist(number);
    return number * kPageblockPages + offset;
}

uint32_t buddy::take_exact(uint32_t count, uint32_t *dirty) {
    uint32_t first = take_run(kDirtyRuns, kWholeRun, count, dirty);
    return first != kNoPage ? first : take_run(kFreeRuns, kWholeRun - 1, count, dirty);
}

uint32_t buddy::take_backed(uint32_t count, unsigned align_order) {
    constexpr int kMostBlocks = 16;
    uint32_t align = 1u << align_order;
    // Of runs so long any has the place; the shorter ones have to be looked at.
    uint32_t sure = min_of(count + align - 1, kPageblockPages);
    uint64_t first_sure = filled_[kDirtyRuns] & ~uint64_t{0} << run_bucket_at_least(sure);
    uint64_t others = filled_[kDirtyRuns] & ~uint64_t{0} << run_bucket(count);
    int left = kMostBlocks;
    for (uint64_t wanted : {first_sure, others}) {
        for (; wanted != 0; wanted &= wanted - 1) {
            unsigned bucket = static_cast<unsigned>(__builtin_ctzll(wanted));
            for (uint32_t at = heads_[kDirtyRuns][bucket]; at != 0;
                 at = block(at - 1).next[kDirtyRuns]) {
                if (left-- == 0)
                    return kNoPage;
                uint32_t offset = find_aligned(block(at - 1).dirty, count, align);
                if (offset == kPageblockPages)
                    continue;
                carve(block(at - 1), offset, count);
                take_pages(block(at - 1), offset, count);
                relist(at - 1);
                return (at - 1) * kPageblockPages + offset;
            }
        }
    }
    return kNoPage;
}

void buddy::release(uint32_t first, uint32_t count, bool may_be_dirty) {
    while (count > 0) {
        uint32_t number = first / kPageblockPages;
        uint32_t offset = first % kPageblockPages;
        uint32_t n = min_of(count, kPageblockPages - offset);
        pageblock &b = block(number);
        bool dirty = may_be_dirty || b.pins != 0;
        if (dirty) {
            held_dirty_ += b.pins != 0 ? n : 0;
            for_words(offset, n, [&](uint32_t w, uint64_t mask) { b.dirty[w] |= mask; });
            b.ndirty = static_cast<uint16_t>(b.ndirty + n);
            dirty_pages_ += n;
        }
        b.nfree = static_cast<uint16_t>(b.nfree + n);
        free_pages_ += n;
        for_words(offset, n, [&](uint32_t w, uint64_t mask) { b.pages[w] |= mask; });
        b.longest =
            static_cast<uint16_t>(max_of<uint32_t>(b.longest, run_around(b.pages, offset, n)));
        if (dirty)
            b.longest_dirty = static_cast<uint16_t>(
                max_of<uint32_t>(b.longest_dirty, run_around(b.dirty, offset, n)));
        insert_range(b, offset, n);
        PAGODA_INVARIANT(b.nfree <= kPageblockPages && b.ndirty <= b.nfree);
        relist(number);
        first += n;
        count -= n;
    }
}

// Accounts for pages that leave the free lists; their bits in `free` are already gone. Returns how
// many hold memory.
uint32_t buddy::take_pages(pageblock &b, uint32_t offset, uint32_t count) {
    uint32_t dirty = 0;
    uint32_t around = run_around(b.pages, offset, count);
    for_words(offset, count, [&](uint32_t w, uint64_t mask) {
        b.pages[w] &= ~mask;
        dirty += count_bits(b.dirty[w] & mask);
        b.dirty[w] &= ~mask;
    });
    b.nfree = static_cast<uint16_t>(b.nfree - count);
    b.ndirty = static_cast<uint16_t>(b.ndirty - dirty);
    free_pages_ -= count;
    dirty_pages_ -= dirty;
    held_dirty_ -= b.pins != 0 ? dirty : 0;
    b.flags &= static_cast<uint8_t>(~kBlockRefused);
    // Runs elsewhere stay as they are, and no run of dirty pages is longer than the free one
    // around.
    if (around >= b.longest)
        b.longest = static_cast<uint16_t>(longest_run(b.pages));
    if (dirty != 0 && around >= b.longest_dirty)
        b.longest_dirty = static_cast<uint16_t>(longest_run(b.dirty));
    return dirty;
}

uint32_t buddy::take(unsigned order, uint32_t *dirty) {
    for (unsigned o = order; o <= kPageblockOrder; o++) {
        if (total_blocks_[o] == 0)
            continue;
        unsigned bucket = static_cast<unsigned>(__builtin_ctzll(filled_[o]));
        uint32_t number = heads_[o][bucket] - 1;
        pageblock &b = block(number);
        uint32_t level = kPageblockPages >> o;
        uint32_t node = find(b.free, level, 2 * level, true);
        mark(b, o, node, false);
        for (; o > order; o--) { // split: keep the lower half
            node *= 2;
            mark(b, o - 1, node + 1, true);
        }
        uint32_t offset = (node - (kPageblockPages >> order)) << order;
        *dirty = take_pages(b, offset, 1u << order);
        relist(number);
        return number * kPageblockPages + offset;
    }
    return kNoPage;
}

// A neighbour in the reserve is whole and free as well, but in the reserve's own lists. It may be
// on its way there or back, without this buddy's lock: it shows that before or after it is free.
static bool is_whole(const pageblock &b) {
    return !b.reserved.load(std::memory_order_acquire) && b.blocks[9] != 0 &&
           !b.reserved.load(std::memory_order_acquire);
}

uint32_t buddy::take_blocks(uint32_t count, uint32_t align, uint32_t *dirty) {
    for (unsigned bucket = 0; bucket < 2; bucket++) {
        for (uint32_t at = heads_[9][bucket]; at != 0; at = block(at - 1).next[9]) {
            uint32_t first = at - 1;
            if (first % align != 0)
                continue;
            uint32_t n = 1;
            while (n < count &&
                   (size_t{first} + n + 1) * sizeof(pageblock) <= g_space.pageblocks.bytes() &&
                   is_whole(block(first + n)))
                n++;
            if (n < count)
                continue;
            *dirty = 0;
            for (uint32_t i = 0; i < count; i++) {
                mark(block(first + i), 9, 1, false);
                *dirty += take_pages(block(first + i), 0, kPageblockPages);
                relist(first + i);
            }
            return first * kPageblockPages;
        }
    }
    return kNoPage;
}

bool buddy::would_break_clean(unsigned order) const {
    for (unsigned o = order; o < kPageblockOrder; o++)
        if (total_blocks_[o] != 0)
            return false;
    return heads_[9][0] == 0 && heads_[9][1] != 0;
}

void buddy::note_isolated(pageblock &b, int32_t clean) {
    b.isolated_clean = static_cast<uint16_t>(b.isolated_clean + clean);
    isolated_clean_ += static_cast<uint64_t>(int64_t{clean});
}

bool buddy::isolate_dirty(uint32_t *out) {
    if (filled_[kDirtyList] != 0) {
        unsigned bucket = static_cast<unsigned>(__builtin_ctzll(filled_[kDirtyList]));
        uint32_t number = tails_[kDirtyList][bucket] - 1; // waited longest
        pageblock &b = block(number);
        for (uint32_t at = 0; at < kPageblockPages;) {
            at = find(b.dirty, at, kPageblockPages, true);
            if (at == kPageblockPages)
                break;
            // The free block that holds this page leaves as a whole; its clean pages with it.
            uint32_t node = 0;
            unsigned order = 0;
            bool found = free_block_at(b, at, &node, &order);
            PAGODA_INVARIANT(found);
            (void)found;
            mark(b, order, node, false);
            uint32_t offset = (node << order) - kPageblockPages;
            uint32_t dirty = take_pages(b, offset, 1u << order);
            note_isolated(b, (1u << order) - dirty);
            for_words(offset, 1u << order,
                      [&](uint32_t w, uint64_t mask) { b.isolated[w] |= mask; });
            at = offset + (1u << order);
        }
        link_isolated(number);
        *out = number;
        return true;
    }
    return false;
}

void buddy::pin(uint32_t number, bool held) {
    pageblock &b = block(number);
    if ((b.pins != 0) == held)
        return;
    b.pins = held;
    held_dirty_ += held ? uint64_t{b.ndirty} : -uint64_t{b.ndirty};
    b.flags &= static_cast<uint8_t>(~kBlockRefused);
    relist(number);
}

void buddy::take_clean(uint32_t number, uint64_t (&pages)[8]) {
    pageblock &b = block(number);
    for (size_t w = 0; w < 8; w++)
        pages[w] = b.pages[w] & ~b.dirty[w];
    for_runs(pages, [&](uint32_t first, uint32_t count) {
        carve(b, first, count);
        take_pages(b, first, count);
        return true;
    });
    relist(number);
}

bool buddy::isolate_held(bool again, uint32_t *out) {
    uint32_t at = tails_[kHeldList][0];
    if (at == 0 && again)
        at = tails_[kHeldList][1];
    if (at == 0)
        return false;
    *out = at - 1;
    pageblock &b = block(*out);
    mark(b, kPageblockOrder, 1, false);
    take_pages(b, 0, kPageblockPages);
    __builtin_memset(b.isolated, 0xff, sizeof b.isolated);
    link_isolated(*out);
    return true;
}

bool buddy::isolate_clean(uint32_t *out) {
    for (uint32_t at = heads_[kPageblockOrder][1]; at != 0;
         at = block(at - 1).next[kPageblockOrder]) {
        pageblock &b = block(at - 1);
        if (b.pins != 0 || (b.flags & kBlockHugetlb) != 0)
            continue;
        *out = at - 1;
        mark(b, kPageblockOrder, 1, false);
        take_pages(b, 0, kPageblockPages);
        note_isolated(b, kPageblockPages);
        __builtin_memset(b.isolated, 0xff, sizeof b.isolated);
        link_isolated(*out);
        return true;
    }
    return false;
}

void buddy::link_isolated(uint32_t number) {
    block(number).isolated_next = isolated_head_;
    isolated_head_ = number + 1;
    relist(number);
}

void buddy::unlink_isolated(uint32_t number) {
    for (uint32_t *at = &isolated_head_; *at != 0; at = &block(*at - 1).isolated_next) {
        if (*at == number + 1) {
            *at = block(number).isolated_next;
            break;
        }
    }
}

void buddy::forget_isolated(uint32_t number) {
    unlink_isolated(number);
    note_isolated(block(number), -int32_t{block(number).isolated_clean});
    __builtin_memset(block(number).isolated, 0, sizeof block(number).isolated);
}

void buddy::unisolate(uint32_t number, bool dirty) {
    pageblock &b = block(number);
    unlink_isolated(number);
    note_isolated(b, -int32_t{b.isolated_clean});
    uint64_t pages[8];
    __builtin_memcpy(pages, b.isolated, sizeof pages);
    __builtin_memset(b.isolated, 0, sizeof b.isolated);
    for (uint32_t at = 0; at < kPageblockPages;) {
        uint32_t first = find(pages, at, kPageblockPages, true);
        at = find(pages, first, kPageblockPages, false);
        if (first < at)
            release(number * kPageblockPages + first, at - first, dirty);
    }
}

bool buddy::consistent(uint32_t blocks, bool reserved) const {
    uint64_t free = 0;
    uint64_t dirty = 0;
    uint64_t held = 0;
    for (uint32_t n = 0; n < blocks; n++) {
        const pageblock &b = block(n);
        if (b.reserved.load(std::memory_order_relaxed) != reserved ||
            b.device.load(std::memory_order_relaxed) != 0)
            continue;
        uint32_t pages = 0;
        for (unsigned o = 0; o <= kPageblockOrder; o++) {
            uint32_t level = kPageblockPages >> o;
            uint32_t count = 0;
            for (uint32_t node = level; node < 2 * level; node++) {
                if (!test(b.free, node))
                    continue;
                count++;
                if (o < kPageblockOrder && test(b.free, node ^ 1))
                    return false; // unmerged buddies
                for (uint32_t up = node / 2; up > 0; up /= 2)
                    if (test(b.free, up))
                        return false; // free twice
            }
            if (count != b.blocks[o])
                return false;
            pages += count << o;
        }
        uint32_t listed = 0;
        for (uint64_t w : b.pages)
            listed += count_bits(w);
        if (listed != pages)
            return false;
        uint32_t marked = 0;
        for (uint64_t w : b.dirty)
            marked += count_bits(w);
        if (pages != b.nfree || marked != b.ndirty || marked > pages)
            return false;
        if (b.longest != longest_run(b.pages) || b.longest_dirty != longest_run(b.dirty))
            return false;
        for (unsigned list = 0; list < kLists; list++)
            if (b.bucket[list] != (belongs(b, list) ? bucket_for(b, list) + 1 : 0))
                return false;
        if (b.pins != 0 && marked != pages)
            return false; // what is held holds memory
        free += pages;
        dirty += marked;
        held += b.pins != 0 ? marked : 0;
    }
    return free == free_pages_ && dirty == dirty_pages_ && held == held_dirty_;
}

} // namespace pagoda
