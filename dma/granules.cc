#include "dma/granules.h"

#include <pagoda/slab.h>

namespace pagoda::dma {

bool granule_table::init(uintptr_t base, size_t bytes) {
    base_ = base;
    bytes_ = bytes;
    top_ = static_cast<std::atomic<leaf *> *>(
        kvzalloc(leaves() * sizeof(std::atomic<leaf *>), GFP_KERNEL));
    return top_ != nullptr;
}

granule_table::~granule_table() {
    for (size_t i = 0; top_ != nullptr && i < leaves(); i++)
        kfree(top_[i].load(std::memory_order_relaxed));
    kvfree(top_);
}

bool granule_table::prepare(uintptr_t at) {
    std::atomic<leaf *> &slot = top_[((at - base_) >> kPageblockShift) / kLeaf];
    if (slot.load(std::memory_order_acquire) != nullptr)
        return true;
    auto *made = static_cast<leaf *>(kzalloc(sizeof(leaf), GFP_KERNEL));
    leaf *found = nullptr;
    if (made != nullptr && !slot.compare_exchange_strong(found, made, std::memory_order_acq_rel))
        kfree(made); // another thread was faster
    return made != nullptr || found != nullptr;
}

void granule_table::set(uintptr_t at, granule g) {
    size_t i = (at - base_) >> kPageblockShift;
    leaf *l = top_[i / kLeaf].load(std::memory_order_acquire);
    l->word[i % kLeaf].store(g.word, std::memory_order_release);
}

void granule_table::each(void (*f)(void *, uintptr_t, granule), void *context) const {
    for (size_t i = 0; i < leaves(); i++) {
        leaf *l = top_[i].load(std::memory_order_acquire);
        for (size_t k = 0; l != nullptr && k < kLeaf; k++) {
            granule g = {l->word[k].load(std::memory_order_acquire)};
            if (g.state() != granule_state::unmapped)
                f(context, base_ + ((i * kLeaf + k) << kPageblockShift), g);
        }
    }
}

} // namespace pagoda::dma
