#include "dma/iova.h"

#include "dma/iova_cache.h"
#include "dma/mutex.h"
#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {
namespace {

constexpr unsigned long kLastPage = ~0ul; // the anchor's

unsigned long max_gap(const iova *n) { return n != nullptr ? n->pagoda_max_gap : 0; }

// The lowest free page below n.
unsigned long gap_start(const iova *n) { return n->pfn_lo - n->pagoda_gap; }

bool refresh(iova *n) {
    unsigned long most =
        max_of(n->pagoda_gap, max_of(max_gap(n->pagoda_child[0]), max_gap(n->pagoda_child[1])));
    bool changed = most != n->pagoda_max_gap;
    n->pagoda_max_gap = most;
    return changed;
}

void refresh_up(iova *n) {
    for (; n != nullptr && refresh(n); n = n->pagoda_parent)
        ;
}

// n takes its parent's place.
void rotate_up(iova_domain *d, iova *n) {
    iova *p = n->pagoda_parent;
    iova *above = p->pagoda_parent;
    int side = p->pagoda_child[1] == n;
    iova *moved = n->pagoda_child[1 - side];
    p->pagoda_child[side] = moved;
    if (moved != nullptr)
        moved->pagoda_parent = p;
    n->pagoda_child[1 - side] = p;
    p->pagoda_parent = n;
    n->pagoda_parent = above;
    if (above == nullptr)
        d->pagoda_root = n;
    else
        above->pagoda_child[above->pagoda_child[1] == p] = n;
    refresh(p);
    refresh(n);
}

iova *next(iova *n) {
    if (n->pagoda_child[1] != nullptr) {
        n = n->pagoda_child[1];
        while (n->pagoda_child[0] != nullptr)
            n = n->pagoda_child[0];
        return n;
    }
    while (n->pagoda_parent != nullptr && n->pagoda_parent->pagoda_child[1] == n)
        n = n->pagoda_parent;
    return n->pagoda_parent;
}

// The first that ends at `pfn` or above: the anchor at the latest.
iova *first_from(const iova_domain *d, unsigned long pfn) {
    iova *found = nullptr;
    for (iova *n = d->pagoda_root; n != nullptr;) {
        bool right = n->pfn_hi < pfn;
        if (!right)
            found = n;
        n = n->pagoda_child[right];
    }
    return found;
}

// Takes lo to hi, which are free and lie right below or in the gap of `behind`.
void insert(iova_domain *d, iova *n, iova *behind, unsigned long lo, unsigned long hi) {
    d->pagoda_random = d->pagoda_random * 6364136223846793005u + 1442695040888963407u;
    unsigned long lowest = gap_start(behind);
    *n = {};
    n->pfn_lo = lo;
    n->pfn_hi = hi;
    n->pagoda_priority = static_cast<unsigned>(d->pagoda_random >> 32);
    n->pagoda_gap = lo - lowest;
    behind->pagoda_gap = behind->pfn_lo - 1 - hi;
    refresh_up(behind);
    iova *parent = behind;
    int side = 0;
    for (iova *c = behind->pagoda_child[0]; c != nullptr; c = c->pagoda_child[1]) {
        parent = c;
        side = 1;
    }
    n->pagoda_parent = parent;
    parent->pagoda_child[side] = n;
    refresh_up(n);
    while (n->pagoda_parent != nullptr && n->pagoda_parent->pagoda_priority < n->pagoda_priority)
        rotate_up(d, n);
    refresh_up(n->pagoda_parent);
}

void remove(iova_domain *d, iova *n) {
    iova *behind = next(n);
    while (n->pagoda_child[0] != nullptr || n->pagoda_child[1] != nullptr) {
        iova *left = n->pagoda_child[0];
        iova *right = n->pagoda_child[1];
        bool take_right =
            left == nullptr || (right != nullptr && right->pagoda_priority > left->pagoda_priority);
        rotate_up(d, take_right ? right : left);
    }
    iova *parent = n->pagoda_parent; // the anchor is never removed: there is one
    parent->pagoda_child[parent->pagoda_child[1] == n] = nullptr;
    refresh_up(parent);
    behind->pagoda_gap += n->pagoda_gap + iova_size(n);
    refresh_up(behind);
}

// The last in the subtree that has at least `size` free pages below it; there is one.
iova *last_with_gap(iova *n, unsigned long size) {
    for (;;) {
        if (max_gap(n->pagoda_child[1]) >= size)
            n = n->pagoda_child[1];
        else if (n->pagoda_gap >= size)
            return n;
        else
            n = n->pagoda_child[0];
    }
}

iova *previous_with_gap(iova *n, unsigned long size) {
    for (;;) {
        if (max_gap(n->pagoda_child[0]) >= size)
            return last_with_gap(n->pagoda_child[0], size);
        while (n->pagoda_parent != nullptr && n->pagoda_parent->pagoda_child[0] == n)
            n = n->pagoda_parent;
        n = n->pagoda_parent;
        if (n == nullptr || n->pagoda_gap >= size)
            return n;
    }
}

// The highest room: what is behind it, and *lo. NULL: there is none.
iova *find_room(const iova_domain *d, unsigned long size, unsigned long limit, unsigned long align,
                unsigned long *lo) {
    limit = min_of(limit, kLastPage - 1);
    if (limit < size - 1)
        return nullptr;
    // Gaps that begin above this are of no use.
    unsigned long bound = limit - (size - 1);
    iova *n = nullptr;
    for (iova *at = d->pagoda_root; at != nullptr;) {
        bool right = gap_start(at) <= bound;
        if (right)
            n = at;
        at = at->pagoda_child[right];
    }
    for (; n != nullptr; n = previous_with_gap(n, size)) {
        if (n->pagoda_gap < size)
            continue;
        unsigned long at = min_of(n->pfn_lo - size, bound) & ~(align - 1);
        if (at >= gap_start(n)) {
            *lo = at;
            return n;
        }
    }
    return nullptr;
}

iova *find(const iova_domain *d, unsigned long pfn) {
    iova *n = first_from(d, pfn);
    return n != &d->pagoda_anchor && n->pfn_lo <= pfn ? n : nullptr;
}

unsigned order_for(unsigned long size) { return order_of(size); }

// Nodes are made and freed without the lock: either may have memory given back, which asks this
// library.
iova *make_node() { return static_cast<iova *>(kmalloc(sizeof(iova), GFP_KERNEL | __GFP_NOWARN)); }

} // namespace

bool iova_overlaps(iova_domain *d, unsigned long lo, unsigned long hi) {
    locked_noio lock(d->pagoda_lock);
    for (iova *n = first_from(d, lo); n != &d->pagoda_anchor && n->pfn_lo <= hi; n = next(n))
        if (!n->pagoda_reserved)
            return true;
    return false;
}

void iova_flush(iova_domain *d) {
    if (d->pagoda_caches == nullptr)
        return;
    iova_caches_flush(
        d->pagoda_caches,
        [](void *domain, unsigned long pfn) {
            pagoda_free_iova(static_cast<iova_domain *>(domain), pfn);
        },
        d);
}

} // namespace pagoda::dma

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT void pagoda_init_iova_domain(iova_domain *d, unsigned long granule,
                                           unsigned long start_pfn) {
    *d = {};
    d->granule = granule;
    d->start_pfn = start_pfn;
    d->pagoda_random = 1;
    pthread_mutex_init(&d->pagoda_lock, nullptr);
    iova &anchor = d->pagoda_anchor;
    anchor.pfn_lo = kLastPage;
    anchor.pfn_hi = kLastPage;
    anchor.pagoda_gap = kLastPage - min_of(start_pfn, kLastPage);
    anchor.pagoda_max_gap = anchor.pagoda_gap;
    anchor.pagoda_priority = ~0u;
    d->pagoda_root = &anchor;
}

PAGODA_EXPORT int pagoda_iova_domain_init_rcaches(iova_domain *d) {
    if (d->pagoda_caches == nullptr)
        d->pagoda_caches = iova_caches_create();
    return d->pagoda_caches != nullptr ? 0 : -ENOMEM;
}

PAGODA_EXPORT void pagoda_put_iova_domain(iova_domain *d) {
    if (d->pagoda_caches != nullptr) {
        iova_flush(d);
        iova_caches_destroy(d->pagoda_caches);
        d->pagoda_caches = nullptr;
    }
    while (d->pagoda_anchor.pagoda_child[0] != nullptr)
        pagoda_free_iova_of(d, d->pagoda_anchor.pagoda_child[0]);
    pthread_mutex_destroy(&d->pagoda_lock);
}

PAGODA_EXPORT iova *pagoda_alloc_iova(iova_domain *d, unsigned long size, unsigned long limit_pfn,
                                      bool size_aligned) {
    if (size == 0 || size > kLastPage / 2)
        return nullptr;
    iova *n = make_node();
    if (n == nullptr)
        return nullptr;
    {
        locked_noio lock(d->pagoda_lock);
        unsigned long lo = 0;
        unsigned long align = size_aligned ? 1ul << order_for(size) : 1;
        if (iova *behind = find_room(d, size, limit_pfn, align, &lo)) {
            insert(d, n, behind, lo, lo + size - 1);
            return n;
        }
    }
    kfree(n);
    return nullptr;
}

PAGODA_EXPORT void pagoda_free_iova_of(iova_domain *d, iova *n) {
    {
        locked_noio lock(d->pagoda_lock);
        remove(d, n);
    }
    kfree(n);
}

PAGODA_EXPORT void pagoda_free_iova(iova_domain *d, unsigned long pfn) {
    iova *n = nullptr;
    {
        locked_noio lock(d->pagoda_lock);
        n = find(d, pfn);
        if (n != nullptr)
            remove(d, n);
    }
    kfree(n);
}

PAGODA_EXPORT iova *pagoda_find_iova(iova_domain *d, unsigned long pfn) {
    locked_noio lock(d->pagoda_lock);
    return find(d, pfn);
}

PAGODA_EXPORT iova *pagoda_reserve_iova(iova_domain *d, unsigned long lo, unsigned long hi) {
    if (lo > hi || hi > ~uint64_t{0} >> iova_shift(d))
        return nullptr;
    lo = max_of(lo, d->start_pfn);
    iova *result = nullptr;
    while (lo <= hi && lo != kLastPage) {
        iova *n = make_node();
        if (n == nullptr)
            return nullptr;
        bool used = false;
        {
            locked_noio lock(d->pagoda_lock);
            iova *behind = first_from(d, lo);
            if (behind->pfn_lo <= lo) { // `lo` is taken
                result = behind;
                lo = behind->pfn_hi + 1;
            } else {
                unsigned long last = min_of(hi, behind->pfn_lo - 1);
                insert(d, n, behind, lo, last);
                n->pagoda_reserved = true;
                used = true;
                result = n;
                lo = last + 1;
            }
        }
        if (!used)
            kfree(n);
        if (lo == 0)
            break;
    }
    return result;
}

PAGODA_EXPORT unsigned long pagoda_alloc_iova_fast(iova_domain *d, unsigned long size,
                                                   unsigned long limit_pfn, bool flush_rcache) {
    if (size == 0)
        return 0;
    unsigned order = order_for(size);
    bool cached = order < kCachedOrders && d->pagoda_caches != nullptr;
    if (order < kCachedOrders)
        size = 1ul << order;
    if (cached)
        if (unsigned long pfn = iova_caches_get(d->pagoda_caches, order, limit_pfn))
            return pfn;
    iova *n = pagoda_alloc_iova(d, size, limit_pfn, true);
    if (n == nullptr && flush_rcache && d->pagoda_caches != nullptr) {
        iova_flush(d);
        n = pagoda_alloc_iova(d, size, limit_pfn, true);
    }
    return n != nullptr ? n->pfn_lo : 0;
}

PAGODA_EXPORT void pagoda_free_iova_fast(iova_domain *d, unsigned long pfn, unsigned long size) {
    unsigned order = order_for(size);
    if (order < kCachedOrders && d->pagoda_caches != nullptr &&
        iova_caches_put(d->pagoda_caches, order, pfn))
        return;
    pagoda_free_iova(d, pfn);
}
