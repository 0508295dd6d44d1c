#include "lib/alloc_failure.h"

#include "tests/unit.h"

namespace pagoda::test {
namespace {

TEST(alloc_failure, one_line_says_who_and_what) {
    child_end end = in_child([] { note_alloc_failure(GFP_KERNEL | __GFP_ZERO, 65537); });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "pagoda: lib_alloc_failure_test: page allocation failure: order:5, 65537 "
                          "bytes, mode:0xdc0(GFP_KERNEL|__GFP_ZERO)\n");
}

TEST(alloc_failure, nowarn_is_silent) {
    child_end end = in_child([] {
        note_alloc_failure(GFP_KERNEL | __GFP_NOWARN, 100);
        note_alloc_failure(GFP_NOWAIT, 100);
        note_alloc_failure(GFP_ATOMIC | __GFP_NOWARN, 100);
        write_alloc_failure();
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

TEST(alloc_failure, what_may_not_call_the_system_is_reported_by_the_next_that_may) {
    child_end end = in_child([] {
        note_alloc_failure(GFP_ATOMIC, 4096);
        note_alloc_failure(GFP_ATOMIC, 8192);
        fputs("later: ", stderr);
        write_alloc_failure();
        write_alloc_failure();
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u);
    EXPECT_TRUE(end.said("later: pagoda: lib_alloc_failure_test: page allocation failure: order:0, "
                         "4096 bytes, mode:0x820(GFP_ATOMIC) (1 more were not reported)"))
        << end.errors;
}

TEST(alloc_failure, the_rate_is_limited) {
    child_end end = in_child([] {
        for (int i = 0; i < 1000; i++)
            note_alloc_failure(GFP_KERNEL, 100);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_GE(end.lines(), kAllocFailureBurst);
    EXPECT_LE(end.lines(), 10 * kAllocFailureBurst) << "a thousand reports in a few windows";
}

TEST(alloc_failure, nofail_that_may_not_block_is_reported_once) {
    child_end end = in_child([] {
        for (int i = 0; i < 3; i++) {
            note_alloc_failure(GFP_NOWAIT | __GFP_NOFAIL, size_t{1} << 60);
            write_alloc_failure();
        }
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u);
    EXPECT_TRUE(end.said("__GFP_NOFAIL needs __GFP_DIRECT_RECLAIM")) << end.errors;
}

} // namespace
} // namespace pagoda::test
