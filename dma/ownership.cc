#include "dma/ownership.h"

#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <string.h>

namespace pagoda::dma {

namespace {

constexpr size_t kWord = 64; // bits

// Those of bit `at`'s word from `at` on, and before `to`.
uint64_t bits_of(size_t at, size_t to) {
    uint64_t bits = ~uint64_t{0} << (at % kWord);
    size_t end = at - at % kWord + kWord;
    return to >= end ? bits : bits & (~uint64_t{0} >> (end - to));
}

} // namespace

bool ownership::reserve() {
    if (bits_ != nullptr)
        return true;
    size_t room = align_up(bytes_, kWord) / 8;
    // Under the lock of the records, which a shrinker's work may want.
    bits_ = static_cast<uint64_t *>(kvmalloc(room, GFP_NOFS | __GFP_NORETRY | __GFP_NOWARN));
    if (bits_ != nullptr)
        memset(bits_, is_all_device() ? 0 : 0xff, room);
    return bits_ != nullptr;
}

void ownership::end() {
    kvfree(bits_);
    bits_ = nullptr;
}

void ownership::give(bool processor, size_t from, size_t to) {
    if (from >= to || processors_ == (processor ? bytes_ : 0))
        return;
    if (bits_ == nullptr && ((from == 0 && to == bytes_) || !reserve())) {
        processors_ = from == 0 && to == bytes_ && !processor ? 0 : bytes_;
        return;
    }
    for (size_t at = from; at < to; at = at - at % kWord + kWord) {
        uint64_t &word = bits_[at / kWord];
        uint64_t bits = bits_of(at, to) & (processor ? ~word : word);
        size_t changed = count_bits(bits);
        word ^= bits;
        processors_ += processor ? changed : -changed;
    }
}

void ownership::give_to_processor(size_t from, size_t to) { give(true, from, to); }

void ownership::give_to_device(size_t from, size_t to) { give(false, from, to); }

size_t ownership::next(bool processor, size_t from, size_t to) const {
    if (bits_ == nullptr)
        return processor == is_all_device() ? to : from;
    for (size_t at = from; at < to; at = at - at % kWord + kWord) {
        uint64_t word = bits_[at / kWord];
        uint64_t bits = bits_of(at, to) & (processor ? word : ~word);
        if (bits != 0)
            return at - at % kWord + static_cast<size_t>(__builtin_ctzll(bits));
    }
    return to;
}

} // namespace pagoda::dma
