// Stamped blocks of memory, and the boxes through which threads hand them to each other.
#pragma once

#include <atomic>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace pagoda::stress {

// Says what went wrong, without allocating, and ends the process: the state is worth a core dump.
inline void require(bool fine, const char *what) {
    if (fine)
        return;
    char line[200] = "stress: ";
    strncat(line, what, sizeof line - 12);
    strcat(line, "\n");
    if (write(2, line, strlen(line)) >= 0)
        abort();
    _exit(1);
}

class random_numbers {
  public:
    constexpr explicit random_numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ * 0x2545f4914f6cdd1dULL;
    }
    uint64_t below(uint64_t n) { return next() % n; }
    void mix(uint64_t more) { state_ = (state_ ^ more * 0x9e3779b97f4a7c15ULL) | 1; }

  private:
    uint64_t state_;
};

// The head of a block; the rest of its memory holds a byte made from its seed, wholly in small
// blocks and at the end in large ones.
struct block {
    size_t size;
    uint64_t seed;
};

inline constexpr size_t kStamped = 2048;

inline unsigned char stamp(const block *b) {
    return static_cast<unsigned char>(b->seed * 31 + b->size);
}

// The stamped part behind the head, for fn(first byte, length).
template <class F> void stamped_parts(block *b, F fn) {
    auto *bytes = reinterpret_cast<unsigned char *>(b);
    size_t rest = b->size - sizeof(block);
    size_t front = rest < kStamped ? rest : kStamped;
    fn(bytes + sizeof(block), front);
    if (rest > 2 * kStamped)
        fn(bytes + b->size - kStamped, kStamped);
}

inline void stamp_block(block *b) {
    stamped_parts(b, [b](unsigned char *at, size_t n) { memset(at, stamp(b), n); });
}

inline void check_block(block *b) {
    stamped_parts(b, [b](unsigned char *at, size_t n) {
        bool same = n == 0 || (at[0] == stamp(b) && memcmp(at, at + 1, n - 1) == 0);
        require(same, "a block's contents have changed");
    });
}

// A size with as many small values as large ones, up to 2^bits.
inline size_t block_size(random_numbers &r, unsigned bits) {
    return sizeof(block) + r.below(size_t{1} << (1 + r.below(bits)));
}

// NULL when memory is refused.
inline block *make_block(random_numbers &r, unsigned bits) {
    size_t size = block_size(r, bits);
    block *b = nullptr;
    switch (r.below(16)) {
    case 0: {
        b = static_cast<block *>(calloc(1, size));
        if (b != nullptr)
            require(b->size == 0 && reinterpret_cast<char *>(b)[size - 1] == 0,
                    "calloc's memory is not zero");
        break;
    }
    case 1: {
        size_t align = size_t{16} << r.below(9);
        b = static_cast<block *>(aligned_alloc(align, size));
        require(reinterpret_cast<uintptr_t>(b) % align == 0,
                "aligned_alloc's memory is not aligned");
        break;
    }
    default:
        b = static_cast<block *>(malloc(size));
    }
    if (b == nullptr)
        return nullptr;
    *b = {size, r.next()};
    stamp_block(b);
    return b;
}

inline void drop_block(block *b) {
    if (b == nullptr)
        return;
    check_block(b);
    b->size = 0; // a second owner would see it
    free(b);
}

inline block *resize_block(random_numbers &r, block *b) {
    if (b == nullptr)
        return make_block(r, 14);
    check_block(b);
    size_t size = r.below(2) == 0 ? block_size(r, 14) : b->size + r.below(b->size);
    if (size > size_t{4} << 20)
        size = sizeof(block);
    size_t kept = (size < b->size ? size : b->size) - sizeof(block);
    kept = kept < kStamped ? kept : kStamped;
    unsigned char byte = stamp(b);
    auto *moved = static_cast<block *>(realloc(b, size));
    if (moved == nullptr)
        return b;
    const unsigned char *at = reinterpret_cast<unsigned char *>(moved) + sizeof(block);
    require(kept == 0 || (at[0] == byte && memcmp(at, at + 1, kept - 1) == 0),
            "realloc lost bytes");
    moved->size = size;
    stamp_block(moved);
    return moved;
}

inline std::atomic<block *> boxes[256];

// Puts b into a box and returns what was there: somebody else's, or NULL.
inline block *exchange_block(random_numbers &r, block *b) {
    return boxes[r.below(256)].exchange(b);
}

inline uint64_t blocks_in_boxes() {
    uint64_t n = 0;
    for (std::atomic<block *> &box : boxes)
        n += box.load() != nullptr;
    return n;
}

inline void drop_all_blocks() {
    for (std::atomic<block *> &box : boxes)
        drop_block(box.exchange(nullptr));
}

} // namespace pagoda::stress
