/* Sizes that saturate instead of wrapping: what overflows is SIZE_MAX, which no allocation serves.
 * Source: include/linux/overflow.h of the kernel. */
#ifndef PAGODA_OVERFLOW_H
#define PAGODA_OVERFLOW_H

#include <stddef.h>
#include <stdint.h>

/* a * b and a + b. */
static inline size_t size_mul(size_t a, size_t b) {
    size_t bytes;
    return __builtin_mul_overflow(a, b, &bytes) ? SIZE_MAX : bytes;
}
static inline size_t size_add(size_t a, size_t b) {
    size_t bytes;
    return __builtin_add_overflow(a, b, &bytes) ? SIZE_MAX : bytes;
}
/* SIZE_MAX where an argument is SIZE_MAX or b is greater than a. */
static inline size_t size_sub(size_t a, size_t b) {
    return a == SIZE_MAX || b == SIZE_MAX || b > a ? SIZE_MAX : a - b;
}
/* Bytes of an array, of two and of three dimensions. */
static inline size_t array_size(size_t a, size_t b) { return size_mul(a, b); }
static inline size_t array3_size(size_t a, size_t b, size_t c) {
    return size_mul(size_mul(a, b), c);
}

/* Bytes of a flexible array member with n elements. */
#define flex_array_size(p, member, n) size_mul(n, sizeof(*(p)->member))
/* Bytes of *p, or of a `type`, whose flexible array member has n elements. */
#define struct_size(p, member, n) size_add(sizeof(*(p)), flex_array_size(p, member, n))
#define struct_size_t(type, member, n) struct_size((type *)NULL, member, n)

#endif
