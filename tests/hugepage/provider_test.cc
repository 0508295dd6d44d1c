#include "hugepage/provider.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
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

TEST(provider, options_reach_the_library_above) {
    EXPECT_TRUE(succeeded(in_child([] {
        EXPECT_EQ(pagoda_dma_debug_option(), 0);
        EXPECT_EQ(parse_options("dma_debug=on"), 0);
        EXPECT_EQ(pagoda_dma_debug_option(), 1);
        EXPECT_EQ(parse_options("dma_debug=guard"), 0);
        EXPECT_EQ(pagoda_dma_debug_option(), 2);
    })));
}

TEST(provider, a_misuse_that_was_told_is_one_more) {
    EXPECT_TRUE(succeeded(in_child([] {
        parse_options("on_error=report");
        pagoda_misuse_told();
        EXPECT_EQ(misuse_count(), 1u);
    })));
    EXPECT_EQ(in_child([] { pagoda_misuse_told(); }).signal(), SIGABRT);
}

} // namespace
} // namespace pagoda::test
