#include "hugepage/provider.h"

#include "tests/unit.h"

#include <errno.h>

namespace pagoda::test {
namespace {

TEST(provider, there_is_one_at_most) {
    EXPECT_TRUE(succeeded(in_child([] {
        static const pagoda_dma_provider first = {};
        static const pagoda_dma_provider second = {};
        EXPECT_EQ(dma_provider(), nullptr);
        EXPECT_EQ(pagoda_dma_register(&first), 0);
        EXPECT_EQ(dma_provider(), &first);
        EXPECT_EQ(pagoda_dma_register(&second), -EBUSY);
        EXPECT_EQ(dma_provider(), &first);
    })));
}

} // namespace
} // namespace pagoda::test
