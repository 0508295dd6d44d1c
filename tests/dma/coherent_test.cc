#include "dma/coherent.h"

#include "tests/dma/soft.h"

#include <pagoda/compat24.h>
#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {
namespace {

using test::error_says;
using test::soft_device;

bool zeroed(const void *p, size_t bytes) {
    auto *c = static_cast<const char *>(p);
    for (size_t i = 0; i < bytes; i++)
        if (c[i] != 0)
            return false;
    return true;
}

// First, and in a child: the device zones hold what devices of both kinds reach, so that a process
// has one kind of them.
TEST(CoherentWithoutIommu, IsOfAHugePageAtMost) {
    test::child_end end = test::in_child([] {
        pagoda_software_options options = {};
        options.no_iommu = true;
        soft_device dev(DMA_BIT_MASK(64), options);
        dma_addr_t at;
        for (size_t bytes : {100u, 8192u, 300000u}) {
            auto *p = static_cast<char *>(dma_alloc_coherent(dev, bytes, &at, GFP_KERNEL));
            ASSERT_NE(p, nullptr) << bytes << pagoda_device_error();
            EXPECT_TRUE(zeroed(p, bytes));
            EXPECT_EQ(dev.writes(at + bytes - 1, "x"), 0);
            EXPECT_EQ(p[bytes - 1], 'x');
            dma_free_coherent(dev, bytes, p, at);
        }
        EXPECT_EQ(dma_alloc_coherent(dev, 9u << 20, &at, GFP_KERNEL | __GFP_NOWARN), nullptr);
        EXPECT_EQ(at, DMA_MAPPING_ERROR);
    });
    EXPECT_TRUE(test::succeeded(end));
}

TEST(Coherent, IsSharedWithTheDevice) {
    soft_device dev;
    dma_addr_t at;
    auto *p = static_cast<char *>(dma_alloc_coherent(dev, 5000, &at, GFP_KERNEL));
    ASSERT_NE(p, nullptr) << pagoda_device_error();
    strcpy(p + 4990, "from here");
    EXPECT_STREQ(dev.reads(at + 4990, 10).c_str(), "from here");
    ASSERT_EQ(dev.writes(at + 100, "from there"), 0);
    EXPECT_STREQ(p + 100, "from there");
    dma_free_coherent(dev, 5000, p, at);
}

// Program's and device's address alike, up to 4 MiB; zeroed also where memory was used before.
TEST(Coherent, IsAlignedAndZeroed) {
    for (uint64_t mask : {DMA_BIT_MASK(28), DMA_BIT_MASK(32), DMA_BIT_MASK(64)}) {
        soft_device dev(mask);
        for (int round = 0; round < 2; round++)
            for (size_t bytes = 1; bytes <= 4u << 20; bytes += bytes / 3 + 1) {
                size_t block = size_t{4096} << get_order(bytes);
                dma_addr_t at;
                void *p = dma_alloc_coherent(dev, bytes, &at, GFP_KERNEL);
                ASSERT_NE(p, nullptr) << bytes << ": " << pagoda_device_error();
                EXPECT_EQ(reinterpret_cast<uintptr_t>(p) & (block - 1), 0u) << bytes;
                EXPECT_EQ(at & (block - 1), 0u) << bytes;
                EXPECT_LE(at + bytes - 1, mask);
                EXPECT_TRUE(zeroed(p, bytes)) << bytes;
                memset(p, 'x', bytes);
                dma_free_coherent(dev, bytes, p, at);
            }
    }
}

TEST(Coherent, BeyondABlockIsARegionOfItsOwn) {
    soft_device dev;
    constexpr size_t kBytes = (9u << 20) + 5;
    dma_addr_t at;
    auto *p = static_cast<char *>(dma_alloc_coherent(dev, kBytes, &at, GFP_KERNEL));
    ASSERT_NE(p, nullptr) << pagoda_device_error();
    EXPECT_EQ((reinterpret_cast<uintptr_t>(p) | at) & 4095, 0u);
    EXPECT_TRUE(zeroed(p, kBytes));
    ASSERT_EQ(dev.writes(at + kBytes - 1, "x"), 0);
    EXPECT_EQ(p[kBytes - 1], 'x');
    uint64_t before = dev.counters().mapped_bytes;
    dma_free_coherent(dev, kBytes, p, at);
    EXPECT_EQ(dev.counters().mapped_bytes, before - ((9u << 20) + 4096));
}

TEST(Coherent, ZoneBitsAreIgnoredAndCompoundPagesRefused) {
    soft_device dev;
    dma_addr_t at;
    void *p = dma_alloc_coherent(dev, 100, &at, GFP_KERNEL | GFP_DMA);
    ASSERT_NE(p, nullptr);
    dma_free_coherent(dev, 100, p, at);
    EXPECT_EQ(dma_alloc_coherent(dev, 100, &at, GFP_KERNEL | __GFP_COMP | __GFP_NOWARN), nullptr);
    EXPECT_EQ(dma_alloc_coherent(dev, 0, &at, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(dma_alloc_coherent(dev, SIZE_MAX, &at, GFP_KERNEL | __GFP_NOWARN), nullptr);
}

TEST(Coherent, AtomicTakesWhatThereIs) {
    soft_device dev;
    dma_addr_t first, second;
    void *p = dma_alloc_coherent(dev, 4096, &first, GFP_KERNEL);
    ASSERT_NE(p, nullptr);
    void *q = dma_alloc_coherent(dev, 4096, &second, GFP_ATOMIC);
    ASSERT_NE(q, nullptr) << "the zone has more pages than that";
    EXPECT_TRUE(zeroed(q, 4096));
    dma_addr_t third;
    EXPECT_EQ(dma_alloc_coherent(dev, 9u << 20, &third, GFP_ATOMIC | __GFP_NOWARN), nullptr);
    dma_free_coherent(dev, 4096, q, second);
    dma_free_coherent(dev, 4096, p, first);
}

TEST(Coherent, FreeChecksWhatItIsGiven) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        dma_addr_t at;
        void *p = dma_alloc_coherent(dev, 8192, &at, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        memset(p, 'x', 8192);
        dma_free_coherent(dev, 4096, p, at);                   // another size
        dma_free_coherent(dev, 8192, p, at + 4096);            // another handle
        dma_free_coherent(dev, 8192, &at, at);                 // another address
        dma_free_noncoherent(dev, 8192, p, at, DMA_TO_DEVICE); // another kind
        EXPECT_EQ(dev.reads(at, 8192), std::string(8192, 'x')) << "it is all there";
        dma_free_coherent(dev, 8192, p, at);
        dma_free_coherent(dev, 8192, p, at); // twice
        dma_free_coherent(dev, 8192, nullptr, 0);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 5u) << end.errors;
    EXPECT_TRUE(end.said("with 4096 bytes and was allocated with 8192")) << end.errors;
}

TEST(Coherent, WhatTheIommuDoesNotLetGoOfStays) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        dma_addr_t at = 0;
        size_t bytes = 9u << 20;
        auto *p = static_cast<char *>(dma_alloc_coherent(dev, bytes, &at, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        pagoda_software_fail_unmaps(dev, 0, 1, -EIO);
        dma_free_coherent(dev, bytes, p, at);
        EXPECT_EQ(dev.writes(at, "late"), 0);
        EXPECT_STREQ(p, "late") << "the memory is there";
        dma_free_coherent(dev, bytes, p, at);
        EXPECT_EQ(dev.writes(at, "too late"), -EFAULT);
        EXPECT_EQ(dev.counters().mapped_bytes, 0u);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    EXPECT_TRUE(end.said("stays mapped")) << end.errors;
}

TEST(Coherent, FailureIsOneLine) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        dma_addr_t at = 0;
        pagoda_software_fail_maps(dev, 0, 1000, -ENOMEM);
        EXPECT_EQ(dma_alloc_coherent(dev, 9u << 20, &at, GFP_KERNEL | __GFP_NOWARN), nullptr);
        EXPECT_EQ(dma_alloc_attrs(dev, 9u << 20, &at, GFP_KERNEL, DMA_ATTR_NO_WARN), nullptr);
        EXPECT_EQ(dma_alloc_attrs(dev, 9u << 20, &at, GFP_KERNEL | __GFP_NOWARN, 0), nullptr);
        EXPECT_EQ(dmam_alloc_attrs(dev, 9u << 20, &at, GFP_KERNEL | __GFP_NOWARN, 0), nullptr);
        EXPECT_EQ(dma_alloc_coherent(dev, 9u << 20, &at, GFP_KERNEL), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_EQ(at, DMA_MAPPING_ERROR);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    EXPECT_TRUE(end.said("no memory of 9437184 bytes within the mask"));
}

TEST(Coherent, AForkChildIsRefused) {
    soft_device dev;
    dma_addr_t at;
    void *p = dma_alloc_wc(dev, 4096, &at, GFP_KERNEL);
    ASSERT_NE(p, nullptr);
    test::child_end end = test::in_child([&] {
        dma_addr_t other;
        EXPECT_EQ(dma_alloc_coherent(dev, 4096, &other, GFP_KERNEL | __GFP_NOWARN), nullptr);
        EXPECT_TRUE(error_says("fork"));
        dma_free_wc(dev, 4096, p, at);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
    EXPECT_EQ(dev.writes(at, "still there"), 0);
    dma_free_wc(dev, 4096, p, at);
}

TEST(Coherent, ManagedMemoryGoesWithTheDevice) {
    test::child_end end = test::in_child([] {
        pagoda_software_options options = {};
        soft_device first;
        options.beside = first.get();
        dma_addr_t at, small;
        {
            soft_device dev(DMA_BIT_MASK(64), options); // the space outlives it
            void *p = dmam_alloc_coherent(dev, 9u << 20, &at, GFP_KERNEL);
            void *q = dmam_alloc_coherent(dev, 100, &small, GFP_KERNEL);
            ASSERT_NE(p, nullptr);
            ASSERT_NE(q, nullptr);
            dmam_free_coherent(dev, 200, q, small); // another size
            EXPECT_EQ(dev.writes(small, "x"), 0);
            dmam_free_coherent(dev, 100, q, small);
            dmam_free_coherent(dev, 100, q, small); // twice
            dmam_free_coherent(dev, 100, nullptr, 0);
            EXPECT_EQ(dev.writes(at, "x"), 0);
            EXPECT_EQ(dmam_alloc_coherent(dev, 0, &small, GFP_KERNEL | __GFP_NOWARN), nullptr);
            EXPECT_EQ(small, DMA_MAPPING_ERROR);
        }
        EXPECT_EQ(first.writes(at, "x"), -EFAULT) << "it is unmapped";
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("is not managed memory")) << end.errors;
}

TEST(Coherent, OldNames) {
    soft_device dev;
    pci_dev of_a_bus = {};
    of_a_bus.dev = *dev.get();
    dma_addr_t at;
    void *p = dma_alloc_coherent(dev, 100, &at, GFP_KERNEL); // there is memory after this
    dma_free_coherent(dev, 100, p, at);
    p = pci_alloc_consistent(&of_a_bus, 100, &at);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(dev.reads(at, 100), std::string(100, 0));
    pci_free_consistent(&of_a_bus, 100, p, at);
    p = usb_buffer_alloc(dev, 100, GFP_KERNEL, &at);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(dev.reads(at, 100), std::string(100, 0));
    usb_buffer_free(dev, 100, p, at);
}

// Streaming mappings of a part of it, or of dma_alloc_pages(), which is the same memory.
TEST(Coherent, SeveralPagesAreMappedAsOneBuffer) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        dma_addr_t handle, next;
        auto *p = static_cast<char *>(dma_alloc_coherent(dev, 5 * 4096, &handle, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        constexpr size_t kBytes = 3 * 4096;
        dma_addr_t at = dma_map_single(dev, p + 100, kBytes, DMA_BIDIRECTIONAL);
        ASSERT_EQ(at, handle + 100) << pagoda_device_error();
        dma_addr_t page_at = dma_map_page(dev, virt_to_page(p), 4096, 2 * 4096, DMA_BIDIRECTIONAL);
        ASSERT_EQ(page_at, handle + 4096) << pagoda_device_error();
        dma_unmap_page(dev, page_at, 2 * 4096, DMA_BIDIRECTIONAL);
        dma_free_coherent(dev, 5 * 4096, p, handle);
        auto *q = static_cast<char *>(dma_alloc_coherent(dev, 5 * 4096, &next, GFP_KERNEL));
        ASSERT_NE(q, nullptr);
        memset(q, 'q', 5 * 4096);
        ASSERT_EQ(dev.writes(at, std::string(kBytes, 'd')), 0);
        EXPECT_EQ(std::string(q, 5 * 4096), std::string(5 * 4096, 'q')) << "the device's still";
        dma_unmap_single(dev, at, kBytes, DMA_BIDIRECTIONAL);
        dma_free_coherent(dev, 5 * 4096, q, next);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 4u) << end.errors; // one for each page that it lies on
    EXPECT_TRUE(end.said("that a device uses")) << end.errors;
}

TEST(Coherent, PagesForStreaming) {
    soft_device dev(DMA_BIT_MASK(28));
    dma_addr_t at;
    struct page *page = dma_alloc_pages(dev, 8192, &at, DMA_BIDIRECTIONAL, GFP_KERNEL);
    ASSERT_NE(page, nullptr) << pagoda_device_error();
    auto *p = static_cast<char *>(page_address(page));
    EXPECT_TRUE(zeroed(p, 8192));
    EXPECT_LE(at + 8191, DMA_BIT_MASK(28));
    ASSERT_EQ(dev.writes(at + 8000, "x"), 0);
    dma_sync_single_for_cpu(dev, at, 8192, DMA_FROM_DEVICE);
    EXPECT_EQ(p[8000], 'x');
    EXPECT_FALSE(dma_need_sync(dev, at));
    dma_free_pages(dev, 8192, page, at, DMA_BIDIRECTIONAL);
    void *q = dma_alloc_noncoherent(dev, 100, &at, DMA_TO_DEVICE, GFP_KERNEL);
    ASSERT_NE(q, nullptr);
    dma_free_noncoherent(dev, 100, q, at, DMA_TO_DEVICE);
    gfp_t quiet = GFP_KERNEL | __GFP_NOWARN;
    EXPECT_EQ(dma_alloc_pages(dev, 100, &at, DMA_TO_DEVICE, quiet | GFP_DMA), nullptr);
    EXPECT_EQ(dma_alloc_pages(dev, 100, &at, DMA_NONE, quiet), nullptr);
    EXPECT_EQ(dma_alloc_pages(dev, 100, &at, DMA_TO_DEVICE, quiet | __GFP_COMP), nullptr);
    EXPECT_EQ(dma_alloc_pages(dev, (4u << 20) + 1, &at, DMA_TO_DEVICE, quiet), nullptr);
    EXPECT_EQ(dma_alloc_noncoherent(dev, 0, &at, DMA_TO_DEVICE, quiet), nullptr);
}

} // namespace
} // namespace pagoda::dma
