#include "hugepage/meta.h"

#include "hugepage/address_space.h"

namespace pagoda {
namespace {

constexpr size_t kUnit = 64;
struct piece {
    piece *next;
};
piece *free_pieces[kMetaMax / kUnit + 1];
size_t used = 0;
mutex lock{lock_rank::meta};

} // namespace

mutex &meta_lock() { return lock; }

void *meta_alloc(size_t bytes, gfp_t gfp) {
    size_t units = (bytes + kUnit - 1) / kUnit;
    PAGODA_INVARIANT(units > 0 && bytes <= kMetaMax);
    if (gfpflags_allow_blocking(gfp))
        lock.lock();
    else if (!lock.try_lock())
        return nullptr;
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
    lock.unlock();
    if (got != nullptr && !fresh)
        __builtin_memset(got, 0, units * kUnit);
    return got;
}

void meta_free(void *p, size_t bytes) {
    size_t units = (bytes + kUnit - 1) / kUnit;
    lock_guard g(lock);
    piece *f = static_cast<piece *>(p);
    f->next = free_pieces[units];
    free_pieces[units] = f;
}

} // namespace pagoda
