#include "hugepage/watermark.h"

#include <gtest/gtest.h>

namespace pagoda {
namespace {

TEST(WatermarkTest, FollowsTheLowest) {
    EXPECT_EQ(watermark_of(0, watermark::high), 0u);
    EXPECT_EQ(watermark_of(100, watermark::min), 100u);
    EXPECT_EQ(watermark_of(100, watermark::low), 125u);
    EXPECT_EQ(watermark_of(100, watermark::high), 150u);
}

// What stays of a reserve of 512 pages, as a maintainer of the kernel would say it.
TEST(WatermarkTest, FloorsByFlags) {
    struct row {
        gfp_t gfp;
        uint64_t stays;
    };
    const row rows[] = {
        {0, 512},
        {GFP_NOWAIT, 512},
        {GFP_KERNEL, 512},
        {GFP_NOFS, 512},
        {GFP_NOIO, 512},
        {GFP_USER, 512},
        {GFP_HIGHUSER_MOVABLE, 512},
        {GFP_KERNEL | __GFP_NOFAIL, 512},
        {GFP_ATOMIC, 192},
        {GFP_ATOMIC | __GFP_ZERO | __GFP_NOWARN, 192},
        {__GFP_HIGH, 192},
        {GFP_KERNEL | __GFP_HIGH, 256},
        {GFP_NOIO | __GFP_HIGH, 256},
        {GFP_NOWAIT | __GFP_MEMALLOC, 0},
        {GFP_KERNEL | __GFP_MEMALLOC, 0},
        {GFP_ATOMIC | __GFP_MEMALLOC, 0},
        {GFP_ATOMIC | __GFP_NOMEMALLOC, 512},
        {GFP_KERNEL | __GFP_MEMALLOC | __GFP_NOMEMALLOC, 512},
        {GFP_ATOMIC | kGfpMayFault, 192},
    };
    for (const row &r : rows)
        EXPECT_EQ(reserve_floor(r.gfp, 512), r.stays) << std::hex << r.gfp;
    EXPECT_EQ(reserve_floor(GFP_ATOMIC, 0), 0u);
}

} // namespace
} // namespace pagoda
