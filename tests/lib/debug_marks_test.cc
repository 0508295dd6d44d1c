#include "tests/unit.h"

#include "hugepage/options.h"
#include "lib/debug_marks.h"
#include "lib/heap.h"
#include "lib/kmem_cache.h"

namespace pagoda::test {
namespace {

class debug_marks : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!kDebug)
            GTEST_SKIP() << "release builds mark nothing";
        ASSERT_TRUE(heap_init());
    }
};

TEST_F(debug_marks, an_object_is_held_once) {
    for (size_t size : {size_t{16}, size_t{1000}, size_t{40000}, size_t{600000}}) {
        void *p = heap_alloc(size, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        EXPECT_FALSE(debug_mark_held(p)) << size;
        EXPECT_TRUE(debug_mark_freed(p)) << size;
        EXPECT_TRUE(debug_mark_held(p)) << size;
        heap_free(p, GFP_KERNEL);
    }
}

TEST_F(debug_marks, a_second_free_is_reported_at_once) {
    for (size_t size : {size_t{16}, size_t{1000}, size_t{40000}}) {
        child_end end = in_child([size] {
            void *p = heap_alloc(size, GFP_KERNEL);
            heap_free(p, GFP_KERNEL);
            heap_free(p, GFP_KERNEL);
        });
        EXPECT_EQ(end.signal(), SIGABRT) << size;
        EXPECT_TRUE(end.said("double free")) << end.errors;
    }
}

TEST_F(debug_marks, a_free_inside_an_object_is_reported_and_changes_nothing) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        char *p = static_cast<char *>(heap_alloc(1000, GFP_KERNEL));
        heap_free(p + 16, GFP_KERNEL);
        EXPECT_EQ(heap_get_stats().live_objects, 1u);
        heap_free(p, GFP_KERNEL);
        EXPECT_EQ(heap_get_stats().live_objects, 0u);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("inside an object")) << end.errors;
}

} // namespace
} // namespace pagoda::test
