#include "tests/unit.h"

#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/page_run.h"
#include "tests/contents.h"

#include <vector>

namespace pagoda::test {
namespace {

class heap : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(heap, sizes_are_usable_to_their_end) {
    for (size_t size = 0; size < 8 << 20; size += size / 7 + 1) {
        char *p = static_cast<char *>(heap_alloc(size, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
        EXPECT_GE(heap_usable_size(p), size);
        EXPECT_TRUE(heap_owns(p));
        memset(p, 1, heap_usable_size(p));
        heap_free(p, GFP_KERNEL);
    }
    EXPECT_EQ(heap_get_stats().live_objects, 0u);
}

TEST_F(heap, zeroed_memory_reads_as_zero_when_used_again) {
    for (size_t size : {size_t{50}, size_t{5000}, size_t{50000}, size_t{500000}, size_t{2} << 20})
        for (int round = 0; round < 3; round++) {
            char *p = static_cast<char *>(heap_alloc(size, GFP_KERNEL | __GFP_ZERO));
            for (size_t i = 0; i < size; i++)
                ASSERT_EQ(p[i], 0);
            memset(p, 1, size);
            heap_free(p, GFP_KERNEL);
        }
}

TEST_F(heap, alignments_hold) {
    for (size_t align = 1; align <= 64 << 20; align *= 2)
        for (size_t size : {size_t{1}, size_t{300}, size_t{70000}}) {
            void *p = heap_alloc_aligned(size, align, GFP_KERNEL);
            ASSERT_NE(p, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            EXPECT_GE(heap_usable_size(p), size);
            heap_free(p, GFP_KERNEL);
        }
}

TEST_F(heap, what_cannot_be_had_is_refused) {
    EXPECT_EQ(heap_alloc(SIZE_MAX, GFP_KERNEL), nullptr);
    EXPECT_EQ(heap_alloc(size_t{1} << 60, GFP_KERNEL), nullptr);
    char *p = static_cast<char *>(heap_alloc(100, GFP_KERNEL));
    p[99] = 3;
    EXPECT_EQ(heap_realloc(p, size_t{1} << 60, GFP_KERNEL), nullptr);
    EXPECT_EQ(p[99], 3);
    heap_free(p, GFP_KERNEL);
}

TEST_F(heap, knows_nothing_of_other_memory) {
    int here = 0;
    EXPECT_FALSE(heap_owns(&here));
    EXPECT_FALSE(heap_owns(nullptr));
    EXPECT_EQ(heap_usable_size(&here), 0u);
    heap_free(nullptr, GFP_KERNEL);
    child_end end = in_child([&] {
        heap_set_foreign_free([](void *p) { return p != nullptr; });
        heap_free(&here, GFP_KERNEL);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "") << "the hook dealt with it";
}

TEST_F(heap, good_sizes_are_those_served) {
    for (size_t size = 1; size < 4 << 20; size += size / 5 + 1) {
        void *p = heap_alloc(size, GFP_KERNEL);
        EXPECT_GE(heap_good_size(size), size);
        EXPECT_LE(heap_good_size(size), heap_usable_size(p)) << size;
        heap_free(p, GFP_KERNEL);
    }
}

// Pages that slabs and runs have; vmalloc's are its own.
uint64_t pages_in_use() {
    uint64_t pages = runs_stats().big_pages;
    for (unsigned cls = 1; cls <= kLastClass; cls++)
        pages += g_caches[cls].slabs * g_caches[cls].info.pages;
    return pages;
}

TEST_F(heap, every_page_of_slabs_and_runs_is_the_buddys) {
    random_numbers random(6);
    std::vector<void *> held(3000);
    heap_trim(0);
    for (int i = 0; i < 60'000; i++) {
        void *&p = held[random.below(held.size())];
        heap_free(p, GFP_KERNEL);
        size_t align = random.one_in(20) ? size_t{1} << random.below(20) : 1;
        p = heap_alloc_aligned(1 + random.skewed(random.one_in(100) ? 20 : 12), align, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        if (i % 1000 == 0) {
            zone_stats zone = zone_normal().stats();
            ASSERT_EQ(pages_in_use(), zone.present - zone.free);
            ASSERT_EQ(pages_in_use(), zone.allocated - zone.released);
        }
    }
    EXPECT_GT(pages_in_use(), 1000u);
    for (void *p : held)
        heap_free(p, GFP_KERNEL);
    heap_trim(0);
    EXPECT_EQ(pages_in_use(), 0u);
    EXPECT_EQ(zone_normal().stats().free, zone_normal().stats().present);
}

TEST_F(heap, behaves_like_a_table_of_blocks) {
    struct entry {
        void *p;
        size_t size;
        uint64_t tag;
    };
    random_numbers random(3);
    std::vector<entry> table(2048);
    uint64_t before = heap_get_stats().live_objects;
    auto mark = [&](entry &e) {
        e.tag = random.next();
        fill(e.p, e.size, e.tag);
    };
    auto any_size = [&] { return 1 + random.skewed(random.one_in(2000) ? 21 : 11); };
    for (uint64_t op = operations(); op-- > 0;) {
        entry &e = table[random.below(table.size())];
        if (e.p == nullptr) {
            e.size = any_size();
            gfp_t gfp = random.one_in(4) ? GFP_KERNEL | __GFP_ZERO : GFP_KERNEL;
            size_t align = random.one_in(8) ? size_t{1} << random.below(13) : 1;
            e.p = heap_alloc_aligned(e.size, align, gfp);
            ASSERT_NE(e.p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(e.p) % align, 0u);
            ASSERT_TRUE((gfp & __GFP_ZERO) == 0 || all_zero(e.p, e.size));
            mark(e);
        } else if (random.one_in(4)) {
            ASSERT_TRUE(intact(e.p, e.size, e.tag));
            size_t size = any_size();
            e.p = heap_realloc(e.p, size, GFP_KERNEL);
            ASSERT_NE(e.p, nullptr);
            ASSERT_TRUE(intact(e.p, min_of(size, e.size), e.tag));
            e.size = size;
            mark(e);
        } else {
            ASSERT_TRUE(intact(e.p, e.size, e.tag));
            heap_free(e.p, GFP_KERNEL);
            e.p = nullptr;
        }
    }
    for (entry &e : table)
        if (e.p != nullptr) {
            ASSERT_TRUE(intact(e.p, e.size, e.tag));
            heap_free(e.p, GFP_KERNEL);
        }
    EXPECT_EQ(heap_get_stats().live_objects, before);
}

} // namespace
} // namespace pagoda::test
