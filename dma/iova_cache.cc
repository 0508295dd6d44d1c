#include "dma/iova_cache.h"

#include "dma/mutex.h"

#include <pagoda/percpu.h>
#include <pagoda/slab.h>

namespace pagoda::dma {

struct magazine {
    unsigned long count;
    unsigned long pfns[kMagazine];

    bool full() const { return count == kMagazine; }
};

} // namespace pagoda::dma

using namespace pagoda::dma;

// `loaded` is used, `previous` is full or empty: a CPU that takes and gives in turn at the edge of
// one magazine does not go to the depot each time.
struct cpu_cache {
    pthread_mutex_t lock;
    magazine *loaded[kCachedOrders];
    magazine *previous[kCachedOrders];
};

struct pagoda_iova_caches {
    unsigned cpus;
    pthread_mutex_t depot_lock;
    unsigned depot_count[kCachedOrders];
    magazine *depot[kCachedOrders][kDepot];
    cpu_cache cpu[];
};

namespace {

magazine *make_magazine() {
    auto *m = static_cast<magazine *>(kmalloc(sizeof(magazine), GFP_KERNEL | __GFP_NOWARN));
    if (m != nullptr)
        m->count = 0;
    return m;
}

void swap(magazine *&a, magazine *&b) {
    magazine *c = a;
    a = b;
    b = c;
}

cpu_cache &here(pagoda_iova_caches *c) { return c->cpu[pagoda_cpu_number() % c->cpus]; }

// The newest that is not above `last`; 0: none.
unsigned long pop(magazine *m, unsigned long last) {
    for (unsigned long i = m->count; i-- > 0;) {
        unsigned long pfn = m->pfns[i];
        if (pfn > last)
            continue;
        m->pfns[i] = m->pfns[--m->count];
        return pfn;
    }
    return 0;
}

magazine *fetch_full(pagoda_iova_caches *c, unsigned order) {
    locked_noio depot(c->depot_lock);
    return c->depot_count[order] != 0 ? c->depot[order][--c->depot_count[order]] : nullptr;
}

bool store_full(pagoda_iova_caches *c, unsigned order, magazine *m) {
    locked_noio depot(c->depot_lock);
    if (c->depot_count[order] == kDepot)
        return false;
    c->depot[order][c->depot_count[order]++] = m;
    return true;
}

} // namespace

namespace pagoda::dma {

pagoda_iova_caches *iova_caches_create() {
    unsigned cpus = pagoda_cpu_count();
    auto *c = static_cast<pagoda_iova_caches *>(
        kvzalloc(sizeof(pagoda_iova_caches) + cpus * sizeof(cpu_cache), GFP_KERNEL));
    if (c == nullptr)
        return nullptr;
    c->cpus = cpus;
    pthread_mutex_init(&c->depot_lock, nullptr);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        pthread_mutex_init(&c->cpu[cpu].lock, nullptr);
    return c;
}

void iova_caches_destroy(pagoda_iova_caches *c) {
    for (unsigned cpu = 0; cpu < c->cpus; cpu++)
        for (unsigned order = 0; order < kCachedOrders; order++) {
            kfree(c->cpu[cpu].loaded[order]);
            kfree(c->cpu[cpu].previous[order]);
        }
    kvfree(c);
}

unsigned long iova_caches_get(pagoda_iova_caches *c, unsigned order, unsigned long limit) {
    unsigned long pages = 1ul << order;
    if (limit < pages)
        return 0;
    unsigned long last = limit - pages + 1;
    unsigned long pfn = 0;
    magazine *emptied = nullptr; // its free may come to spaces_withdraw(): not under a lock
    {
        cpu_cache &mine = here(c);
        locked_noio lock(mine.lock);
        magazine *&loaded = mine.loaded[order];
        magazine *&previous = mine.previous[order];
        if (loaded == nullptr)
            return 0;
        pfn = pop(loaded, last);
        if (pfn == 0 && previous != nullptr && previous->count != 0) {
            swap(loaded, previous);
            pfn = pop(loaded, last);
        } else if (pfn == 0 && loaded->count == 0) {
            if (magazine *full = fetch_full(c, order)) {
                emptied = loaded;
                loaded = full;
                pfn = pop(loaded, last);
            }
        }
    }
    kfree(emptied);
    return pfn;
}

bool iova_caches_put(pagoda_iova_caches *c, unsigned order, unsigned long pfn) {
    magazine *spare = nullptr;
    bool done = false;
    // Memory for a further magazine is asked for without the lock; then the CPU may be another one.
    for (int attempt = 0; attempt < 2 && !done; attempt++) {
        if (attempt == 1) {
            spare = make_magazine();
            if (spare == nullptr)
                break;
        }
        cpu_cache &mine = here(c);
        locked_noio lock(mine.lock);
        magazine *&loaded = mine.loaded[order];
        magazine *&previous = mine.previous[order];
        if (loaded != nullptr && loaded->full() && previous != nullptr && !previous->full())
            swap(loaded, previous);
        if (loaded == nullptr || loaded->full()) {
            if (spare == nullptr)
                continue;
            if (loaded != nullptr && previous == nullptr)
                previous = loaded;
            else if (loaded != nullptr && !store_full(c, order, loaded))
                break;
            loaded = spare;
            spare = nullptr;
        }
        loaded->pfns[loaded->count++] = pfn;
        done = true;
    }
    kfree(spare);
    return done;
}

void iova_caches_flush(pagoda_iova_caches *c, void (*free_pages)(void *, unsigned long),
                       void *context) {
    auto empty = [&](magazine *m) {
        while (m != nullptr && m->count != 0)
            free_pages(context, m->pfns[--m->count]);
        kfree(m);
    };
    for (unsigned cpu = 0; cpu < c->cpus; cpu++)
        for (unsigned order = 0; order < kCachedOrders; order++) {
            cpu_cache &one = c->cpu[cpu];
            magazine *loaded = nullptr;
            magazine *previous = nullptr;
            {
                locked_noio lock(one.lock);
                swap(loaded, one.loaded[order]);
                swap(previous, one.previous[order]);
            }
            empty(loaded);
            empty(previous);
        }
    for (unsigned order = 0; order < kCachedOrders; order++)
        while (magazine *m = fetch_full(c, order))
            empty(m);
}

} // namespace pagoda::dma
