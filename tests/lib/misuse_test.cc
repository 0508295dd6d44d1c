#include "tests/unit.h"

#include "hugepage/options.h"
#include "lib/heap.h"
#include "lib/misuse.h"

namespace pagoda::test {
namespace {

TEST(misuse, aborts_after_one_line) {
    int here = 0;
    child_end end = in_child([&] {
        heap_init();
        report_double_free(g_caches[class_for_size(64)], &here);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    EXPECT_TRUE(end.said("double free")) << end.errors;
    EXPECT_TRUE(end.said("malloc-64")) << end.errors;
}

TEST(misuse, goes_on_where_only_reports_are_wanted) {
    int here = 0;
    child_end end = in_child([&] {
        mutable_options().on_error = error_policy::report;
        heap_init();
        report_double_free(&here);
        report_double_free(&here, 40960);
        report_interior(g_caches[class_for_size(128)], &here, 16);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("a page run of 40960 bytes")) << end.errors;
    EXPECT_TRUE(end.said("inside an object of cache malloc-128")) << end.errors;
}

TEST(misuse, pages_are_named) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        ASSERT_TRUE(heap_init());
        void *object = heap_alloc(64, GFP_KERNEL);
        char *page = static_cast<char *>(object) - reinterpret_cast<uintptr_t>(object) % kPageSize;
        report_page_freed(object);
        report_not_pages(object, "put_page");
        report_wrong_block(page, 1, page, 2, "free_pages");
        report_wrong_block(page + kPageSize, 0, page, 2, "free_pages");
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 4u) << end.errors;
    EXPECT_TRUE(end.said("invalid free of "));
    EXPECT_TRUE(end.said("put_page of "));
    EXPECT_TRUE(end.said("is malloc's or kmalloc's"));
    EXPECT_TRUE(end.said("order 1: it is a block of order 2\n"));
    EXPECT_TRUE(end.said("order 0: it lies in the block of order 2 at 0x"));
}

TEST(misuse, one_line_of_a_kind_is_enough) {
    std::atomic<bool> said{false};
    child_end end = in_child([&] {
        warn_once(said, GFP_KERNEL | __GFP_NOWARN, "not this");
        warn_once(said, GFP_KERNEL, "this");
        warn_once(said, GFP_KERNEL, "not this either");
    });
    EXPECT_EQ(end.errors, "pagoda: this\n");
}

TEST(misuse, foreign_pointers_follow_their_option) {
    int here = 0;
    auto twice = [&](foreign_policy policy) {
        return in_child([&] {
            mutable_options().foreign = policy;
            report_foreign(&here);
            report_foreign(&here);
        });
    };
    EXPECT_EQ(twice(foreign_policy::ignore).lines(), 1u);
    EXPECT_EQ(twice(foreign_policy::report).lines(), 2u);
    EXPECT_EQ(twice(foreign_policy::abort).signal(), SIGABRT);
}

TEST(misuse, the_heap_names_a_run_that_is_free) {
    child_end end = in_child([] {
        ASSERT_TRUE(heap_init());
        void *p = heap_alloc(600 << 10, GFP_KERNEL);
        heap_free(p, GFP_KERNEL);
        heap_free(p, GFP_KERNEL);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
}

} // namespace
} // namespace pagoda::test
