// Size classes, computed at compile time. Classes are page_class values:
//   1            8 bytes (kmalloc only: malloc's results are 16-byte aligned)
//   2..9         16 … 128, step 16
//   10..73       8 per doubling up to 32 KiB: objects in slabs
//   74..97       8 per doubling up to 256 KiB: page runs, cached per CPU like objects
// Every class size is a multiple of 16 from class 2 on, and of its step, so natural alignment
// (the largest power of two that divides the size) holds inside page-aligned slabs.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

struct class_info {
    uint32_t size;       // of an object, bytes
    uint32_t reciprocal; // ceil(2^32 / size): offset -> object number without a division; 0: one
    uint16_t pages;      // of a slab, or of the run
    uint16_t objects;    // per slab; a run is one
    uint16_t capacity;   // objects in a sheaf
    uint8_t order; // slabs of a power of two pages are aligned: head = index & ~((1 << order) - 1)
    uint8_t start_order; // of a slab's first page: to align its objects where they need more
    bool aligned;        // they are; other slabs' pages point to the record one by one
    bool is_run;
};

inline constexpr unsigned kFirstMallocClass = 2;
inline constexpr unsigned kSmallClasses = 73; // the last slab class
inline constexpr unsigned kLastClass = 97;    // the last run class
inline constexpr size_t kMaxSmall = 32768;
inline constexpr size_t kMaxClass = 262144;

// The class sizes' rule, in one place: 16-byte steps up to 128, then 8 steps per doubling.
constexpr size_t class_size(unsigned cls) {
    if (cls <= 9)
        return cls == 1 ? 8 : (cls - 1) * 16;
    size_t base = size_t{128} << ((cls - 10) / 8);
    return base + base / 8 * ((cls - 10) % 8 + 1);
}

// Smallest malloc class whose objects hold `size` bytes; size <= kMaxClass.
constexpr unsigned class_for_size(size_t size) {
    if (size <= 128)
        return size <= 16 ? kFirstMallocClass : static_cast<unsigned>((size + 15) / 16 + 1);
    unsigned doubling = log2_floor(size - 1) - 7;
    size_t step = (size_t{128} << doubling) / 8;
    size_t base = size_t{128} << doubling;
    return 10 + doubling * 8 + static_cast<unsigned>((size - base + step - 1) / step) - 1;
}

// Bounded by bytes for large objects: what sits in a sheaf is memory nobody else can use.
constexpr uint16_t class_capacity(size_t size) {
    return size <= 1024     ? 127
           : size <= 2048   ? 64
           : size <= 4096   ? 32
           : size <= 8192   ? 16
           : size <= 16384  ? 8
           : size <= 65536  ? 4
           : size <= 131072 ? 2
                            : 1;
}

// Objects of `size` bytes, a multiple of `align` (a power of two), in slabs of the page count
// of 32..64 KiB that wastes least; one object where that is too few for it.
constexpr class_info make_slab(size_t size, size_t align) {
    class_info c = {};
    c.size = static_cast<uint32_t>(size);
    c.capacity = class_capacity(size);
    size_t best = 8;
    if (size > kMaxSmall) {
        best = (size + kPageSize - 1) / kPageSize; // reciprocal 0: every offset is object 0's
    } else {
        c.reciprocal = static_cast<uint32_t>(((uint64_t{1} << 32) + size - 1) / size);
        size_t best_waste = best * kPageSize % size;
        for (size_t pages = 9; size > 128 && pages <= 16; pages++) {
            size_t waste = pages * kPageSize % size;
            if (waste * best < best_waste * pages) {
                best = pages;
                best_waste = waste;
            }
        }
    }
    c.pages = static_cast<uint16_t>(best);
    c.objects = static_cast<uint16_t>(size > kMaxSmall ? 1 : best * kPageSize / size);
    c.aligned = is_power_of_two(c.pages) && c.pages <= kPageblockPages;
    c.order = static_cast<uint8_t>(c.aligned ? order_of(c.pages) : 0);
    unsigned align_order = align > kPageSize ? log2_floor(align) - kPageShift : 0;
    c.start_order = static_cast<uint8_t>(max_of<unsigned>(c.order, align_order));
    return c;
}

constexpr class_info make_class(unsigned cls) {
    size_t size = class_size(cls);
    class_info c = make_slab(size, size & -size); // natural alignment, which kmalloc promises
    c.is_run = cls > kSmallClasses;
    return c;
}

// kmalloc's class: as malloc's, and 8 bytes at least instead of 16.
constexpr unsigned kmalloc_class(size_t size) { return size <= 8 ? 1 : class_for_size(size); }

struct class_table {
    class_info info[kLastClass + 1];
};
constexpr class_table make_class_table() {
    class_table t = {};
    for (unsigned cls = 1; cls <= kLastClass; cls++)
        t.info[cls] = make_class(cls);
    return t;
}
inline constexpr class_table kClassTable = make_class_table();

// (size + 15) / 16 -> class, for malloc's hot path.
struct size_table {
    uint8_t cls[kMaxSmall / 16 + 1];
};
constexpr size_table make_size_table() {
    size_table t = {};
    for (size_t i = 0; i <= kMaxSmall / 16; i++)
        t.cls[i] = static_cast<uint8_t>(class_for_size(i * 16));
    return t;
}
extern PAGODA_INTERNAL const size_table kSizeTable;

namespace size_class_proof {
constexpr bool waste_is_bounded() {
    for (unsigned cls = 10; cls <= kLastClass; cls++) {
        // The smallest request that lands in a class leaves the most unused.
        size_t smallest = class_size(cls - 1) + 1;
        if ((class_size(cls) - smallest) * 8 > class_size(cls))
            return false;
        if (class_for_size(smallest) != cls || class_for_size(class_size(cls)) != cls)
            return false;
    }
    for (unsigned cls = 1; cls <= kSmallClasses; cls++) {
        class_info c = make_class(cls);
        size_t slab = c.pages * kPageSize;
        if ((slab - size_t{c.objects} * c.size) * 16 > slab) // the slab's tail: 1/16 at most
            return false;
    }
    return class_size(kSmallClasses) == kMaxSmall && class_size(kLastClass) == kMaxClass;
}
static_assert(waste_is_bounded(),
              "12.5 % inside an object above 128 bytes, 6.25 % behind the last");
} // namespace size_class_proof

} // namespace pagoda
