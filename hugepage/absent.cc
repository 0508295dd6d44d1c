#include "hugepage/absent.h"

namespace pagoda {

namespace {

// A sixty-fourth of the kernel's usual vm.max_map_count: the mappings are the program's.
constexpr int kMaxHoles = 1024;

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

} // namespace pagoda
