#include "dma/debug.h"

#include "tests/dma/soft.h"

#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {
namespace {

// What the debugged device says about what body(device, 8 KiB) does. The mode: by any way.
template <class F> test::child_end debugged(F body, pagoda_dma_mode mode = PAGODA_DMA_GRANULES) {
    return test::in_child([&] {
        auto *p = static_cast<char *>(kzalloc(8192, GFP_KERNEL));
        {
            test::soft_device dev;
            EXPECT_EQ(pagoda_dma_set_mode(dev, mode), 0);
            ASSERT_EQ(pagoda_dma_debug(dev, true), 0);
            body(dev, p);
        }
        kfree(p);
    });
}

// One line, which has these words.
#define EXPECT_SAYS(end, words)                                                                    \
    EXPECT_TRUE(test::succeeded(end));                                                             \
    EXPECT_TRUE((end).said(words)) << (end).errors;                                                \
    EXPECT_EQ((end).lines(), 1u) << (end).errors

constexpr pagoda_dma_mode kModes[] = {PAGODA_DMA_GRANULES, PAGODA_DMA_STRICT, PAGODA_DMA_BOUNCE};

TEST(Debug, CleanUseSaysNothing) {
    for (pagoda_dma_mode mode : kModes) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                for (int round = 0; round < 100; round++) {
                    dma_addr_t out = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
                    dma_addr_t again = dma_map_single(dev, p + 64, 64, DMA_TO_DEVICE);
                    dma_addr_t in = dma_map_single(dev, p + 4096, 4096, DMA_FROM_DEVICE);
                    dma_sync_single_range_for_cpu(dev, out, 100, 50, DMA_TO_DEVICE);
                    p[20] = static_cast<char>(round);
                    dma_sync_single_range_for_device(dev, out, 100, 50, DMA_TO_DEVICE);
                    dma_sync_single_for_cpu(dev, in, 4096, DMA_FROM_DEVICE);
                    p[5000]++;
                    dma_unmap_single(dev, again, 64, DMA_TO_DEVICE);
                    dma_unmap_single(dev, out, 4096, DMA_TO_DEVICE);
                    dma_unmap_single(dev, in, 4096, DMA_FROM_DEVICE);
                    scatterlist list[2];
                    sg_init_table(list, 2);
                    sg_set_buf(&list[0], p, 100);
                    sg_set_buf(&list[1], p + 4096, 100);
                    EXPECT_NE(dma_map_sg(dev, list, 2, DMA_BIDIRECTIONAL), 0u);
                    dma_unmap_sg(dev, list, 2, DMA_BIDIRECTIONAL);
                }
            },
            mode);
        EXPECT_TRUE(test::succeeded(end));
        EXPECT_EQ(end.errors, "");
    }
}

TEST(Debug, BeginsAndEndsWithNothingMapped) {
    test::child_end end = debugged([](device *dev, char *p) {
        EXPECT_EQ(pagoda_dma_debug(dev, true), 0);
        dma_addr_t at = dma_map_single(dev, p, 64, DMA_TO_DEVICE);
        EXPECT_EQ(pagoda_dma_debug(dev, false), -EBUSY);
        dma_unmap_single(dev, at, 64, DMA_TO_DEVICE);
        EXPECT_EQ(pagoda_dma_debug(dev, false), 0);
        at = dma_map_single(dev, p, 64, DMA_TO_DEVICE);
        p[0]++; // nobody looks
        dma_unmap_single(dev, at, 64, DMA_TO_DEVICE);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
}

TEST(Debug, NamesWhatIsUndoneTwice) {
    for (pagoda_dma_mode mode : kModes) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                dma_addr_t at = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
                dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
                dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
            },
            mode);
        EXPECT_SAYS(end, "is unmapped and is not mapped, or not any more");
    }
}

TEST(Debug, NamesAnotherSize) {
    for (pagoda_dma_mode mode : kModes) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                dma_addr_t at = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
                dma_unmap_single(dev, at, 100, DMA_TO_DEVICE);
            },
            mode);
        EXPECT_SAYS(end, "is unmapped with 100 bytes and was mapped with 4096");
    }
}

TEST(Debug, NamesAnotherDirection) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t at = dma_map_single(dev, p, 4096, DMA_FROM_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_BIDIRECTIONAL);
    });
    EXPECT_SAYS(end, "is unmapped DMA_BIDIRECTIONAL and was mapped DMA_FROM_DEVICE");
    end = debugged([](device *dev, char *p) {
        dma_addr_t at = dma_map_single(dev, p, 4096, DMA_FROM_DEVICE);
        dma_sync_single_for_cpu(dev, at, 4096, DMA_TO_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
    });
    EXPECT_SAYS(end, "is synchronised DMA_TO_DEVICE and was mapped DMA_FROM_DEVICE");
}

TEST(Debug, NamesWhatIsSynchronisedBeyondItsMapping) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t at = dma_map_single(dev, p, 4096, DMA_FROM_DEVICE);
        dma_sync_single_range_for_cpu(dev, at, 4000, 200, DMA_FROM_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
    });
    EXPECT_SAYS(end, "beyond the mapping of 4096");
}

TEST(Debug, NamesBuffersThatOverlap) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t in = dma_map_single(dev, p, 4096, DMA_FROM_DEVICE);
        dma_addr_t out = dma_map_single(dev, p + 4000, 200, DMA_TO_DEVICE);
        dma_unmap_single(dev, in, 4096, DMA_FROM_DEVICE);
        dma_unmap_single(dev, out, 200, DMA_TO_DEVICE);
    });
    EXPECT_SAYS(end, "are already, DMA_FROM_DEVICE");
}

TEST(Debug, NamesBuffersThatTheProcessorTouched) {
    for (pagoda_dma_mode mode : kModes) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                dma_addr_t at = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
                p[4095]++;
                dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
            },
            mode);
        EXPECT_SAYS(end, "were written by the processor while they were the device's");
    }
}

TEST(Debug, NamesWhatIsLeft) {
    test::child_end end = debugged(
        [](device *dev, char *p) { (void)dma_map_single(dev, p, 4096, DMA_BIDIRECTIONAL); });
    EXPECT_TRUE(end.said("DMA_BIDIRECTIONAL, mapped from 0x")) << end.errors;
    EXPECT_TRUE(end.said("are still mapped")) << end.errors;
    EXPECT_TRUE(end.said("closed with 1 streaming mappings")) << end.errors;
}

} // namespace
} // namespace pagoda::dma
