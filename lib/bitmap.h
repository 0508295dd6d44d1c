// Bitmaps that several threads search and change at once, without locks: each word changes by one
// atomic operation, and a range that meets somebody else's bits is undone.
#pragma once

#include "hugepage/base.h"

namespace pagoda::bitmap {

inline constexpr size_t kWordBits = 64;
static_assert(sizeof(unsigned long) * 8 == kWordBits);

constexpr size_t words_for(size_t bits) { return (bits + kWordBits - 1) / kWordBits; }

inline unsigned long load(const unsigned long *map, size_t word) {
    return __atomic_load_n(map + word, __ATOMIC_RELAXED);
}
inline bool test(const unsigned long *map, size_t bit) {
    return (load(map, bit / kWordBits) >> (bit % kWordBits) & 1) != 0;
}

// The first bit in [from, size) that is set, or that is clear; `size` when there is none.
inline size_t find(const unsigned long *map, size_t size, size_t from, bool set) {
    for (size_t word = from / kWordBits; from < size; from = ++word * kWordBits) {
        unsigned long bits = set ? load(map, word) : ~load(map, word);
        bits &= ~0UL << (from % kWordBits);
        if (bits != 0) {
            size_t bit = word * kWordBits + static_cast<size_t>(__builtin_ctzl(bits));
            return bit < size ? bit : size;
        }
    }
    return size;
}

// The first of `count` clear bits in a row, at or after `from`, whose number plus `offset` is a
// multiple of `align` (a power of two); `size` when there is none.
inline size_t find_clear_run(const unsigned long *map, size_t size, size_t from, size_t count,
                             size_t align, size_t offset) {
    for (;;) {
        from = find(map, size, from, false);
        from = align_up(from + offset, align) - offset;
        if (from > size || count > size - from)
            return size;
        size_t end = find(map, from + count, from, true);
        if (end == from + count)
            return from;
        from = end + 1;
    }
}

// The bits of [from, from + count) that lie in from's word.
inline unsigned long mask_in_word(size_t from, size_t count) {
    size_t first = from % kWordBits;
    size_t bits = min_of(count, kWordBits - first);
    return (bits == kWordBits ? ~0UL : (1UL << bits) - 1) << first;
}

// Changes [from, from + count) from all clear to all set, or the other way. Returns how many bits
// were changed before one that was not as expected.
inline size_t change(unsigned long *map, size_t from, size_t count, bool set) {
    size_t done = 0;
    while (done < count) {
        unsigned long mask = mask_in_word(from + done, count - done);
        unsigned long *word = map + (from + done) / kWordBits;
        unsigned long old = __atomic_load_n(word, __ATOMIC_RELAXED);
        do {
            if ((old & mask) != (set ? 0 : mask))
                return done;
        } while (!__atomic_compare_exchange_n(word, &old, old ^ mask, true, __ATOMIC_ACQ_REL,
                                              __ATOMIC_RELAXED));
        done += count_bits(mask);
    }
    return done;
}

} // namespace pagoda::bitmap
