#include "dma/masks.h"

#include "tests/dma/soft.h"

#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {
namespace {

using test::soft_device;

TEST(Masks, AreThirtyTwoBitsUntilSet) {
    device *dev = pagoda_software_device(nullptr);
    ASSERT_NE(dev, nullptr);
    EXPECT_EQ(dma_get_mask(dev), DMA_BIT_MASK(32));
    EXPECT_EQ(dev->state->coherent_mask, DMA_BIT_MASK(32));
    EXPECT_EQ(dma_set_mask(dev, DMA_BIT_MASK(48)), 0);
    EXPECT_EQ(dma_get_mask(dev), DMA_BIT_MASK(48));
    EXPECT_EQ(dev->state->coherent_mask, DMA_BIT_MASK(32));
    EXPECT_EQ(dma_set_coherent_mask(dev, DMA_BIT_MASK(28)), 0);
    EXPECT_EQ(dma_get_mask(dev), DMA_BIT_MASK(48));
    EXPECT_EQ(dev->state->coherent_mask, DMA_BIT_MASK(28));
    EXPECT_EQ(dma_coerce_mask_and_coherent(dev, DMA_BIT_MASK(40)), 0);
    EXPECT_EQ(dma_get_mask(dev), DMA_BIT_MASK(40));
    EXPECT_EQ(dev->state->coherent_mask, DMA_BIT_MASK(40));
    pagoda_device_close(dev);
}

TEST(Masks, SucceedFrom24BitsOn) {
    soft_device dev;
    for (unsigned bits = 24; bits <= 64; bits++)
        EXPECT_EQ(dma_set_mask_and_coherent(dev, DMA_BIT_MASK(bits)), 0) << bits;
    for (unsigned long long mask : {DMA_BIT_MASK(23), 0ULL, 1ULL, DMA_BIT_MASK(32) - 1, 1ULL << 32})
        EXPECT_EQ(dma_set_mask_and_coherent(dev, mask), -EIO) << mask;
    EXPECT_EQ(dma_get_mask(dev), DMA_BIT_MASK(64)) << "a refused mask changes nothing";
    EXPECT_TRUE(test::error_says("24 to 64 low bits"));
}

TEST(Masks, BelowTheIommusAddressesAreRefused) {
    uint64_t first = uint64_t{1} << 30, last = (uint64_t{1} << 40) - 1;
    pagoda_software_options options = {};
    options.window_first = &first;
    options.window_last = &last;
    options.windows = 1;
    soft_device dev(DMA_BIT_MASK(64), options);
    EXPECT_EQ(dma_set_mask(dev, DMA_BIT_MASK(28)), -EIO);
    EXPECT_TRUE(test::error_says("no addresses within the mask"));
    EXPECT_EQ(dma_set_mask(dev, DMA_BIT_MASK(31)), 0);
}

TEST(Masks, WhatIsRequired) {
    soft_device dev;
    uint64_t needed = dma_get_required_mask(dev);
    EXPECT_EQ(needed, DMA_BIT_MASK(39)) << "heap memory lies in the upper half of the 39 bits";
    void *object = kmalloc(100, GFP_KERNEL);
    for (uint64_t mask : {needed, needed >> 1}) {
        EXPECT_EQ(dma_set_mask(dev, mask), 0);
        EXPECT_EQ(dma_addressing_limited(dev), mask != needed);
        dma_addr_t at = dma_map_single(dev, object, 100, DMA_TO_DEVICE);
        if (mask == needed) {
            EXPECT_FALSE(dma_need_sync(dev, at));
        }
        dma_unmap_single(dev, at, 100, DMA_TO_DEVICE);
    }
    kfree(object);
    pagoda_software_options options = {};
    uint64_t first = 0, last = UINT32_MAX;
    options.window_first = &first;
    options.window_last = &last;
    options.windows = 1;
    soft_device low(DMA_BIT_MASK(64), options);
    EXPECT_EQ(dma_get_required_mask(low), DMA_BIT_MASK(32));
    EXPECT_FALSE(dma_addressing_limited(low));
    EXPECT_EQ(dma_set_mask(low, DMA_BIT_MASK(31)), 0);
    EXPECT_TRUE(dma_addressing_limited(low));
    options = {};
    options.no_iommu = true;
    soft_device direct(DMA_BIT_MASK(64), options);
    uint64_t required = dma_get_required_mask(direct);
    EXPECT_EQ(required & (required + 1), 0u);
    EXPECT_GE(required, static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * 4096);
    EXPECT_FALSE(dma_addressing_limited(direct));
}

TEST(Masks, SizesOfMappings) {
    soft_device dev;
    EXPECT_EQ(dma_max_mapping_size(dev), SIZE_MAX);
    EXPECT_EQ(dma_opt_mapping_size(dev), 128u << 10);
    EXPECT_EQ(dma_get_merge_boundary(dev), 4095u);
    EXPECT_EQ(dma_get_cache_alignment(), 1);
    pagoda_software_options options = {};
    options.no_iommu = true;
    soft_device direct(DMA_BIT_MASK(64), options);
    EXPECT_EQ(dma_max_mapping_size(direct), 256u << 10);
    dma_set_min_align_mask(direct, 4095);
    EXPECT_EQ(dma_max_mapping_size(direct), (256u << 10) - 4096);
    dma_set_min_align_mask(direct, (192u << 10) - 1);
    EXPECT_EQ(dma_opt_mapping_size(direct), 64u << 10);
    EXPECT_EQ(dma_get_merge_boundary(direct), 0u);
}

TEST(Masks, LimitsAreKeptApart) {
    soft_device dev;
    EXPECT_EQ(dma_get_max_seg_size(dev), 65536u);
    EXPECT_EQ(dma_get_seg_boundary(dev), ~0UL);
    EXPECT_EQ(dma_get_min_align_mask(dev), 0u);
    dma_set_max_seg_size(dev, 4096);
    dma_set_seg_boundary(dev, 0xffff);
    dma_set_min_align_mask(dev, 0xfff);
    EXPECT_EQ(dma_get_max_seg_size(dev), 4096u);
    EXPECT_EQ(dma_get_seg_boundary(dev), 0xffffu);
    EXPECT_EQ(dma_get_seg_boundary_nr_pages(dev, 12), 16u);
    EXPECT_EQ(dma_get_min_align_mask(dev), 0xfffu);
}

} // namespace
} // namespace pagoda::dma
