#include "dma/noncontiguous.h"

#include "tests/dma/soft.h"

#include <pagoda/memblock.h>
#include <pagoda/scatterlist.h>

namespace pagoda::dma {
namespace {

using test::soft_device;

TEST(Noncontiguous, IsOnePieceForTheDevice) {
    soft_device dev;
    for (size_t bytes : {100u, 70000u, 9u << 20}) {
        sg_table *table = dma_alloc_noncontiguous(dev, bytes, DMA_BIDIRECTIONAL, GFP_KERNEL, 0);
        ASSERT_NE(table, nullptr) << pagoda_device_error();
        EXPECT_EQ(table->nents, 1u);
        EXPECT_EQ(sg_dma_len(table->sgl), bytes);
        auto *p = static_cast<char *>(dma_vmap_noncontiguous(dev, bytes, table));
        EXPECT_EQ(std::string(p, bytes), std::string(bytes, 0));
        ASSERT_EQ(dev.writes(sg_dma_address(table->sgl) + bytes - 5, "there"), 0);
        EXPECT_EQ(std::string(p + bytes - 5, 5), "there");
        EXPECT_EQ(dma_vmap_noncontiguous(dev, bytes + 1, table), nullptr);
        dma_vunmap_noncontiguous(dev, p);
        dma_free_noncontiguous(dev, bytes, table, DMA_BIDIRECTIONAL);
    }
}

// For the device as for the program. In a child, with which it ends.
TEST(Noncontiguous, MemorySetAsideIsInOnePiece) {
    test::child_end end = test::in_child([] {
        constexpr size_t kBytes = 64u << 20;
        ASSERT_EQ(pagoda_boot_reserve(kBytes), 0);
        ASSERT_EQ(pagoda_contig_reserve(kBytes), 0);
        soft_device dev;
        for (void *taken :
             {memblock_alloc(kBytes / 2, 4096), pagoda_contig_alloc(kBytes / 2, 4096)}) {
            ASSERT_NE(taken, nullptr);
            auto *p = static_cast<char *>(taken);
            uint64_t calls = dev.counters().map_calls;
            dma_addr_t at = dma_map_single(dev, p, kBytes / 2, DMA_BIDIRECTIONAL);
            ASSERT_NE(at, DMA_MAPPING_ERROR) << pagoda_device_error();
            EXPECT_EQ(dev.counters().map_calls, calls + 1);
            EXPECT_FALSE(dma_need_sync(dev, at));
            for (size_t i = 0; i < kBytes / 2; i += 1u << 20) {
                p[i] = static_cast<char>(i >> 20);
                ASSERT_EQ(dev.reads(at + i, 1), std::string(1, p[i])) << i;
            }
            ASSERT_EQ(dev.writes(at + kBytes / 2 - 1, "x"), 0);
            EXPECT_EQ(p[kBytes / 2 - 1], 'x');
            dma_unmap_single(dev, at, kBytes / 2, DMA_BIDIRECTIONAL);
        }
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
}

TEST(Noncontiguous, RefusesWhatCannotBe) {
    soft_device dev;
    gfp_t quiet = GFP_KERNEL | __GFP_NOWARN;
    EXPECT_EQ(dma_alloc_noncontiguous(dev, 0, DMA_TO_DEVICE, quiet, 0), nullptr);
    EXPECT_EQ(dma_alloc_noncontiguous(dev, 100, DMA_NONE, quiet, 0), nullptr);
    EXPECT_EQ(dma_alloc_noncontiguous(dev, 100, DMA_TO_DEVICE, quiet | GFP_DMA, 0), nullptr);
    EXPECT_EQ(dma_alloc_noncontiguous(dev, 100, DMA_TO_DEVICE, quiet | __GFP_COMP, 0), nullptr);
    EXPECT_EQ(dma_alloc_noncontiguous(dev, size_t{1} << 32, DMA_TO_DEVICE, quiet, 0), nullptr);
    EXPECT_TRUE(test::error_says("4 GiB"));
    pagoda_software_fail_maps(dev, 0, 100, -ENOMEM);
    EXPECT_EQ(dma_alloc_noncontiguous(dev, 9u << 20, DMA_TO_DEVICE, quiet, 0), nullptr);
    dma_free_noncontiguous(dev, 100, nullptr, DMA_TO_DEVICE);
}

TEST(Noncontiguous, SaysWhatIsWrong) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        EXPECT_EQ(dma_alloc_noncontiguous(dev, 0, DMA_TO_DEVICE, GFP_KERNEL, 0), nullptr);
        sg_table *table = dma_alloc_noncontiguous(dev, 100, DMA_TO_DEVICE, GFP_KERNEL, 0);
        ASSERT_NE(table, nullptr);
        dma_free_noncontiguous(dev, 101, table, DMA_TO_DEVICE);
        dma_free_noncontiguous(dev, 100, table, DMA_TO_DEVICE);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("with 101 bytes")) << end.errors;
}

} // namespace
} // namespace pagoda::dma
