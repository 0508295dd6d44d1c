#include "dma/complain.h"

#include "tests/unit.h"

#include <errno.h>

namespace pagoda::dma {
namespace {

TEST(Complain, IsOneLineOnStderr) {
    test::child_end end = test::in_child([] {
        errno = EXDEV;
        complain("the address %#x is nobody's", 0x1000);
        EXPECT_EQ(errno, EXDEV);
    });
    EXPECT_EQ(end.errors, "pagoda: dma: the address 0x1000 is nobody's\n");
}

TEST(Complain, CutsWhatIsTooLong) {
    test::child_end end = test::in_child([] { complain("%s", std::string(1000, 'x').c_str()); });
    EXPECT_EQ(end.lines(), 1u);
    EXPECT_GT(end.errors.size(), 300u);
    EXPECT_EQ(end.errors.back(), '\n');
}

} // namespace
} // namespace pagoda::dma
