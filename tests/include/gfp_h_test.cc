#include <pagoda/gfp.h>

#include <gtest/gtest.h>

namespace {

TEST(Gfp, ValuesAreLinux618s) {
    static_assert(__GFP_DMA == 1u << 0 && __GFP_HIGHMEM == 1u << 1 && __GFP_DMA32 == 1u << 2);
    static_assert(__GFP_MOVABLE == 1u << 3 && __GFP_RECLAIMABLE == 1u << 4);
    static_assert(__GFP_HIGH == 1u << 5 && __GFP_IO == 1u << 6 && __GFP_FS == 1u << 7);
    static_assert(__GFP_ZERO == 1u << 8 && __GFP_DIRECT_RECLAIM == 1u << 10);
    static_assert(__GFP_KSWAPD_RECLAIM == 1u << 11 && __GFP_WRITE == 1u << 12);
    static_assert(__GFP_NOWARN == 1u << 13 && __GFP_RETRY_MAYFAIL == 1u << 14);
    static_assert(__GFP_NOFAIL == 1u << 15 && __GFP_NORETRY == 1u << 16);
    static_assert(__GFP_MEMALLOC == 1u << 17 && __GFP_COMP == 1u << 18);
    static_assert(__GFP_NOMEMALLOC == 1u << 19 && __GFP_HARDWALL == 1u << 20);
    static_assert(__GFP_THISNODE == 1u << 21 && __GFP_ACCOUNT == 1u << 22);
    static_assert(__GFP_ZEROTAGS == 1u << 23 && __GFP_NO_OBJ_EXT == 1u << 24);
    EXPECT_EQ(__GFP_BITS_MASK, (1u << 25) - 1);
}

// By bit numbers, so that both sides do not come from the same header.
constexpr unsigned bits() { return 0; }
template <class... More> constexpr unsigned bits(int first, More... more) {
    return 1u << first | bits(more...);
}

TEST(Gfp, TypesAreComposedAsTheKernelComposesThem) {
    static_assert(__GFP_RECLAIM == bits(10, 11));
    static_assert(GFP_ATOMIC == bits(5, 11));
    static_assert(GFP_KERNEL == bits(6, 7, 10, 11));
    static_assert(GFP_KERNEL_ACCOUNT == bits(6, 7, 10, 11, 22));
    static_assert(GFP_NOWAIT == bits(11, 13));
    static_assert(GFP_NOIO == bits(10, 11));
    static_assert(GFP_NOFS == bits(6, 10, 11));
    static_assert(GFP_USER == bits(6, 7, 10, 11, 20));
    static_assert(GFP_DMA == bits(0));
    static_assert(GFP_DMA32 == bits(2));
    static_assert(GFP_HIGHUSER == bits(1, 6, 7, 10, 11, 20));
    static_assert(GFP_HIGHUSER_MOVABLE == bits(1, 3, 6, 7, 10, 11, 20));
    static_assert((GFP_DMA | GFP_KERNEL) == bits(0, 6, 7, 10, 11));
    static_assert(GFP_TRANSHUGE_LIGHT == bits(1, 3, 6, 7, 13, 18, 19, 20));
    static_assert(GFP_TRANSHUGE == bits(1, 3, 6, 7, 10, 13, 18, 19, 20));
    EXPECT_TRUE(gfpflags_allow_blocking(GFP_KERNEL));
    EXPECT_FALSE(gfpflags_allow_blocking(GFP_ATOMIC));
    EXPECT_TRUE(gfpflags_allow_spinning(GFP_ATOMIC));
    EXPECT_FALSE(gfpflags_allow_spinning(0));
}

} // namespace
