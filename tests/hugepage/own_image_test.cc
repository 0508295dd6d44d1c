#include "hugepage/own_image.h"

#include "tests/unit.h"

namespace pagoda {
namespace {

char untouched[64 * kPageSize];

TEST(OwnImageTest, HoldsMemoryAfterwards) {
    EXPECT_TRUE(test::succeeded(test::in_child([] {
        const char *page = reinterpret_cast<const char *>(
            align_up(reinterpret_cast<uintptr_t>(untouched), kPageSize));
        EXPECT_FALSE(test::resident(page + 40 * kPageSize));
        EXPECT_GE(populate_own_image(), sizeof untouched);
        for (int i = 0; i < 63; i++)
            EXPECT_TRUE(test::resident(page + i * kPageSize)) << i;
    })));
}

} // namespace
} // namespace pagoda
