#include "lib/gfp_words.h"

#include "tests/unit.h"

namespace pagoda::test {
namespace {

std::string words(gfp_t gfp) {
    text_buffer<600> t;
    describe_gfp(t, gfp);
    return std::string(t.data(), t.size());
}

TEST(gfp_words, composed_names_come_first) {
    EXPECT_EQ(words(GFP_KERNEL), "0xcc0(GFP_KERNEL)");
    EXPECT_EQ(words(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN),
              "0x2dc0(GFP_KERNEL|__GFP_ZERO|__GFP_NOWARN)");
    EXPECT_EQ(words(GFP_ATOMIC), "0x820(GFP_ATOMIC)");
    EXPECT_EQ(words(GFP_NOWAIT), "0x2800(GFP_NOWAIT)");
    EXPECT_EQ(words(GFP_HIGHUSER_MOVABLE), "0x100cca(GFP_HIGHUSER_MOVABLE)");
    EXPECT_EQ(words(GFP_KERNEL_ACCOUNT), "0x400cc0(GFP_KERNEL_ACCOUNT)");
    EXPECT_EQ(words(0), "0x0(0)");
    EXPECT_EQ(words(1u << 31), "0x80000000(0x80000000)");
    EXPECT_EQ(words(GFP_NOIO | 1u << 9), "0xe00(GFP_NOIO|0x200)");
}

// Every single flag has a name of its own, and no two the same.
TEST(gfp_words, every_bit) {
    std::string seen;
    for (unsigned bit = 0; bit < __GFP_BITS_SHIFT; bit++) {
        if (bit == 9) // no flag has it
            continue;
        std::string all = words(1u << bit);
        std::string name = all.substr(all.find('('));
        EXPECT_NE(name.find("GFP_"), std::string::npos) << all;
        EXPECT_EQ(seen.find(name), std::string::npos) << all;
        seen += name;
    }
}

} // namespace
} // namespace pagoda::test
