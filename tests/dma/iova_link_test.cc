#include "dma/iova_link.h"

#include "tests/dma/soft.h"

#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <errno.h>

namespace pagoda::dma {
namespace {

using test::soft_device;

phys_addr_t phys(const void *p) { return reinterpret_cast<uintptr_t>(p); }

TEST(IovaLink, PiecesFormOneBuffer) {
    soft_device dev;
    auto *a = static_cast<char *>(kmalloc(8192, GFP_KERNEL));
    auto *b = static_cast<char *>(vmalloc(4096));
    auto *c = static_cast<char *>(kmalloc(8192, GFP_KERNEL));
    memset(a, 'a', 8192);
    memset(b, 'b', 4096);
    memset(c, 'c', 8192);
    // The last 5000 bytes of a, all of b, the first 300 of c.
    dma_iova_state state;
    size_t size = 5000 + 4096 + 300;
    ASSERT_TRUE(dma_iova_try_alloc(dev, &state, phys(a + 3192), size));
    EXPECT_TRUE(dma_use_iova(&state));
    EXPECT_EQ(dma_iova_size(&state), size);
    EXPECT_EQ(dev.reads(state.addr, 1), "") << "nothing is there yet";
    ASSERT_EQ(dma_iova_link(dev, &state, phys(a + 3192), 0, 5000, DMA_TO_DEVICE, 0), 0);
    ASSERT_EQ(dma_iova_link(dev, &state, phys(b), 5000, 4096, DMA_TO_DEVICE, 0), 0);
    ASSERT_EQ(dma_iova_link(dev, &state, phys(c), 9096, 300, DMA_TO_DEVICE, 0), 0);
    EXPECT_EQ(dma_iova_sync(dev, &state, 0, size), 0);
    EXPECT_EQ(dev.reads(state.addr, size),
              std::string(5000, 'a') + std::string(4096, 'b') + std::string(300, 'c'));
    EXPECT_NE(dev.writes(state.addr, "x"), 0) << "only to be read";
    dma_iova_unlink(dev, &state, 5000, 4096, DMA_TO_DEVICE, 0);
    EXPECT_EQ(dev.reads(state.addr + 5000, 1), "");
    EXPECT_EQ(dev.reads(state.addr + 4999, 1), "a");
    ASSERT_EQ(dma_iova_link(dev, &state, phys(b), 5000, 4096, DMA_TO_DEVICE, 0), 0);
    dma_addr_t at = state.addr;
    dma_iova_destroy(dev, &state, size, DMA_TO_DEVICE, 0);
    EXPECT_FALSE(dma_use_iova(&state));
    EXPECT_EQ(dev.reads(at, 1), "");
    EXPECT_EQ(dev.counters().mapped_bytes, 0u);
    kfree(a);
    vfree(b);
    kfree(c);
}

TEST(IovaLink, RefusesWhatDoesNotFit) {
    soft_device dev;
    auto *p = static_cast<char *>(vmalloc(4 * 4096));
    dma_iova_state state;
    ASSERT_TRUE(dma_iova_try_alloc(dev, &state, phys(p + 100), 8192));
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 101), 0, 10, DMA_TO_DEVICE, 0), -EIO)
        << "not as far into its page as the window";
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 100), 0, 8193, DMA_TO_DEVICE, 0), -EIO);
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p), 8193, 1, DMA_TO_DEVICE, 0), -EIO);
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 300), 200, 10, DMA_TO_DEVICE, 0), -EIO)
        << "in the middle of a page";
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 100), 0, 0, DMA_TO_DEVICE, 0), -EIO);
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 100), 0, 10, DMA_NONE, 0), -EIO);
    void *small = kmalloc(64, GFP_KERNEL);
    dma_iova_state other;
    ASSERT_TRUE(dma_iova_try_alloc(dev, &other, phys(small), 8192));
    EXPECT_EQ(dma_iova_link(dev, &other, phys(small), 0, 4096, DMA_TO_DEVICE, 0), -ERANGE);
    kfree(small);
    for (int error : {-ENOMEM, -ENOSPC}) {
        pagoda_software_fail_maps(dev, 0, 1, error);
        EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 100), 0, 100, DMA_TO_DEVICE, 0), error);
    }
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 100), 0, 100, DMA_TO_DEVICE, 0), 0);
    EXPECT_EQ(dma_iova_link(dev, &state, phys(p + 100), 0, 100, DMA_TO_DEVICE, 0), -EEXIST);
    dma_iova_destroy(dev, &state, 100, DMA_TO_DEVICE, 0);
    dma_iova_free(dev, &other);
    dma_iova_free(dev, &other); // a window that is not there
    vfree(p);
}

TEST(IovaLink, IsNotForDevicesWithoutIommu) {
    dma_iova_state state;
    pagoda_software_options options = {};
    options.no_iommu = true;
    soft_device direct(DMA_BIT_MASK(64), options);
    EXPECT_FALSE(dma_iova_try_alloc(direct, &state, 0, 4096));
    EXPECT_FALSE(dma_use_iova(&state));
    soft_device dev;
    EXPECT_FALSE(dma_iova_try_alloc(dev, &state, 0, 0));
    EXPECT_FALSE(dma_iova_try_alloc(dev, &state, 0, SIZE_MAX));
    EXPECT_FALSE(dma_iova_try_alloc(dev, &state, 0, size_t{1} << 45)) << "wider than the IOMMU";
    ASSERT_EQ(pagoda_dma_set_mode(dev, PAGODA_DMA_BOUNCE), 0);
    EXPECT_FALSE(dma_iova_try_alloc(dev, &state, 0, 4096));
}

TEST(IovaLink, PartOfAPieceIsNotTakenOut) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        auto *p = static_cast<char *>(vmalloc(8192));
        dma_iova_state state;
        ASSERT_TRUE(dma_iova_try_alloc(dev, &state, phys(p), 8192));
        ASSERT_EQ(dma_iova_link(dev, &state, phys(p), 0, 8192, DMA_TO_DEVICE, 0), 0);
        dma_iova_unlink(dev, &state, 0, 4096, DMA_TO_DEVICE, 0);
        dma_iova_unlink(dev, &state, 4096, 4096, DMA_TO_DEVICE, 0);
        EXPECT_EQ(dev.reads(state.addr, 8192).size(), 8192u);
        dma_iova_destroy(dev, &state, 8192, DMA_TO_DEVICE, 0);
        vfree(p);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("no piece of at most 4096 bytes")) << end.errors;
}

TEST(IovaLink, NothingOutsideOfTheWindowIsTakenOut) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        auto *p = static_cast<char *>(vmalloc(8192));
        dma_iova_state state;
        ASSERT_TRUE(dma_iova_try_alloc(dev, &state, phys(p), 4096));
        ASSERT_EQ(dma_iova_link(dev, &state, phys(p), 0, 4096, DMA_TO_DEVICE, 0), 0);
        dma_iova_unlink(dev, &state, 0, 8192, DMA_TO_DEVICE, 0);
        dma_iova_unlink(dev, &state, 8192, 4096, DMA_TO_DEVICE, 0);
        dma_iova_unlink(dev, &state, SIZE_MAX - 4095, 4096, DMA_TO_DEVICE, 0);
        EXPECT_EQ(dev.reads(state.addr, 4096).size(), 4096u);
        dma_iova_destroy(dev, &state, 4096, DMA_TO_DEVICE, 0);
        vfree(p);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("8192 bytes at offset 0 are unlinked from a window of 4096"))
        << end.errors;
}

// Neither memory nor addresses are another's as long as the device reaches the one at the other.
TEST(IovaLink, WhatTheIommuDoesNotLetGoOfStays) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        auto *p = static_cast<char *>(kmalloc(4096, GFP_KERNEL));
        dma_iova_state state, other;
        ASSERT_TRUE(dma_iova_try_alloc(dev, &state, phys(p), 4096));
        ASSERT_EQ(dma_iova_link(dev, &state, phys(p), 0, 4096, DMA_BIDIRECTIONAL, 0), 0);
        dma_addr_t at = state.addr;
        pagoda_software_fail_unmaps(dev, 0, 1, -EIO);
        dma_iova_destroy(dev, &state, 4096, DMA_BIDIRECTIONAL, 0);
        EXPECT_EQ(dev.writes(at, "late"), 0);
        for (int i = 0; i < 100; i++) {
            ASSERT_TRUE(dma_iova_try_alloc(dev, &other, phys(p), 4096));
            EXPECT_NE(other.addr, at);
        }
        kfree(p);
        for (int i = 0; i < 1000; i++)
            EXPECT_NE(kmalloc(4096, GFP_KERNEL), p);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_TRUE(end.said("stays mapped")) << end.errors;
    EXPECT_TRUE(end.said("freed with something linked in it")) << end.errors;
}

TEST(IovaLink, AForkChildIsRefused) {
    soft_device dev;
    auto *p = static_cast<char *>(vmalloc(4096));
    dma_iova_state state;
    ASSERT_TRUE(dma_iova_try_alloc(dev, &state, phys(p), 4096));
    test::child_end end = test::in_child([&] {
        dma_iova_state other;
        EXPECT_FALSE(dma_iova_try_alloc(dev, &other, phys(p), 4096));
        EXPECT_EQ(dma_iova_link(dev, &state, phys(p), 0, 4096, DMA_TO_DEVICE, 0), -ENODEV);
        dma_iova_destroy(dev, &state, 4096, DMA_TO_DEVICE, 0);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
    dma_iova_free(dev, &state);
    vfree(p);
}

} // namespace
} // namespace pagoda::dma
