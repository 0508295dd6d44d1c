#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/contig.h"
#include "lib/heap.h"
#include "lib/memblock.h"

#include <pagoda/pagoda.h>

#include <errno.h>

namespace pagoda::test {
namespace {

constexpr size_t kMiB = 1 << 20;

#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(contig, name) { EXPECT_TRUE(succeeded(in_child(name))); }                                 \
    void name()

TEST_IN_CHILD(there_is_one_area_at_most) {
    EXPECT_EQ(pagoda_contig_alloc(4096, 1), nullptr);
    EXPECT_EQ(pagoda_contig_avail(), 0u);
    EXPECT_EQ(pagoda_contig_largest(), 0u);
    EXPECT_EQ(pagoda_contig_reserve(0), -EINVAL);
    EXPECT_EQ(pagoda_contig_reserve(3 * kMiB), 0);
    EXPECT_EQ(pagoda_contig_avail(), 4 * kMiB);
    EXPECT_EQ(pagoda_contig_reserve(kMiB), -EBUSY);
    pagoda_contig_free(nullptr);
}

TEST_IN_CHILD(that_cannot_be_had_is_refused) {
    ASSERT_TRUE(heap_init());
    EXPECT_EQ(pagoda_contig_reserve(~size_t{0}), -ENOMEM);
    for (int works = 0; works < 12; works++) {
        uint64_t before = zone_normal().stats().set_aside;
        sys::inject_failures(works, 1 << 30);
        int r = pagoda_contig_reserve(size_t{4} << 30);
        sys::inject_failures(0, 0);
        if (r == 0)
            return;
        EXPECT_EQ(r, -ENOMEM);
        EXPECT_EQ(zone_normal().stats().set_aside, before);
    }
}

// What was taken for an area that could not be made held old bytes: nobody may get them as zeros.
TEST_IN_CHILD(that_failed_gives_its_memory_back_as_what_it_is) {
    ASSERT_TRUE(heap_init());
    constexpr uint32_t kBlocks = 3;
    page_state state;
    uint32_t first =
        zone_normal().alloc(kBlocks * kPageblockPages, kPageblockOrder, GFP_KERNEL, &state);
    ASSERT_NE(first, kNoPage);
    memset(page_address(first), 0xee, kBlocks * kPageblockSize);
    zone_normal().free(first, kBlocks * kPageblockPages, true, GFP_KERNEL);
    pagoda_set_failure_hook([](size_t, unsigned int, void *) { return true; }, nullptr);
    EXPECT_EQ(pagoda_contig_reserve(kBlocks * kPageblockSize), -ENOMEM);
    pagoda_set_failure_hook(nullptr, nullptr);
    for (uint32_t got;
         (got = zone_normal().alloc(1, 0, GFP_NOWAIT | kGfpMayFault, &state)) != kNoPage;) {
        const auto *bytes = static_cast<const unsigned char *>(page_address(got));
        ASSERT_TRUE(!state.zeroed || bytes[0] == 0) << got;
    }
}

// Row 87: a frame grabber's work, for as long as it likes.
TEST_IN_CHILD(frame_buffers_come_and_go_without_breaking_it_up) {
    ASSERT_EQ(parse_options("contig=256M"), 0);
    ASSERT_TRUE(heap_init());
    boot_start();
    ASSERT_EQ(pagoda_contig_largest(), 256 * kMiB);
    random_numbers random(9);
    char *lowest = nullptr;
    for (int round = 0; round < 2000; round++) {
        char *frames[4];
        for (char *&frame : frames) {
            frame = static_cast<char *>(pagoda_contig_alloc(64 * kMiB, 4096));
            ASSERT_NE(frame, nullptr) << "round " << round;
            lowest = lowest == nullptr || frame < lowest ? frame : lowest;
            for (size_t at = 0; at < 64 * kMiB; at += 8 * kMiB)
                frame[at] = static_cast<char>(round);
        }
        EXPECT_EQ(pagoda_contig_alloc(1, 1), nullptr);
        void *others = heap_alloc(1 + random.skewed(18), GFP_KERNEL); // the heap goes on beside it
        for (uint64_t n = 4; n > 0; n--) {
            std::swap(frames[n - 1], frames[random.below(n)]);
            ASSERT_TRUE(frames[n - 1] >= lowest && frames[n - 1] < lowest + 256 * kMiB);
            pagoda_contig_free(frames[n - 1]);
        }
        heap_free(others, GFP_KERNEL);
        ASSERT_EQ(pagoda_contig_largest(), 256 * kMiB);
    }
    char *first = static_cast<char *>(pagoda_contig_alloc(1, 1));
    char *second = static_cast<char *>(pagoda_contig_alloc(100, kMiB));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(second) % kMiB, 0u);
    EXPECT_EQ(pagoda_contig_avail(), 256 * kMiB - 2 * 4096);
    pagoda_contig_free(first);
    pagoda_contig_free(second);
}

TEST(contig, wrong_frees_are_reported) {
    for (bool twice : {false, true}) {
        child_end end = in_child([&] {
            ASSERT_EQ(pagoda_contig_reserve(2 * kMiB), 0);
            char *p = static_cast<char *>(pagoda_contig_alloc(8192, 1));
            if (twice)
                pagoda_contig_free(p);
            pagoda_contig_free(twice ? p : p + 4096);
        });
        EXPECT_EQ(end.signal(), SIGABRT);
        EXPECT_TRUE(end.said("not the start of a buffer in use")) << end.errors;
    }
}

} // namespace
} // namespace pagoda::test
