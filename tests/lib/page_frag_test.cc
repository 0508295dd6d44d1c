#include "lib/page_frag.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "tests/contents.h"
#include "tests/unit.h"

#include <vector>

namespace pagoda::test {
namespace {

class fragments : public ::testing::Test {
  protected:
    // With the reserve, so that what is in use changes by what the tests take only.
    void SetUp() override { ASSERT_TRUE(kernel_api_init()); }
    static uint64_t used() {
        zone_stats s = zone_normal().stats();
        return s.present - s.free;
    }
};

TEST_F(fragments, share_a_block_until_it_is_used_up) {
    uint64_t before = used();
    page_frag_cache cache;
    page_frag_cache_init(&cache);
    std::vector<void *> got;
    for (int i = 0; i < 32; i++)
        got.push_back(page_frag_alloc(&cache, 1000, GFP_KERNEL));
    EXPECT_EQ(used(), before + 8);
    for (void *p : got)
        EXPECT_EQ(compound_head(virt_to_page(p)), compound_head(virt_to_page(got[0])));
    got.push_back(page_frag_alloc(&cache, 1000, GFP_KERNEL)); // 33 do not fit
    EXPECT_EQ(used(), before + 16);
    for (void *p : got)
        page_frag_free(p);
    EXPECT_EQ(used(), before + 8); // the cache's own
    page_frag_cache_drain(&cache);
    EXPECT_EQ(used(), before);
    page_frag_cache_drain(&cache);
}

TEST_F(fragments, serve_from_the_same_block_again_where_all_are_free) {
    page_frag_cache cache = {};
    void *first = page_frag_alloc(&cache, 4096, GFP_KERNEL);
    page_frag_free(first);
    for (int i = 1; i < 100; i++) {
        void *p = page_frag_alloc(&cache, 4096, GFP_KERNEL);
        EXPECT_EQ(compound_head(virt_to_page(p)), compound_head(virt_to_page(first)));
        page_frag_free(p);
    }
    page_frag_cache_drain(&cache);
}

TEST_F(fragments, outlive_the_cache) {
    uint64_t before = used();
    page_frag_cache cache = {};
    void *p = page_frag_alloc(&cache, 100, GFP_KERNEL);
    fill(p, 100, 7);
    page_frag_cache_drain(&cache);
    EXPECT_TRUE(intact(p, 100, 7));
    EXPECT_EQ(used(), before + 8);
    page_frag_free(p);
    EXPECT_EQ(used(), before);
}

TEST_F(fragments, are_aligned_as_asked) {
    page_frag_cache cache = {};
    std::vector<void *> got;
    for (unsigned align = 1; align <= 4096; align *= 2) {
        got.push_back(page_frag_alloc(&cache, 3, GFP_KERNEL));
        got.push_back(page_frag_alloc_align(&cache, 5, GFP_KERNEL, align));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(got.back()) % align, 0u);
    }
    for (void *p : got)
        page_frag_free(p);
    page_frag_cache_drain(&cache);
}

TEST_F(fragments, of_no_size_or_above_a_page_are_refused) {
    page_frag_cache cache = {};
    EXPECT_EQ(page_frag_alloc(&cache, 0, GFP_KERNEL), nullptr);
    EXPECT_EQ(page_frag_alloc(&cache, PAGE_SIZE + 1, GFP_KERNEL), nullptr);
    EXPECT_EQ(page_frag_alloc(&cache, 1, GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
    void *p = page_frag_alloc(&cache, PAGE_SIZE, GFP_KERNEL);
    EXPECT_NE(p, nullptr);
    page_frag_free(p);
    page_frag_free(nullptr);
    page_frag_cache_drain(&cache);
}

TEST_F(fragments, come_from_single_pages_where_memory_is_short) {
    child_end end = in_child([] {
        limit(RLIMIT_AS, process_figure("VmSize") + (8 << 20));
        ::page *last = alloc_page(GFP_KERNEL);
        gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY;
        for (unsigned order : {9u, 3u, 0u})
            while (alloc_pages(gfp, order) != nullptr) {
            }
        page_frag_cache cache = {};
        EXPECT_EQ(page_frag_alloc(&cache, 100, gfp), nullptr);
        EXPECT_EQ(page_frag_alloc(&cache, 100, gfp), nullptr);
        __free_page(last);
        void *p = page_frag_alloc(&cache, 100, gfp);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(virt_to_page(p), last);
        page_frag_free(p);
        page_frag_cache_drain(&cache);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(fragments, keep_what_is_written_into_them) {
    uint64_t before = used();
    random_numbers random(5);
    page_frag_cache cache = {};
    struct piece {
        void *p;
        unsigned size;
        uint64_t tag;
    };
    std::vector<piece> live;
    for (uint64_t i = 0; i < 200'000; i++) {
        if (live.size() < 300) {
            auto size = static_cast<unsigned>(1 + random.below(1500));
            auto align = 1u << random.below(7);
            void *p = page_frag_alloc_align(&cache, size, GFP_KERNEL, align);
            ASSERT_NE(p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            fill(p, size, i);
            live.push_back({p, size, i});
        } else {
            piece &gone = live[random.below(live.size())];
            ASSERT_TRUE(intact(gone.p, gone.size, gone.tag));
            page_frag_free(gone.p);
            gone = live.back();
            live.pop_back();
        }
    }
    for (const piece &b : live) {
        ASSERT_TRUE(intact(b.p, b.size, b.tag));
        page_frag_free(b.p);
    }
    page_frag_cache_drain(&cache);
    EXPECT_EQ(used(), before);
}

TEST_F(fragments, freed_once_too_often_are_reported) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        page_frag_cache cache = {};
        void *p = page_frag_alloc(&cache, 100, GFP_KERNEL);
        page_frag_cache_drain(&cache);
        page_frag_free(p);
        page_frag_free(p);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("page_frag_free of")) << end.errors;
    EXPECT_EQ(end.lines(), 1u);
}

} // namespace
} // namespace pagoda::test
