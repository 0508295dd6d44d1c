#include "dma/noncontiguous.h"

#include "tests/dma/soft.h"

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
