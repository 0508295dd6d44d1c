// A device with dma-debug in a child, which reports and goes on, and what it says.
#pragma once

#include "hugepage/options.h"
#include "tests/dma/soft.h"

#include <pagoda/slab.h>

namespace pagoda::test {

inline constexpr size_t kDebugged = 65536; // of the buffer

// What the debugged device says about what body(device, 64 KiB of zeros) does. The mode: by any
// way.
template <class F>
child_end debugged(F body, pagoda_dma_debug_level level = PAGODA_DMA_DEBUG_ON,
                   pagoda_dma_mode mode = PAGODA_DMA_GRANULES) {
    return in_child([&] {
        parse_options("on_error=report");
        auto *p = static_cast<char *>(kzalloc(kDebugged, GFP_KERNEL));
        {
            soft_device dev;
            EXPECT_EQ(pagoda_dma_set_mode(dev, mode), 0);
            ASSERT_EQ(pagoda_dma_debug(dev, level), 0);
            body(dev, p);
        }
        kfree(p);
    });
}

// A mapping that was asked whether it is one.
[[gnu::always_inline]] inline dma_addr_t map_well(device *dev, void *p, size_t bytes,
                                                  dma_data_direction dir) {
    dma_addr_t at = dma_map_single(dev, p, bytes, dir);
    EXPECT_EQ(dma_mapping_error(dev, at), 0) << pagoda_device_error();
    return at;
}

// A pattern of call sites in this program.
inline constexpr char kSite[] = "0x[0-9a-f]+ \\([^)]+\\+0x[0-9a-f]+[^)]*\\)";

// It ended well and said nothing, or one line with these words.
inline ::testing::AssertionResult says_nothing(const child_end &end) {
    return end.errors.empty() ? succeeded(end) : ::testing::AssertionFailure() << end.errors;
}
inline ::testing::AssertionResult says(const child_end &end, const char *words) {
    return end.said(words) && end.lines() == 1 ? succeeded(end)
                                               : ::testing::AssertionFailure() << end.errors;
}

} // namespace pagoda::test

#define EXPECT_SAYS(end, words) EXPECT_TRUE(test::says(end, words))
#define EXPECT_SAYS_NOTHING(end) EXPECT_TRUE(test::says_nothing(end))
