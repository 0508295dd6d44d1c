// Words that every layer uses: page geometry, small arithmetic, branch hints, invariant checks.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define PAGODA_LIKELY(x) __builtin_expect(!!(x), 1)
#define PAGODA_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PAGODA_NOINLINE __attribute__((noinline))
// For variables that other files read: no detour through the GOT.
#define PAGODA_INTERNAL __attribute__((visibility("hidden")))
// A C symbol of the library's interface.
#define PAGODA_EXPORT extern "C" __attribute__((visibility("default")))
#define PAGODA_COLD __attribute__((noinline, cold))

#ifndef PAGODA_DEBUG
#define PAGODA_DEBUG 0
#endif

namespace pagoda {

inline constexpr bool kDebug = PAGODA_DEBUG != 0;

// The allocator's page. The OS page may be larger (sys_page_size()): only purging looks at it.
inline constexpr unsigned kPageShift = 12;
inline constexpr size_t kPageSize = size_t{1} << kPageShift;

// A pageblock is the unit of huge pages and of giving memory back.
inline constexpr unsigned kPageblockOrder = 9;
inline constexpr unsigned kPageblockShift = kPageShift + kPageblockOrder;
inline constexpr size_t kPageblockSize = size_t{1} << kPageblockShift;
inline constexpr uint32_t kPageblockPages = 1u << kPageblockOrder;
inline constexpr unsigned kMaxPageOrder = 10;

constexpr uintptr_t align_up(uintptr_t x, uintptr_t a) { return (x + a - 1) & ~(a - 1); }
constexpr uintptr_t align_down(uintptr_t x, uintptr_t a) { return x & ~(a - 1); }
constexpr bool is_power_of_two(uintptr_t x) { return x != 0 && (x & (x - 1)) == 0; }
template <class T> constexpr T min_of(T a, T b) { return a < b ? a : b; }
template <class T> constexpr T max_of(T a, T b) { return a > b ? a : b; }

// Smallest order whose block holds `pages` pages; pages > 0.
constexpr unsigned order_of(uint64_t pages) {
    return pages <= 1 ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(pages - 1));
}

// Bits that are set. In line: the compiler's own is a function of libgcc's, far from ours.
constexpr uint32_t count_bits(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555;
    x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
    return static_cast<uint32_t>(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56);
}
static_assert(count_bits(0) == 0 && count_bits(~uint64_t{0}) == 64 && count_bits(0x8421) == 4);

constexpr unsigned log2_floor(uint64_t x) { return 63 - static_cast<unsigned>(__builtin_clzll(x)); }

// Ends the process with a line that names the broken invariant; never returns.
[[noreturn]] void invariant_failed(const char *what, const char *file, int line);

} // namespace pagoda

// An invariant of the allocator itself. Debug builds check it; release builds assume nothing.
#define PAGODA_INVARIANT(x)                                                                        \
    do {                                                                                           \
        if (::pagoda::kDebug && PAGODA_UNLIKELY(!(x)))                                             \
            ::pagoda::invariant_failed(#x, __FILE__, __LINE__);                                    \
    } while (0)
