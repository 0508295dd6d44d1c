#include "tests/unit.h"

#include "hugepage/page.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/page_run.h"

namespace pagoda::test {
namespace {

class page_run : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(page_run, has_the_pages_and_the_alignment_asked_for) {
    for (unsigned order = 0; order <= 9; order++) {
        char *p = static_cast<char *>(run_alloc(100, order, GFP_KERNEL, nullptr));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (kPageSize << order), 0u);
        EXPECT_EQ(run_pages(p), 100u);
        EXPECT_EQ(class_of_pointer(p), kClassBigRun);
        EXPECT_EQ(run_head(p + 99 * kPageSize), p);
        run_free_big(p, GFP_KERNEL);
    }
}

TEST_F(page_run, says_truly_that_it_reads_as_zero) {
    bool zeroed = false;
    char *p = static_cast<char *>(run_alloc(100, 0, GFP_KERNEL, &zeroed));
    ASSERT_NE(p, nullptr);
    for (size_t i = 0; zeroed && i < 100 * kPageSize; i++)
        ASSERT_EQ(p[i], 0);
    memset(p, 1, 100 * kPageSize);
    run_free_big(p, GFP_KERNEL);
}

TEST_F(page_run, is_counted_while_it_lives) {
    run_stats before = runs_stats();
    void *p = run_alloc(100, 0, GFP_KERNEL, nullptr);
    EXPECT_EQ(runs_stats().big_runs, before.big_runs + 1);
    EXPECT_EQ(runs_stats().big_pages, before.big_pages + 100);
    run_free_big(p, GFP_KERNEL);
    EXPECT_EQ(runs_stats().big_runs, before.big_runs);
    EXPECT_EQ(runs_stats().big_pages, before.big_pages);
    EXPECT_EQ(runs_stats().served, before.served + 1);
}

TEST_F(page_run, shrinks_but_never_grows) {
    char *p = static_cast<char *>(run_alloc(100, 0, GFP_KERNEL, nullptr));
    memset(p, 7, 100 * kPageSize);
    EXPECT_FALSE(run_shrink(p, 100, GFP_KERNEL));
    EXPECT_FALSE(run_shrink(p, 0, GFP_KERNEL));
    EXPECT_TRUE(run_shrink(p, 70, GFP_KERNEL));
    EXPECT_EQ(run_pages(p), 70u);
    EXPECT_EQ(p[70 * kPageSize - 1], 7);
    run_free_big(p, GFP_KERNEL);
}

TEST_F(page_run, of_a_class_size_belongs_to_the_class) {
    constexpr unsigned cls = class_for_size(kMaxClass);
    kmem_cache &c = g_caches[cls];
    uint64_t before = c.in_use;
    void *p = run_alloc(c.info.pages, 0, GFP_KERNEL, nullptr);
    EXPECT_EQ(class_of_pointer(p), cls);
    EXPECT_EQ(c.in_use, before + 1);
    run_free_class(c, p, GFP_KERNEL);
    EXPECT_EQ(c.in_use, before);
}

TEST_F(page_run, that_cannot_be_had_is_null) {
    EXPECT_TRUE(succeeded(in_child([] {
        run_stats before = runs_stats();
        sys::inject_failures(0, 1 << 30);
        EXPECT_EQ(run_alloc(100'000, 0, GFP_KERNEL, nullptr), nullptr);
        EXPECT_EQ(run_alloc(100'000, 9, GFP_KERNEL, nullptr), nullptr);
        sys::inject_failures(0, 0);
        EXPECT_EQ(runs_stats().served, before.served);
        EXPECT_EQ(run_alloc(1, 19, GFP_KERNEL, nullptr), nullptr) << "an alignment too large";
    })));
}

TEST_F(page_run, freed_under_the_zones_lock_comes_back_later) {
    char *p = static_cast<char *>(run_alloc(100, 0, GFP_KERNEL, nullptr));
    char *q = static_cast<char *>(run_alloc(200, 0, GFP_KERNEL, nullptr));
    uint64_t free_before = zone_normal().stats().free;
    zone_normal().lock().lock();
    run_free_big(p, GFP_ATOMIC);
    run_free_big(q, GFP_ATOMIC);
    zone_normal().lock().unlock();
    EXPECT_EQ(zone_normal().stats().free, free_before);
    EXPECT_EQ(class_of_pointer(p), kClassNone) << "nobody's, and not yet the buddy's";
    zone_normal().finish_frees();
    EXPECT_EQ(zone_normal().stats().free, free_before + 300);
    EXPECT_EQ(class_of_pointer(p), kClassNone);
}

TEST_F(page_run, free_inside_is_reported) {
    child_end end = in_child([] {
        char *p = static_cast<char *>(run_alloc(100, 0, GFP_KERNEL, nullptr));
        run_free_big(p + 16, GFP_KERNEL);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("inside an object of a page run of 409600 bytes")) << end.errors;
    end = in_child([] {
        kmem_cache &c = g_caches[class_for_size(kMaxClass)];
        char *p = static_cast<char *>(run_alloc_class(c, GFP_KERNEL));
        run_free_class(c, p + 16, GFP_KERNEL);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("inside an object of a page run of 262144 bytes")) << end.errors;
}

TEST_F(page_run, free_twice_is_reported) {
    child_end end = in_child([] {
        void *p = run_alloc(100, 0, GFP_KERNEL, nullptr);
        run_free_big(p, GFP_KERNEL);
        run_free_big(p, GFP_KERNEL);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("double free")) << end.errors;
}

} // namespace
} // namespace pagoda::test
