#include "dma/io.h"

#include "hugepage/base.h"

#include <string.h>

namespace pagoda::dma {
namespace {

constexpr size_t kWord = 4;

// Calls access(width, done) for each piece: 1 and 2 bytes up to a multiple of 4, 4 bytes, 2 and 1.
template <class F> void in_pieces(uintptr_t device, size_t count, F access) {
    for (size_t done = 0; done < count;) {
        uintptr_t at = device + done;
        size_t left = count - done;
        size_t width = at % kWord == 0 && left >= kWord ? kWord : at % 2 == 0 && left >= 2 ? 2 : 1;
        access(width, done);
        done += width;
    }
}

} // namespace
} // namespace pagoda::dma

using pagoda::dma::in_pieces;

PAGODA_EXPORT void pagoda_memcpy_fromio(void *to, const volatile void *from, size_t count) {
    auto *bytes = static_cast<char *>(to);
    auto *device = static_cast<const volatile char *>(from);
    in_pieces(reinterpret_cast<uintptr_t>(from), count, [=](size_t width, size_t done) {
        uint32_t value = width == 4   ? readl_relaxed(device + done)
                         : width == 2 ? readw_relaxed(device + done)
                                      : readb_relaxed(device + done);
        memcpy(bytes + done, &value, width);
    });
    PAGODA_IO_AFTER_READ();
}

PAGODA_EXPORT void pagoda_memcpy_toio(volatile void *to, const void *from, size_t count) {
    auto *bytes = static_cast<const char *>(from);
    auto *device = static_cast<volatile char *>(to);
    PAGODA_IO_BEFORE_WRITE();
    in_pieces(reinterpret_cast<uintptr_t>(to), count, [=](size_t width, size_t done) {
        uint32_t value = 0;
        memcpy(&value, bytes + done, width);
        if (width == 4)
            writel_relaxed(value, device + done);
        else if (width == 2)
            writew_relaxed(static_cast<uint16_t>(value), device + done);
        else
            writeb_relaxed(static_cast<uint8_t>(value), device + done);
    });
}

PAGODA_EXPORT void pagoda_memset_io(volatile void *at, int value, size_t count) {
    auto *device = static_cast<volatile char *>(at);
    uint32_t word = static_cast<uint8_t>(value) * 0x01010101u;
    PAGODA_IO_BEFORE_WRITE();
    in_pieces(reinterpret_cast<uintptr_t>(at), count, [=](size_t width, size_t done) {
        if (width == 4)
            writel_relaxed(word, device + done);
        else if (width == 2)
            writew_relaxed(static_cast<uint16_t>(word), device + done);
        else
            writeb_relaxed(static_cast<uint8_t>(word), device + done);
    });
}
