#include "lib/page_hold.h"

#include "hugepage/options.h"
#include "hugepage/provider.h"
#include "hugepage/report.h"
#include "lib/heap.h"
#include "lib/pages.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"
#include "tests/unit.h"

#include <pagoda/mm.h>

#include <errno.h>
#include <fcntl.h>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

// Reports go to a child's stderr, by the thousand in the last test.
template <class F> void quietly(F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        ASSERT_TRUE(heap_init());
        mutable_options().on_error = error_policy::report;
        dup2(open("/dev/null", O_WRONLY), 2);
        uint64_t live = pages_get_stats().pages;
        body();
        EXPECT_EQ(pages_get_stats().pages, live) << "all is free again";
    })));
}

char *exact(unsigned pages) {
    return static_cast<char *>(alloc_pages_exact(pages * kPageSize, GFP_KERNEL));
}

TEST(page_holds, cover_single_pages_in_a_row) {
    quietly([] {
        uint64_t live = pages_get_stats().pages;
        char *p = exact(5);
        ASSERT_EQ(pagoda_object_hold(p + 100, 3 * kPageSize), 0); // parts of four
        uint64_t reports = misuse_count();
        free_pages_exact(p, 5 * kPageSize);
        EXPECT_EQ(misuse_count(), reports + 4);
        EXPECT_EQ(pages_get_stats().pages, live + 4);
        pagoda_object_release(p + 100);
        EXPECT_EQ(misuse_count(), reports + 4);
    });
}

TEST(page_holds, last_as_long_as_one_that_begins_there) {
    quietly([] {
        char *p = exact(4);
        ASSERT_EQ(pagoda_object_hold(p, 2 * kPageSize), 0);
        ASSERT_EQ(pagoda_object_hold(p, 4 * kPageSize), 0);
        ASSERT_EQ(pagoda_object_hold(p + kPageSize, kPageSize), 0);
        pagoda_object_release(p);
        uint64_t reports = misuse_count();
        free_pages_exact(p + 3 * kPageSize, kPageSize);
        EXPECT_EQ(misuse_count(), reports + 1) << "it is not known which of the two ended";
        pagoda_object_release(p);
        free_pages_exact(p + 2 * kPageSize, kPageSize);
        EXPECT_EQ(misuse_count(), reports + 1);
        free_pages_exact(p + kPageSize, kPageSize);
        EXPECT_EQ(misuse_count(), reports + 2) << "that one is held by itself";
        pagoda_object_release(p + kPageSize);
        free_pages_exact(p, kPageSize);
        EXPECT_EQ(misuse_count(), reports + 2);
    });
}

TEST(page_holds, that_reach_too_far_change_nothing) {
    quietly([] {
        char *p = exact(3);
        free_pages_exact(p + 2 * kPageSize, kPageSize);
        EXPECT_EQ(pagoda_object_hold(p, 2 * kPageSize + 1), -ERANGE);
        EXPECT_EQ(pagoda_object_hold(p, ~size_t{0}), -ERANGE);
        uint64_t reports = misuse_count();
        free_pages_exact(p, 2 * kPageSize);
        EXPECT_EQ(misuse_count(), reports);
        ::page *block = alloc_pages(GFP_KERNEL, 1);
        EXPECT_EQ(pagoda_object_hold(page_address(block), 2 * kPageSize + 1), -ERANGE);
        __free_pages(block, 1);
        EXPECT_EQ(misuse_count(), reports);
    });
}

TEST(page_holds, keep_a_block_from_being_split) {
    quietly([] {
        ::page *block = alloc_pages(GFP_KERNEL, 2);
        ASSERT_EQ(pagoda_object_hold(page_address(block), kPageSize), 0);
        uint64_t reports = misuse_count();
        split_page(block, 2);
        EXPECT_EQ(misuse_count(), reports + 1);
        pagoda_object_release(page_address(block));
        __free_pages(block, 2);
        EXPECT_EQ(misuse_count(), reports + 1);
    });
}

// A handler may have interrupted whoever has any of the core's locks.
TEST(page_holds, begin_and_end_in_any_context) {
    quietly([] {
        uint64_t live = pages_get_stats().pages;
        char *p = exact(3);
        char *q = exact(1);
        ASSERT_EQ(pagoda_object_hold(p, 3 * kPageSize), 0);
        ASSERT_EQ(pagoda_object_hold(q, kPageSize), 0);
        free_pages_exact(p, 3 * kPageSize);
        {
            slow_path interrupted;
            lock_guard g(vmalloc_lock());
            EXPECT_EQ(pagoda_object_hold(q, kPageSize), 0);
            EXPECT_TRUE(pagoda_object_release(q));
            EXPECT_TRUE(pagoda_object_release(q));
            EXPECT_FALSE(pagoda_object_release(q)) << "nobody holds it any more";
            EXPECT_TRUE(pagoda_object_release(p)) << "the last one of three pages that were freed";
        }
        EXPECT_EQ(pages_get_stats().pages, live + 1);
        free_pages_exact(q, kPageSize);
    });
}

TEST(page_holds, are_counted) {
    quietly([] {
        char *p = exact(2);
        for (int i = 0; i < 32767; i++)
            ASSERT_EQ(pagoda_object_hold(p, i % 2 == 0 ? 1 : 2 * kPageSize), 0);
        EXPECT_EQ(pagoda_object_hold(p, 1), -EOVERFLOW);
        EXPECT_EQ(pagoda_object_hold(p, 2 * kPageSize), -EOVERFLOW);
        for (int i = 0; i < 32767; i++)
            ASSERT_TRUE(pagoda_object_release(p));
        EXPECT_FALSE(pagoda_object_release(p));
        EXPECT_FALSE(pagoda_object_release(p + kPageSize)) << "it was covered, and is not";
        free_pages_exact(p, 2 * kPageSize);
    });
}

TEST(page_holds, are_void_in_a_child_of_fork) {
    quietly([] {
        char *p = exact(3);
        ASSERT_EQ(pagoda_object_hold(p, 3 * kPageSize), 0);
        EXPECT_TRUE(succeeded(in_child([&] {
            heap_before_fork();
            heap_after_fork(true);
            EXPECT_FALSE(pagoda_object_release(p));
            EXPECT_EQ(pagoda_object_hold(p, 2 * kPageSize), 0) << "with devices of its own";
            uint64_t reports = misuse_count();
            free_pages_exact(p + 2 * kPageSize, kPageSize);
            EXPECT_EQ(misuse_count(), reports);
            EXPECT_TRUE(pagoda_object_release(p));
            free_pages_exact(p, 2 * kPageSize);
            EXPECT_EQ(misuse_count(), reports);
        })));
        pagoda_object_release(p);
        free_pages_exact(p, 3 * kPageSize);
    });
}

// Threads begin and end holds of one and of several pages at once, whose rows grow and end under
// each other; at last nothing is covered, and a page that was freed meanwhile is free.
TEST(page_holds, of_several_threads_end_together) {
    quietly([] {
        constexpr int kThreads = 3;
        constexpr unsigned kRow = 6;
        for (int round = 0; round < 20; round++) {
            char *p = exact(kRow);
            std::atomic<uint64_t> wrong{0};
            auto work = [&](unsigned seed) {
                random_numbers random(seed);
                uint64_t steps = operations() / (kDebug ? 2000 : 200) / 20;
                for (uint64_t i = 0; i < steps; i++) {
                    unsigned at = static_cast<unsigned>(random.below(2));
                    size_t pages = 1 + random.below(kRow - at);
                    char *q = p + at * kPageSize;
                    wrong += pagoda_object_hold(q, pages * kPageSize) != 0;
                    wrong += !pagoda_object_release(q);
                }
            };
            ASSERT_EQ(pagoda_object_hold(p + 5 * kPageSize, 1), 0);
            std::vector<std::thread> threads;
            for (unsigned i = 0; i < kThreads; i++)
                threads.emplace_back(work, i + 1);
            for (std::thread &t : threads)
                t.join();
            EXPECT_EQ(wrong, 0u);
            uint64_t reports = misuse_count();
            free_pages_exact(p, kRow * kPageSize);
            EXPECT_EQ(misuse_count(), reports + 1) << "the last page is held";
            EXPECT_TRUE(pagoda_object_release(p + 5 * kPageSize));
        }
    });
}

// Random holds in a row of pages, and then each page is freed: it is put off if a hold covers it.
TEST(page_holds, agree_with_a_model) {
    quietly([] {
        constexpr unsigned kRow = 24;
        random_numbers random(11);
        for (uint64_t round = 0; round < operations() / 5000; round++) {
            char *p = exact(kRow);
            ASSERT_NE(p, nullptr);
            unsigned begun[kRow] = {};
            unsigned reach[kRow] = {}; // of those, in pages
            for (uint64_t i = 0; i < 40; i++) {
                auto at = static_cast<unsigned>(random.below(kRow));
                char *q = p + at * kPageSize + random.below(kPageSize);
                if (random.one_in(3)) {
                    pagoda_object_release(q); // or nothing: no hold begins there
                    begun[at] -= begun[at] != 0;
                    reach[at] = begun[at] != 0 ? reach[at] : 0;
                    continue;
                }
                size_t bytes = random.below(6 * kPageSize);
                auto last = static_cast<unsigned>((q + max_of(bytes, size_t{1}) - 1 - p) /
                                                  static_cast<ptrdiff_t>(kPageSize));
                int r = pagoda_object_hold(q, bytes);
                if (last < kRow) {
                    ASSERT_EQ(r, 0);
                    begun[at]++;
                    reach[at] = max_of(reach[at], last + 1 - at);
                } else {
                    ASSERT_EQ(r, -ERANGE) << "behind the row nothing is allocated";
                }
            }
            for (unsigned at = 0; at < kRow; at++) {
                bool covered = false;
                for (unsigned from = 0; from <= at; from++)
                    covered = covered || from + reach[from] > at;
                uint64_t reports = misuse_count();
                free_page(reinterpret_cast<unsigned long>(p + at * kPageSize));
                ASSERT_EQ(misuse_count(), reports + covered) << at;
            }
            for (unsigned at = 0; at < kRow; at++)
                for (; begun[at] != 0; begun[at]--)
                    pagoda_object_release(p + at * kPageSize);
        }
    });
}

} // namespace
} // namespace pagoda::test
