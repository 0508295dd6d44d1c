#include "dma/pool_checks.h"

#include "dma/mutex.h"

#include <pagoda/slab.h>

namespace pagoda::dma {

pool_checks::~pool_checks() {
    for (record *&first : first_)
        while (record *r = first) {
            first = r->next;
            kfree(r);
        }
}

pool_checks::record **pool_checks::find(const void *block) {
    auto at = reinterpret_cast<uintptr_t>(block);
    record **link = &first_[at * 0x9e3779b97f4a7c15 >> (64 - kBucketBits)];
    while (*link != nullptr && (*link)->block != block)
        link = &(*link)->next;
    return link;
}

pool_checks::state pool_checks::state_of(const void *block) {
    locked hold(lock_);
    record *r = *find(block);
    return r == nullptr ? state::unknown : r->is;
}

bool pool_checks::set(void *block, state to, gfp_t gfp) {
    {
        locked hold(lock_);
        if (record *r = *find(block)) {
            r->is = to;
            return true;
        }
    }
    auto *made = static_cast<record *>(kmalloc(sizeof(record), gfp));
    if (made == nullptr)
        return false;
    // Nobody else has the block, so nobody made its record meanwhile.
    locked hold(lock_);
    record **link = find(block);
    *made = {*link, block, to};
    *link = made;
    return true;
}

size_t pool_checks::each_used(void (*f)(void *, void *), void *context) {
    locked hold(lock_);
    size_t count = 0;
    for (record *first : first_)
        for (record *r = first; r != nullptr; r = r->next)
            if (r->is == state::used) {
                f(context, r->block);
                count++;
            }
    return count;
}

} // namespace pagoda::dma
