// A counter of holds on an object: how often, whether it was freed since the first, and by
// kfree_sensitive(), so that it is overwritten when it really goes. It is below zero for a moment
// where two threads undo what one did. 16 bits for objects of slabs and runs, 32 for areas, of
// which devices may have many parts.
#pragma once

#include "hugepage/base.h"

#include <atomic>
#include <errno.h>

namespace pagoda {

template <class T> struct hold_bits {
    static constexpr T kFreed = static_cast<T>(T{1} << (sizeof(T) * 8 - 1));
    static constexpr T kOverwrite = kFreed / 2;
    static constexpr T kCount = kOverwrite - 1;
    static constexpr T kMost = kCount / 2;
    static constexpr T kMany = kMost / 2; // it never goes up or down so far in a moment

    static bool below_zero(T holds) { return holds > static_cast<T>(~T{0} - kMany); }
    static bool freed(T holds) { return holds >= kFreed && !below_zero(holds); }
};

// 0; -ENOENT: freed already; -EOVERFLOW.
template <class T> int hold_raise(std::atomic<T> &holds) {
    using bits = hold_bits<T>;
    T seen = holds.load(std::memory_order_relaxed);
    do {
        if (bits::freed(seen))
            return -ENOENT;
        if (seen >= bits::kMost && !bits::below_zero(seen))
            return -EOVERFLOW;
    } while (!holds.compare_exchange_weak(seen, static_cast<T>(seen + 1)));
    return 0;
}

enum class hold_end : uint8_t {
    none, // there was no hold to end
    one,
    last,           // of what was freed meanwhile; the caller frees it
    last_sensitive, // and overwrites it before that
};
inline bool is_last(hold_end end) { return end >= hold_end::last; }
// How the last hold of a freed object ends.
template <class T> hold_end hold_end_of(T holds) {
    return (holds & hold_bits<T>::kOverwrite) != 0 ? hold_end::last_sensitive : hold_end::last;
}
template <class T> hold_end hold_lower(std::atomic<T> &holds) {
    using bits = hold_bits<T>;
    T seen = holds.load(std::memory_order_relaxed), left = 0;
    do {
        if ((seen & bits::kCount) == 0 || bits::below_zero(seen))
            return hold_end::none;
        left = static_cast<T>(seen - 1);
        if ((left & bits::kCount) == 0)
            left = 0;
    } while (!holds.compare_exchange_weak(seen, left, std::memory_order_acq_rel));
    return left != 0 || seen == 1 ? hold_end::one : hold_end_of(seen);
}

enum class held_free : uint8_t {
    now,     // nobody holds it
    put_off, // until the last release
    again,   // it was freed already
};
template <class T> held_free hold_note_free(std::atomic<T> &holds, bool overwrite = false) {
    using bits = hold_bits<T>;
    T freed = overwrite ? bits::kFreed | bits::kOverwrite : bits::kFreed;
    T seen = holds.load(std::memory_order_acquire);
    do {
        if (seen == 0 || bits::below_zero(seen))
            return held_free::now;
        if (bits::freed(seen))
            return held_free::again;
    } while (!holds.compare_exchange_weak(seen, static_cast<T>(seen | freed)));
    return held_free::put_off;
}

} // namespace pagoda
