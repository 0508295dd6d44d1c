// Ranges of numbers, which may overlap, found by any number in them: a treap by first number, in
// which each node knows the highest number below it. Nodes belong to the caller. No lock. An empty
// one is all zeros.
#pragma once

#include <stdint.h>

namespace pagoda::dma {

struct interval {
    uint64_t first, last; // inclusive
    // The tree's.
    uint64_t highest;
    uint32_t priority;
    interval *above, *below[2];
};

class interval_tree {
  public:
    // `first` and `last` are filled in.
    void insert(interval *i);
    void remove(interval *i);
    // Those that have a number in [first, last], by their first: NULL behind the last one.
    interval *find(uint64_t first, uint64_t last) const { return search(root_, first, last); }
    static interval *next(const interval *i, uint64_t first, uint64_t last);
    // Any of them; NULL: there is none.
    interval *any() const { return root_; }

  private:
    static interval *search(interval *below, uint64_t first, uint64_t last);
    void lift(interval *i);
    interval **link_to(const interval *i);

    interval *root_ = nullptr;
    uint32_t made_ = 0;
};

} // namespace pagoda::dma
