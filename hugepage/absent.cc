#include "hugepage/absent.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <errno.h>

namespace pagoda {

namespace {

// A sixty-fourth of the kernel's usual vm.max_map_count: the mappings are the program's.
constexpr int kMaxHoles = 1024;

uintptr_t address_of_block(uint64_t block) {
    return g_space.zone_base + (block << kPageblockShift);
}

uint8_t &flags_of(uint64_t block) { return g_space.pageblocks.as<pageblock>()[block].flags; }

bool is_absent(uint64_t block) {
    return (block + 1) * sizeof(pageblock) <= g_space.pageblocks.bytes() &&
           (flags_of(block) & kBlockAbsent) != 0;
}

// How many runs there are less when a block is present again: 1 where its neighbours are, -1 where
// it parts a run in two.
int holes_filled(uint32_t block) {
    return 1 - (block > 0 && is_absent(block - 1)) - is_absent(uint64_t{block} + 1);
}

} // namespace

bool absent_blocks::has(uint32_t block) const { return is_absent(block); }

bool absent_blocks::room_for(uint32_t block) const {
    return holes_ + holes_filled(block) <= kMaxHoles;
}

void absent_blocks::add(uint32_t block) {
    PAGODA_INVARIANT(!is_absent(block));
    holes_ += holes_filled(block);
    flags_of(block) |= kBlockAbsent;
    count_++;
    from_ = min_of(from_, block);
}

void absent_blocks::remove(uint32_t block) {
    PAGODA_INVARIANT(is_absent(block));
    flags_of(block) &= static_cast<uint8_t>(~kBlockAbsent);
    holes_ -= holes_filled(block);
    count_--;
}

uint32_t absent_blocks::find(uint32_t count, uint32_t end) {
    if (count_ < count)
        return kNoPage;
    while (from_ < end && !is_absent(from_))
        from_++;
    uint32_t row = 0;
    for (uint32_t at = from_; at < end; at++) {
        row = is_absent(at) ? row + 1 : 0;
        if (row == count)
            return at + 1 - count;
    }
    return kNoPage;
}

// The zone's part.

bool zone::is_last(uint32_t number) const {
    return (uint64_t{number} + 1) * kPageblockPages == end_ &&
           (buddy_.block(number).flags & kBlockOrdinary) != 0;
}

// Before an isolated pageblock is unmapped. False: it must not be.
bool zone::begin_leaving(uint32_t number) {
    pageblock &b = buddy_.block(number);
    for (uint64_t w : b.isolated)
        if (w != ~uint64_t{0})
            return false;
    // The first one stays: where no more mappings are to be had (vm.max_map_count), the others
    // grow out of it again.
    if (number == 0 || !absent_.room_for(number))
        return false;
    b.flags |= kBlockLeaving;
    if (is_last(number)) // nobody extends what is leaving
        tail_extensible_ = false;
    return true;
}

bool zone::unmap_block(uint32_t number) {
    return sys::unmap(address_of_block(number), kPageblockSize) == 0;
}

void zone::note_absent(uint32_t number) {
    buddy_.block(number).flags &= static_cast<uint8_t>(~(kBlockLeaving | kBlockOrdinary));
    buddy_.forget_isolated(number);
    absent_.add(number);
    present_ -= kPageblockPages;
    step_back();
}

// A zone that ends in absent pageblocks ends before them: what is mapped last can grow then.
void zone::step_back() {
    if (end_ % kPageblockPages != 0)
        return;
    auto last = static_cast<uint32_t>(end_ / kPageblockPages - 1);
    if (!absent_.has(last))
        return;
    for (; absent_.has(last); last--) // the first pageblock never is
        absent_.remove(last);
    end_ = uint64_t{last + 1} * kPageblockPages;
    tail_extensible_ = (buddy_.block(last).flags & kBlockOrdinary) != 0;
}

bool zone::map_absent_at(uint32_t first, uint32_t blocks, int *error) {
    size_t bytes = size_t{blocks} << kPageblockShift;
    uintptr_t at = address_of_block(first);
    // The mapping below grows where there is one: that needs no further one.
    bool below = first > 0 && (buddy_.block(first - 1).flags & kBlockOrdinary) != 0;
    *error = below ? sys::extend(at, bytes) : -EFAULT;
    if (*error != 0) {
        *error = sys::map_at(at, bytes);
        if (*error != 0)
            return false;
        sys::hint_huge(at, bytes, options().thp == thp_policy::always);
    }
    uint32_t pages = blocks * kPageblockPages;
    for (uint32_t i = 0; i < blocks; i++) {
        absent_.remove(first + i);
        buddy_.block(first + i).flags |= kBlockOrdinary;
    }
    tail_extensible_ = tail_extensible_ || uint64_t{first + blocks} * kPageblockPages == end_;
    buddy_.release(first * kPageblockPages, pages, false);
    present_ += pages;
    note_peak();
    return true;
}

// Maps as many absent pageblocks in a row again. A block where somebody else has mapped something
// meanwhile is lost.
bool zone::map_absent(uint32_t blocks) {
    uint32_t end = static_cast<uint32_t>(end_ / kPageblockPages);
    for (uint32_t first; (first = absent_.find(blocks, end)) != kNoPage;) {
        int error = 0;
        if (map_absent_at(first, blocks, &error))
            return true;
        if (error != -EEXIST)
            return false;
        for (uint32_t i = 0; i < blocks; i++)
            if (blocks == 1 || (!map_absent_at(first + i, 1, &error) && error == -EEXIST))
                absent_.remove(first + i);
    }
    return false;
}

} // namespace pagoda
