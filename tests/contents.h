// What a property test writes into a block, and looks for later: every byte, so that neither a lost
// nor a foreign write to any part of it stays unseen.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace pagoda::test {

inline uint64_t content_word(uint64_t tag, size_t at) { return tag ^ (at * 0x9e3779b97f4a7c15ULL); }

// Bytes [from, to) of the block at p, from a multiple of 8.
inline void fill(void *p, size_t from, size_t to, uint64_t tag) {
    char *bytes = static_cast<char *>(p);
    for (; from + 8 <= to; from += 8) {
        uint64_t word = content_word(tag, from);
        memcpy(bytes + from, &word, 8);
    }
    uint64_t word = content_word(tag, from);
    memcpy(bytes + from, &word, to - from);
}

inline bool intact(const void *p, size_t from, size_t to, uint64_t tag) {
    const char *bytes = static_cast<const char *>(p);
    uint64_t difference = 0;
    for (; from + 8 <= to; from += 8) {
        uint64_t word;
        memcpy(&word, bytes + from, 8);
        difference |= word ^ content_word(tag, from);
    }
    uint64_t word = content_word(tag, from);
    return difference == 0 && memcmp(bytes + from, &word, to - from) == 0;
}

inline void fill(void *p, size_t size, uint64_t tag) { fill(p, 0, size, tag); }
inline bool intact(const void *p, size_t size, uint64_t tag) { return intact(p, 0, size, tag); }

inline bool all_zero(const void *p, size_t size) {
    const char *bytes = static_cast<const char *>(p);
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

} // namespace pagoda::test
