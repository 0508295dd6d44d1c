#include "lib/gfp_words.h"

namespace pagoda {
namespace {

struct gfp_word {
    gfp_t bits;
    const char *name;
};

#define WORD(name)                                                                                 \
    { name, #name }
// Composed ones first, the largest of them first: a word is used where all of its bits are left.
constexpr gfp_word kWords[] = {
    WORD(GFP_TRANSHUGE),
    WORD(GFP_TRANSHUGE_LIGHT),
    WORD(GFP_HIGHUSER_MOVABLE),
    WORD(GFP_HIGHUSER),
    WORD(GFP_USER),
    WORD(GFP_KERNEL_ACCOUNT),
    WORD(GFP_KERNEL),
    WORD(GFP_NOFS),
    WORD(GFP_NOIO),
    WORD(GFP_ATOMIC),
    WORD(GFP_NOWAIT),
    WORD(__GFP_DMA),
    WORD(__GFP_HIGHMEM),
    WORD(__GFP_DMA32),
    WORD(__GFP_MOVABLE),
    WORD(__GFP_RECLAIMABLE),
    WORD(__GFP_HIGH),
    WORD(__GFP_IO),
    WORD(__GFP_FS),
    WORD(__GFP_ZERO),
    WORD(__GFP_DIRECT_RECLAIM),
    WORD(__GFP_KSWAPD_RECLAIM),
    WORD(__GFP_WRITE),
    WORD(__GFP_NOWARN),
    WORD(__GFP_RETRY_MAYFAIL),
    WORD(__GFP_NOFAIL),
    WORD(__GFP_NORETRY),
    WORD(__GFP_MEMALLOC),
    WORD(__GFP_COMP),
    WORD(__GFP_NOMEMALLOC),
    WORD(__GFP_HARDWALL),
    WORD(__GFP_THISNODE),
    WORD(__GFP_ACCOUNT),
    WORD(__GFP_ZEROTAGS),
    WORD(__GFP_NO_OBJ_EXT),
};
#undef WORD

} // namespace

void describe_gfp(text &out, gfp_t gfp) {
    out << reinterpret_cast<const void *>(uintptr_t{gfp}) << '(';
    const char *between = "";
    gfp_t left = gfp;
    for (const gfp_word &word : kWords) {
        if ((left & word.bits) != word.bits)
            continue;
        out << between << word.name;
        between = "|";
        left &= ~word.bits;
    }
    if (left != 0) // a bit that no flag has
        out << between << reinterpret_cast<const void *>(uintptr_t{left});
    else if (gfp == 0)
        out << '0';
    out << ')';
}

} // namespace pagoda
