#include "tests/unit.h"

#include "lib/heap.h"

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

TEST_F(heap, what_realloc_outgrows_is_free_for_other_sizes) {
    char *p = static_cast<char *>(heap_alloc(40000, GFP_KERNEL));
    p[39999] = 7;
    uint64_t cached = heap_get_stats().cached_objects; // other tests' too
    for (size_t size = 50000; size < 250000; size += 50000) {
        p = static_cast<char *>(heap_realloc(p, size, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(p[39999], 7);
        EXPECT_LE(heap_get_stats().cached_objects, cached);
    }
    heap_free(p, GFP_KERNEL);
    EXPECT_EQ(heap_get_stats().live_objects, 0u);
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

TEST_F(heap, behaves_like_a_table_of_blocks) {
    struct entry {
        unsigned char *p;
        size_t size;
        unsigned char tag;
    };
    random_numbers random(3);
    std::vector<entry> table(2048);
    uint64_t before = heap_get_stats().live_objects;
    auto mark = [&](entry &e) {
        e.tag = static_cast<unsigned char>(random.next());
        e.p[0] = e.p[e.size / 2] = e.p[e.size - 1] = e.tag;
    };
    auto check = [](const entry &e) {
        return e.p[0] == e.tag && e.p[e.size / 2] == e.tag && e.p[e.size - 1] == e.tag;
    };
    auto any_size = [&] { return 1 + random.skewed(random.one_in(2000) ? 21 : 11); };
    for (uint64_t op = operations(); op-- > 0;) {
        entry &e = table[random.below(table.size())];
        if (e.p == nullptr) {
            e.size = any_size();
            gfp_t gfp = random.one_in(4) ? GFP_KERNEL | __GFP_ZERO : GFP_KERNEL;
            size_t align = random.one_in(8) ? size_t{1} << random.below(13) : 1;
            e.p = static_cast<unsigned char *>(heap_alloc_aligned(e.size, align, gfp));
            ASSERT_NE(e.p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(e.p) % align, 0u);
            if ((gfp & __GFP_ZERO) != 0) {
                ASSERT_EQ(e.p[0] | e.p[e.size / 2] | e.p[e.size - 1], 0);
            }
            mark(e);
        } else if (random.one_in(4)) {
            ASSERT_TRUE(check(e));
            size_t size = any_size();
            auto *p = static_cast<unsigned char *>(heap_realloc(e.p, size, GFP_KERNEL));
            ASSERT_NE(p, nullptr);
            ASSERT_EQ(p[0], e.tag);
            if (size > e.size) {
                ASSERT_EQ(p[e.size - 1], e.tag);
            }
            e.p = p;
            e.size = size;
            mark(e);
        } else {
            ASSERT_TRUE(check(e));
            heap_free(e.p, GFP_KERNEL);
            e.p = nullptr;
        }
    }
    for (entry &e : table)
        if (e.p != nullptr) {
            ASSERT_TRUE(check(e));
            heap_free(e.p, GFP_KERNEL);
        }
    EXPECT_EQ(heap_get_stats().live_objects, before);
}

} // namespace
} // namespace pagoda::test
