#include "lib/gen_pool.h"

#include "hugepage/report.h"
#include "lib/bitmap.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"

#include <errno.h>

namespace pagoda {
namespace {

size_t granules(const gen_pool *pool, size_t bytes) {
    size_t granule = size_t{1} << pool->order;
    return bytes / granule + (bytes % granule != 0);
}

size_t chunk_bits(const gen_pool *pool, const gen_pool_chunk *c) {
    return (c->end_addr - c->start_addr + 1) >> pool->order;
}

gen_pool_chunk *first_chunk(const gen_pool *pool) {
    return pool->chunks.load(std::memory_order_acquire);
}

gen_pool_chunk *chunk_with(const gen_pool *pool, unsigned long addr, size_t bytes) {
    for (gen_pool_chunk *c = first_chunk(pool); c != nullptr; c = c->pagoda_next)
        if (addr >= c->start_addr && addr <= c->end_addr &&
            (bytes == 0 || bytes - 1 <= c->end_addr - addr))
            return c;
    return nullptr;
}

// The first of `count` free granules of the chunk, now taken; its number of bits when there are
// none.
size_t take(gen_pool *pool, gen_pool_chunk *c, size_t count, genpool_algo_t algo, void *data) {
    size_t size = chunk_bits(pool, c);
    size_t start = 0;
    for (;;) {
        size_t at =
            algo(c->bits, size, start, static_cast<unsigned>(count), data, pool, c->start_addr);
        if (at >= size || count > size - at)
            return size;
        size_t done = bitmap::change(c->bits, at, count, true);
        if (done == count)
            return at;
        bitmap::change(c->bits, at, done, false); // somebody was faster: look again behind him
        start = at;
    }
}

void report_free(unsigned long addr, size_t bytes, const char *what) {
    text_buffer<200> t;
    t << "gen_pool_free of " << uint64_t{bytes} << " bytes at "
      << reinterpret_cast<const void *>(addr) << ": " << what;
    misuse(t);
}

} // namespace
} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT struct gen_pool *pagoda_gen_pool_create(int min_alloc_order, int /*nid*/) {
    if (min_alloc_order < 0 || min_alloc_order > 62 || !kernel_api_enter(GFP_KERNEL))
        return nullptr;
    auto *pool = static_cast<gen_pool *>(heap_alloc(sizeof(gen_pool), GFP_KERNEL | __GFP_ZERO));
    if (pool != nullptr) {
        pool->order = static_cast<unsigned>(min_alloc_order);
        pool->algo = pagoda_gen_pool_first_fit;
    }
    return pool;
}

PAGODA_EXPORT void pagoda_gen_pool_destroy(struct gen_pool *pool) {
    size_t out = pagoda_gen_pool_size(pool) - pagoda_gen_pool_avail(pool);
    if (out != 0) {
        text_buffer<120> t;
        t << "gen_pool_destroy: " << uint64_t{out} << " bytes are still allocated";
        misuse(t);
        return;
    }
    for (gen_pool_chunk *next, *c = first_chunk(pool); c != nullptr; c = next) {
        next = c->pagoda_next;
        heap_free(c, GFP_KERNEL);
    }
    heap_free(pool, GFP_KERNEL);
}

PAGODA_EXPORT int pagoda_gen_pool_add_owner(struct gen_pool *pool, unsigned long virt,
                                            phys_addr_t phys, size_t size, int /*nid*/,
                                            void *owner) {
    size_t bits = size >> pool->order;
    size = bits << pool->order;
    if (bits == 0 || virt == 0 || size - 1 > ~0UL - virt)
        return -EINVAL;
    auto *c = static_cast<gen_pool_chunk *>(
        heap_alloc(sizeof(gen_pool_chunk) + bitmap::words_for(bits) * sizeof(unsigned long),
                   GFP_KERNEL | __GFP_ZERO));
    if (c == nullptr)
        return -ENOMEM;
    c->pagoda_avail = size;
    c->phys_addr = phys;
    c->owner = owner;
    c->start_addr = virt;
    c->end_addr = virt + size - 1;
    c->bits = reinterpret_cast<unsigned long *>(c + 1);
    c->pagoda_next = pool->chunks.load(std::memory_order_relaxed);
    while (!pool->chunks.compare_exchange_weak(c->pagoda_next, c, std::memory_order_release,
                                               std::memory_order_relaxed)) {
    }
    return 0;
}

PAGODA_EXPORT unsigned long pagoda_gen_pool_alloc_algo_owner(struct gen_pool *pool, size_t size,
                                                             genpool_algo_t algo, void *data,
                                                             void **owner) {
    if (owner != nullptr)
        *owner = nullptr;
    size_t count = granules(pool, size);
    if (count == 0 || count > UINT32_MAX)
        return 0;
    size_t bytes = count << pool->order;
    for (gen_pool_chunk *c = first_chunk(pool); c != nullptr; c = c->pagoda_next) {
        if (bytes > __atomic_load_n(&c->pagoda_avail, __ATOMIC_RELAXED))
            continue;
        size_t at = take(pool, c, count, algo, data);
        if (at >= chunk_bits(pool, c))
            continue;
        __atomic_fetch_sub(&c->pagoda_avail, bytes, __ATOMIC_RELAXED);
        if (owner != nullptr)
            *owner = c->owner;
        return c->start_addr + (at << pool->order);
    }
    return 0;
}

PAGODA_EXPORT unsigned long pagoda_gen_pool_alloc_owner(struct gen_pool *pool, size_t size,
                                                        void **owner) {
    return pagoda_gen_pool_alloc_algo_owner(pool, size, pool->algo, pool->data, owner);
}

PAGODA_EXPORT void pagoda_gen_pool_free_owner(struct gen_pool *pool, unsigned long addr,
                                              size_t size, void **owner) {
    if (owner != nullptr)
        *owner = nullptr;
    gen_pool_chunk *c = chunk_with(pool, addr, size);
    if (c == nullptr || size == 0) {
        report_free(addr, size, "no chunk of this pool holds that");
        return;
    }
    size_t from = (addr - c->start_addr) >> pool->order;
    size_t count = granules(pool, size);
    if (bitmap::find(c->bits, from + count, from, false) != from + count) {
        report_free(addr, size, "not allocated");
        return;
    }
    // Counted first: in between an allocation sees too much and looks, it never sees too little.
    __atomic_fetch_add(&c->pagoda_avail, count << pool->order, __ATOMIC_RELAXED);
    size_t done = bitmap::change(c->bits, from, count, false);
    if (done != count) {
        __atomic_fetch_sub(&c->pagoda_avail, (count - done) << pool->order, __ATOMIC_RELAXED);
        report_free(addr, size, "another thread freed it at the same time");
    }
    if (owner != nullptr)
        *owner = c->owner;
}

PAGODA_EXPORT void pagoda_gen_pool_set_algo(struct gen_pool *pool, genpool_algo_t algo,
                                            void *data) {
    pool->algo = algo != nullptr ? algo : pagoda_gen_pool_first_fit;
    pool->data = data;
}

PAGODA_EXPORT size_t pagoda_gen_pool_avail(struct gen_pool *pool) {
    size_t bytes = 0;
    for (gen_pool_chunk *c = first_chunk(pool); c != nullptr; c = c->pagoda_next)
        bytes += __atomic_load_n(&c->pagoda_avail, __ATOMIC_RELAXED);
    return bytes;
}

PAGODA_EXPORT size_t pagoda_gen_pool_size(struct gen_pool *pool) {
    size_t bytes = 0;
    for (gen_pool_chunk *c = first_chunk(pool); c != nullptr; c = c->pagoda_next)
        bytes += c->end_addr - c->start_addr + 1;
    return bytes;
}

PAGODA_EXPORT bool pagoda_gen_pool_has_addr(struct gen_pool *pool, unsigned long start,
                                            size_t size) {
    return chunk_with(pool, start, size) != nullptr;
}

PAGODA_EXPORT phys_addr_t pagoda_gen_pool_virt_to_phys(struct gen_pool *pool, unsigned long addr) {
    gen_pool_chunk *c = chunk_with(pool, addr, 1);
    if (c == nullptr || c->phys_addr == ~phys_addr_t{0})
        return ~phys_addr_t{0};
    return c->phys_addr + (addr - c->start_addr);
}

PAGODA_EXPORT void pagoda_gen_pool_for_each_chunk(struct gen_pool *pool,
                                                  void (*func)(struct gen_pool *,
                                                               struct gen_pool_chunk *, void *),
                                                  void *data) {
    for (gen_pool_chunk *c = first_chunk(pool); c != nullptr; c = c->pagoda_next)
        func(pool, c, data);
}

PAGODA_EXPORT unsigned long pagoda_gen_pool_first_fit(unsigned long *map, unsigned long size,
                                                      unsigned long start, unsigned int nr,
                                                      void * /*data*/, struct gen_pool * /*pool*/,
                                                      unsigned long /*start_addr*/) {
    return bitmap::find_clear_run(map, size, start, nr, 1, 0);
}

PAGODA_EXPORT unsigned long pagoda_gen_pool_first_fit_align(unsigned long *map, unsigned long size,
                                                            unsigned long start, unsigned int nr,
                                                            void *data, struct gen_pool *pool,
                                                            unsigned long start_addr) {
    auto align = static_cast<size_t>(static_cast<genpool_data_align *>(data)->align);
    size_t steps = max_of(align >> pool->order, size_t{1});
    return bitmap::find_clear_run(map, size, start, nr, steps, start_addr >> pool->order);
}

PAGODA_EXPORT unsigned long
pagoda_gen_pool_first_fit_order_align(unsigned long *map, unsigned long size, unsigned long start,
                                      unsigned int nr, void * /*data*/, struct gen_pool * /*pool*/,
                                      unsigned long /*start_addr*/) {
    return bitmap::find_clear_run(map, size, start, nr, size_t{1} << order_of(nr), 0);
}

PAGODA_EXPORT unsigned long pagoda_gen_pool_best_fit(unsigned long *map, unsigned long size,
                                                     unsigned long start, unsigned int nr,
                                                     void * /*data*/, struct gen_pool * /*pool*/,
                                                     unsigned long /*start_addr*/) {
    size_t best = size;
    size_t best_length = ~size_t{0};
    for (;;) {
        size_t at = bitmap::find_clear_run(map, size, start, nr, 1, 0);
        if (at >= size)
            return best;
        size_t end = bitmap::find(map, size, at, true);
        if (end - at < best_length) {
            best = at;
            best_length = end - at;
            if (best_length == nr)
                return best;
        }
        start = end;
    }
}

PAGODA_EXPORT unsigned long pagoda_gen_pool_fixed_alloc(unsigned long *map, unsigned long size,
                                                        unsigned long start, unsigned int nr,
                                                        void *data, struct gen_pool *pool,
                                                        unsigned long /*start_addr*/) {
    size_t offset = static_cast<genpool_data_fixed *>(data)->offset;
    size_t at = offset >> pool->order;
    if (at << pool->order != offset || at < start || at > size || nr > size - at)
        return size;
    return bitmap::find(map, at + nr, at, true) == at + nr ? at : size;
}
