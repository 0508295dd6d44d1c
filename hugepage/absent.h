// Pageblocks whose addresses were given back to the kernel: where a limit on address space bites,
// wholly free pageblocks are unmapped, and mapped again before the zone grows at its end. They are
// neither free nor dirty; a flag in their record is all there is of them. The caller holds the
// zone's lock.
#pragma once

#include "hugepage/buddy.h"

namespace pagoda {

class absent_blocks {
  public:
    // False: every further hole would cost a mapping, and there are enough.
    bool room_for(uint32_t block) const;
    bool has(uint32_t block) const;
    void add(uint32_t block);
    void remove(uint32_t block);
    // The first of `count` in a row, at the lowest address below `end` (a pageblock number);
    // kNoPage when there is none.
    uint32_t find(uint32_t count, uint32_t end);
    uint32_t count() const { return count_; }

  private:
    uint32_t from_ = 0; // no absent block lies below
    uint32_t count_ = 0;
    int holes_ = 0; // runs of absent blocks
};

} // namespace pagoda
