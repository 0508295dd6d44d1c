#include "dma/interval_tree.h"

#include "hugepage/base.h"

namespace pagoda::dma {

namespace {

void refresh(interval *i) {
    i->highest = i->last;
    for (const interval *below : i->below)
        if (below != nullptr)
            i->highest = max_of(i->highest, below->highest);
}

// The finaliser of MurmurHash3: neighbours look random.
uint32_t shuffled(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6b;
    x = (x ^ x >> 13) * 0xc2b2ae35;
    return x ^ x >> 16;
}

} // namespace

interval **interval_tree::link_to(const interval *i) {
    return i->above == nullptr ? &root_ : &i->above->below[i->above->below[1] == i];
}

// Changes places with the node above it.
void interval_tree::lift(interval *i) {
    interval *above = i->above;
    interval **link = link_to(above);
    bool right = above->below[1] == i;
    interval *moves = i->below[!right];
    above->below[right] = moves;
    if (moves != nullptr)
        moves->above = above;
    i->below[!right] = above;
    i->above = above->above;
    above->above = i;
    *link = i;
    refresh(above);
    refresh(i);
}

void interval_tree::insert(interval *i) {
    interval *above = nullptr;
    interval **link = &root_;
    while (*link != nullptr) {
        above = *link;
        above->highest = max_of(above->highest, i->last);
        link = &above->below[i->first >= above->first];
    }
    i->priority = shuffled(++made_);
    i->highest = i->last;
    i->above = above;
    i->below[0] = i->below[1] = nullptr;
    *link = i;
    while (i->above != nullptr && i->above->priority < i->priority)
        lift(i);
}

void interval_tree::remove(interval *i) {
    while (i->below[0] != nullptr && i->below[1] != nullptr)
        lift(i->below[i->below[1]->priority > i->below[0]->priority]);
    interval *rest = i->below[i->below[0] == nullptr];
    if (rest != nullptr)
        rest->above = i->above;
    *link_to(i) = rest;
    for (interval *at = i->above; at != nullptr; at = at->above)
        refresh(at);
}

// The leftmost below. A number that is high enough on the left is in a range that begins too late,
// or in one that is searched for.
interval *interval_tree::search(interval *below, uint64_t first, uint64_t last) {
    interval *i = below;
    while (i != nullptr && i->highest >= first) {
        if (i->below[0] != nullptr && i->below[0]->highest >= first) {
            i = i->below[0];
            continue;
        }
        if (i->first > last)
            return nullptr;
        if (i->last >= first)
            return i;
        i = i->below[1];
    }
    return nullptr;
}

interval *interval_tree::next(const interval *i, uint64_t first, uint64_t last) {
    for (;;) {
        if (interval *found = search(i->below[1], first, last))
            return found;
        const interval *from = i;
        do {
            from = i;
            i = i->above;
        } while (i != nullptr && i->below[1] == from);
        if (i == nullptr || i->first > last)
            return nullptr;
        if (i->last >= first)
            return const_cast<interval *>(i);
    }
}

} // namespace pagoda::dma
