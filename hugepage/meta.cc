#include "hugepage/meta.h"

#include "hugepage/address_space.h"

namespace pagoda {
namespace {

constexpr size_t kUnit = 64;
struct piece {
    piece *next;
    size_t units; // while it is deferred
};
std::atomic<piece *> deferred{nullptr}; // freed where the lock was taken; the next holder has them
piece *free_pieces[kMetaMax / kUnit + 1];
size_t used = 0;
size_t stock = 0; // bytes beyond `used` for those who may not wait
mutex lock{lock_rank::meta};

void put(piece *p, size_t units) {
    p->next = free_pieces[units];
    free_pieces[units] = p;
}

} // namespace

mutex &meta_lock() { return lock; }

void meta_keep_stock(size_t bytes) {
    lock_guard g(lock);
    g_space.meta.keep_populated();
    stock = bytes;
    g_space.meta.restock(used, stock);
}

void *meta_alloc(size_t bytes, gfp_t gfp) {
    size_t units = (bytes + kUnit - 1) / kUnit;
    PAGODA_INVARIANT(units > 0 && bytes <= kMetaMax);
    if (gfpflags_allow_blocking(gfp))
        lock.lock();
    else if (!lock.try_lock())
        return nullptr;
    if (PAGODA_UNLIKELY(deferred.load(std::memory_order_relaxed) != nullptr)) {
        for (piece *next, *p = deferred.exchange(nullptr, std::memory_order_acquire); p != nullptr;
             p = next) {
            next = p->next;
            put(p, p->units);
        }
    }
    void *got = nullptr;
    bool fresh = false;
    if (piece *p = free_pieces[units]) {
        free_pieces[units] = p->next;
        got = p;
    } else if (used + units * kUnit <= g_space.meta.bytes() ||
               (gfpflags_allow_blocking(gfp) && g_space.meta.reach(used + units * kUnit))) {
        got = g_space.meta.as<char>() + used;
        used += units * kUnit;
        fresh = true;
    }
    if (gfpflags_allow_blocking(gfp))
        g_space.meta.restock(used, stock);
    lock.unlock();
    if (got != nullptr && !fresh)
        __builtin_memset(got, 0, units * kUnit);
    return got;
}

void meta_free(void *p, size_t bytes) {
    size_t units = (bytes + kUnit - 1) / kUnit;
    piece *f = static_cast<piece *>(p);
    if (lock.try_lock()) { // a handler may have interrupted the holder
        put(f, units);
        lock.unlock();
        return;
    }
    f->units = units;
    f->next = deferred.load(std::memory_order_relaxed);
    while (!deferred.compare_exchange_weak(f->next, f, std::memory_order_release,
                                           std::memory_order_relaxed)) {
    }
}

} // namespace pagoda
