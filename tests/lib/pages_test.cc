#include "lib/pages.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/thread.h"
#include "tests/contents.h"
#include "tests/unit.h"

#include <pagoda/mm.h>
#include <pagoda/pagoda.h>

#include <map>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

class pages : public ::testing::Test {
  protected:
    // With the reserve, so that what is in use changes by what the tests take only.
    void SetUp() override { ASSERT_TRUE(kernel_api_init()); }
    static uint64_t zone_free() { return zone_normal().stats().free; }
    static uint64_t zone_used() { return zone_normal().stats().present - zone_free(); }
    // What the body makes the process say with on_error=report.
    template <class F> static child_end reported(F body) {
        return in_child([&] {
            mutable_options().on_error = error_policy::report;
            body();
        });
    }
};

char *block(unsigned order, gfp_t gfp = GFP_KERNEL) {
    return reinterpret_cast<char *>(__get_free_pages(gfp, order));
}
void free_at(void *p, unsigned order) { free_pages(reinterpret_cast<unsigned long>(p), order); }

TEST_F(pages, orders_are_those_of_the_kernels_table) {
    EXPECT_EQ(get_order(0), 52);
    EXPECT_EQ(get_order(1), 0);
    EXPECT_EQ(get_order(PAGE_SIZE), 0);
    EXPECT_EQ(get_order(PAGE_SIZE + 1), 1);
    EXPECT_EQ(get_order(2 * PAGE_SIZE), 1);
    EXPECT_EQ(get_order(2 * PAGE_SIZE + 1), 2);
    EXPECT_EQ(get_order(4 * PAGE_SIZE), 2);
    EXPECT_EQ(get_order(PAGE_SIZE << MAX_PAGE_ORDER), MAX_PAGE_ORDER);
    EXPECT_EQ(get_order((PAGE_SIZE << MAX_PAGE_ORDER) + 1), MAX_PAGE_ORDER + 1);
    EXPECT_EQ(get_order(~0ul), 52);
}

TEST_F(pages, of_every_order_are_aligned_to_their_size) {
    uint64_t used = zone_used();
    std::vector<char *> got;
    for (int round = 0; round < 3; round++)
        for (unsigned order = 0; order <= MAX_PAGE_ORDER; order++) {
            char *p = block(order);
            ASSERT_NE(p, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (PAGE_SIZE << order), 0u) << order;
            memset(p, 0x5a, PAGE_SIZE << order);
            got.push_back(p);
        }
    EXPECT_EQ(zone_used(), used + 3 * ((2 << MAX_PAGE_ORDER) - 1));
    for (size_t i = 0; i < got.size(); i++)
        free_at(got[i], static_cast<unsigned>(i % (MAX_PAGE_ORDER + 1)));
    EXPECT_EQ(zone_used(), used);
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_F(pages, of_the_largest_order_stay_aligned_whatever_the_zone_ends_with) {
    child_end end = in_child([] {
        for (int i = 0; i < 20; i++) {
            char *one = block(9); // so that the zone ends in the middle of a pair
            char *p = block(MAX_PAGE_ORDER);
            ASSERT_NE(p, nullptr);
            ASSERT_NE(one, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (4 << 20), 0u);
        }
        EXPECT_TRUE(zone_normal().consistent());
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(pages, above_the_largest_order_are_refused_even_with_nofail) {
    child_end end = in_child([] {
        EXPECT_EQ(alloc_pages(GFP_KERNEL | __GFP_NOWARN, MAX_PAGE_ORDER + 1), nullptr);
        EXPECT_EQ(alloc_pages(GFP_KERNEL | __GFP_NOFAIL, MAX_PAGE_ORDER + 1), nullptr);
        EXPECT_EQ(alloc_pages(GFP_KERNEL, 64), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    EXPECT_TRUE(end.said("MAX_PAGE_ORDER"));
}

TEST_F(pages, are_cleared_only_where_that_was_asked_for) {
    std::vector<char *> dirty;
    for (int i = 0; i < 64; i++) {
        dirty.push_back(block(0));
        memset(dirty.back(), 0xdb, PAGE_SIZE);
    }
    for (char *p : dirty)
        free_at(p, 0);
    int kept = 0;
    for (char *&p : dirty) {
        p = block(0);
        kept += p[100] == static_cast<char>(0xdb);
    }
    EXPECT_GT(kept, 0); // nobody cleared them
    for (char *p : dirty) {
        memset(p, 0xdb, PAGE_SIZE);
        free_at(p, 0);
    }
    for (char *&p : dirty) {
        p = reinterpret_cast<char *>(get_zeroed_page(GFP_KERNEL));
        EXPECT_TRUE(all_zero(p, PAGE_SIZE));
    }
    for (char *p : dirty)
        free_page(reinterpret_cast<unsigned long>(p));
    char *large = block(MAX_PAGE_ORDER);
    memset(large, 0xdb, PAGE_SIZE << MAX_PAGE_ORDER);
    free_at(large, MAX_PAGE_ORDER);
    large = block(MAX_PAGE_ORDER, GFP_KERNEL | __GFP_ZERO);
    EXPECT_TRUE(all_zero(large, PAGE_SIZE << MAX_PAGE_ORDER));
    free_at(large, MAX_PAGE_ORDER);
}

TEST_F(pages, come_from_the_zone_that_the_flags_name) {
    child_end end = in_child([] {
        // No device has provided memory for these.
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA32 | __GFP_NOWARN), nullptr);
        EXPECT_EQ(__get_dma_pages(GFP_KERNEL | __GFP_NOWARN, 0), 0u);
        EXPECT_EQ(alloc_page(GFP_KERNEL | __GFP_MOVABLE | GFP_DMA | __GFP_NOWARN), nullptr);
        // Two zones at once; a page without an address where an address was asked for.
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | __GFP_HIGHMEM), nullptr);
        EXPECT_EQ(__get_free_pages(GFP_KERNEL | __GFP_HIGHMEM, 0), 0u);
        for (gfp_t zone : {__GFP_MOVABLE, __GFP_HIGHMEM, __GFP_MOVABLE | __GFP_HIGHMEM}) {
            ::page *p = alloc_page(GFP_KERNEL | zone);
            ASSERT_NE(p, nullptr);
            __free_page(p);
        }
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("two zones at once"));
    EXPECT_TRUE(end.said("__GFP_HIGHMEM"));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
}

TEST_F(pages, of_a_node_come_only_from_it_where_that_is_a_condition) {
    ::page *p = alloc_pages_node(0, GFP_KERNEL, 1);
    ASSERT_NE(p, nullptr);
    __free_pages(p, 1);
    p = alloc_pages_node(7, GFP_KERNEL, 0); // a preference
    ASSERT_NE(p, nullptr);
    __free_page(p);
    EXPECT_EQ(alloc_pages_node(7, GFP_KERNEL | __GFP_THISNODE, 0), nullptr);
    EXPECT_EQ(__alloc_pages(GFP_KERNEL, 0, 0, "nodes"), nullptr);
}

TEST_F(pages, of_nobody_are_free_to_free) {
    __free_pages(nullptr, 3);
    free_pages(0, 3);
    free_page(0);
    free_pages_exact(nullptr, 5);
    free_pages_nolock(nullptr, 0);
}

TEST_F(pages, of_an_exact_size_give_their_tail_back) {
    uint64_t used = zone_used();
    void *p = alloc_pages_exact(5 * PAGE_SIZE - 100, GFP_KERNEL | __GFP_ZERO);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (8 * PAGE_SIZE), 0u);
    EXPECT_EQ(zone_used(), used + 5); // 3 of 8 pages are back
    EXPECT_TRUE(all_zero(p, 5 * PAGE_SIZE - 100));
    free_pages_exact(p, 5 * PAGE_SIZE - 100);
    EXPECT_EQ(zone_used(), used);
    // The pages are single ones, to be freed one by one as well.
    p = alloc_pages_exact(3 * PAGE_SIZE, GFP_KERNEL);
    for (int i : {1, 0, 2})
        free_at(static_cast<char *>(p) + i * PAGE_SIZE, 0);
    EXPECT_EQ(zone_used(), used);
    // Above a pageblock, and the largest.
    p = alloc_pages_exact(3 << 20, GFP_KERNEL);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (4 << 20), 0u);
    EXPECT_EQ(zone_used(), used + 768);
    free_pages_exact(p, 3 << 20);
    p = alloc_pages_exact(4 << 20, GFP_KERNEL);
    ASSERT_NE(p, nullptr);
    free_pages_exact(p, 4 << 20);
    EXPECT_EQ(zone_used(), used);
    EXPECT_EQ(alloc_pages_exact(0, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(alloc_pages_exact((4 << 20) + 1, GFP_KERNEL | __GFP_NOWARN), nullptr);
    volatile size_t all = SIZE_MAX; // not seen through by the compiler
    EXPECT_EQ(alloc_pages_exact(all, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_F(pages, of_an_exact_size_are_neither_compound_nor_without_address) {
    child_end end = in_child([] {
        void *p = alloc_pages_exact(3 * PAGE_SIZE, GFP_KERNEL | __GFP_COMP | __GFP_HIGHMEM);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(compound_order(virt_to_page(p)), 0u);
        free_pages_exact(p, 3 * PAGE_SIZE);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("alloc_pages_exact ignores"));
}

TEST_F(pages, in_bulk_fill_only_what_is_empty) {
    ::page *array[64] = {};
    ::page *mine = alloc_page(GFP_KERNEL);
    array[0] = array[7] = array[63] = mine;
    EXPECT_EQ(alloc_pages_bulk(GFP_KERNEL, 64, array), 64u);
    for (int i = 0; i < 64; i++) {
        ASSERT_NE(array[i], nullptr);
        EXPECT_EQ(array[i] == mine, i == 0 || i == 7 || i == 63);
        if (array[i] != mine)
            __free_page(array[i]);
    }
    ::page *none[4] = {mine, mine, nullptr, nullptr};
    EXPECT_EQ(alloc_pages_bulk(GFP_KERNEL | GFP_DMA | __GFP_NOWARN, 4, none), 2u);
    EXPECT_EQ(none[2], nullptr);
    EXPECT_EQ(alloc_pages_bulk(GFP_KERNEL, 0, none), 0u);
    __free_page(mine);
}

TEST_F(pages, without_locks_come_and_go_in_a_handler) {
    __free_page(alloc_page(GFP_KERNEL));
    ::page *p = alloc_pages_nolock(0, NUMA_NO_NODE, 0);
    ASSERT_NE(p, nullptr);
    EXPECT_TRUE(all_zero(page_address(p), PAGE_SIZE));
    memset(page_address(p), 1, PAGE_SIZE);
    uint64_t used = zone_used();
    {
        slow_path interrupted; // as a handler that came while the zone was locked
        lock_guard g(zone_normal().lock());
        EXPECT_EQ(alloc_pages_nolock(0, NUMA_NO_NODE, 0), nullptr);
        free_pages_nolock(p, 0);
    }
    EXPECT_EQ(zone_used(), used); // left to the next who allocates
    __free_page(alloc_page(GFP_KERNEL));
    EXPECT_EQ(zone_used(), used - 1);
    EXPECT_EQ(alloc_pages_nolock(0, NUMA_NO_NODE, MAX_PAGE_ORDER + 1), nullptr);
}

TEST_F(pages, in_a_row_may_be_more_than_the_largest_order) {
    uint64_t used = zone_used();
    ::page *p = alloc_contig_pages(5000, GFP_KERNEL, NUMA_NO_NODE, nullptr);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(zone_used(), used + 5000);
    memset(page_address(p), 0x77, 5000 * PAGE_SIZE);
    for (unsigned long i = 0; i < 5000; i++)
        ASSERT_EQ(page_ref_count(nth_page(p, i)), 1);
    free_contig_range(page_to_pfn(p) + 1000, 4000);
    EXPECT_EQ(zone_used(), used + 1000);
    free_contig_range(page_to_pfn(p), 1000);
    EXPECT_EQ(zone_used(), used);
    // Powers of two are aligned to their size.
    p = alloc_contig_pages(4096, GFP_KERNEL, NUMA_NO_NODE, nullptr);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(page_address(p)) % (16 << 20), 0u);
    free_contig_range(page_to_pfn(p), 4096);
    EXPECT_EQ(alloc_contig_pages(0, GFP_KERNEL, NUMA_NO_NODE, nullptr), nullptr);
    EXPECT_EQ(alloc_contig_pages(~0ul, GFP_KERNEL, NUMA_NO_NODE, nullptr), nullptr);
    EXPECT_EQ(alloc_contig_pages(1, GFP_KERNEL, NUMA_NO_NODE, "nodes"), nullptr);
    EXPECT_EQ(zone_used(), used);
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_F(pages, of_a_block_can_be_parted) {
    uint64_t used = zone_used();
    ::page *p = alloc_pages(GFP_KERNEL, 3);
    split_page(p, 3);
    for (unsigned long i : {5, 0, 7, 1, 2, 6, 3, 4}) {
        EXPECT_EQ(page_ref_count(nth_page(p, i)), 1);
        __free_page(nth_page(p, i));
    }
    EXPECT_EQ(zone_used(), used);
}

TEST_F(pages, of_compound_blocks_cannot_be_parted) {
    child_end end = reported([] {
        ::page *p = alloc_pages(GFP_KERNEL | __GFP_COMP, 3);
        split_page(p, 3);
        EXPECT_EQ(page_ref_count(nth_page(p, 1)), 0);
        __free_pages(p, 3);
        p = alloc_pages(GFP_KERNEL, 3);
        get_page(p);
        split_page(p, 3);
        EXPECT_EQ(page_ref_count(nth_page(p, 1)), 0);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("split_page"));
}

TEST_F(pages, freed_with_another_order_are_left_alone) {
    child_end end = reported([] {
        uint64_t used = zone_used();
        char *p = block(2);
        free_at(p, 1);
        free_at(p + PAGE_SIZE, 0); // not its first page
        __free_pages(virt_to_page(p), 3);
        free_pages_exact(p, 4 * PAGE_SIZE);
        EXPECT_EQ(zone_used(), used + 4);
        free_at(p, 2);
        EXPECT_EQ(zone_used(), used);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("order 1: it is a block of order 2")) << end.errors;
    EXPECT_TRUE(end.said("order 0: it lies in the block of order 2 at"));
    EXPECT_TRUE(end.said("order 3: it is a block of order 2"));
    EXPECT_TRUE(end.said("free_pages_exact"));
}

TEST_F(pages, freed_twice_are_reported) {
    child_end end = reported([] {
        char *p = block(1);
        char *keep = block(0);
        free_at(p, 1);
        free_at(p, 1);
        free_at(keep, 0);
        __free_page(virt_to_page(keep));
        EXPECT_TRUE(zone_normal().consistent());
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("it is free"));
    EXPECT_EQ(in_child([] {
                  char *p = block(0);
                  free_at(p, 0);
                  free_at(p, 0);
              }).signal(),
              SIGABRT);
}

TEST_F(pages, leave_no_flags_to_their_next_owner) {
    for (unsigned order : {0u, 3u}) {
        ::page *p = alloc_pages(GFP_KERNEL, order);
        unsigned long first = page_to_pfn(p);
        __free_pages(p, order);
        for (unsigned long i = 0; i < 1u << order; i++)
            EXPECT_EQ(page_at(static_cast<uint32_t>(first + i)).flags, 0u);
    }
}

TEST_F(pages, of_others_are_not_freed_as_pages) {
    child_end end = reported([] {
        void *object = heap_alloc(100, GFP_KERNEL);
        int local = 0;
        free_at(object, 0);
        free_at(&local, 0);
        __free_page(virt_to_page(&local));
        EXPECT_EQ(heap_usable_size(object), 112u);
        free_pages_exact(object, 1);
        free_contig_range(page_to_pfn(virt_to_page(object)), 1);
        heap_free(object, GFP_KERNEL);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 5u) << end.errors;
    EXPECT_TRUE(end.said("malloc's or kmalloc's"));
}

TEST_F(pages, are_not_freed_as_objects) {
    child_end end = reported([] {
        char *p = block(2);
        heap_free(p, GFP_KERNEL);
        heap_free(p + 2 * PAGE_SIZE + 8, GFP_KERNEL);
        EXPECT_EQ(heap_realloc(p, 100, GFP_KERNEL), nullptr);
        EXPECT_EQ(heap_usable_size(p), 0u);
        free_at(p, 2);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("belongs to the page allocator"));
}

TEST_F(pages, count_in_the_heaps_statistics) {
    heap_stats before = heap_get_stats();
    ::page *p = alloc_pages(GFP_KERNEL, 4);
    void *exact = alloc_pages_exact(3 * PAGE_SIZE, GFP_KERNEL);
    EXPECT_EQ(heap_get_stats().live_bytes, before.live_bytes + 19 * PAGE_SIZE);
    EXPECT_EQ(heap_get_stats().live_objects, before.live_objects + 4);
    split_page(p, 4);
    EXPECT_EQ(heap_get_stats().live_objects, before.live_objects + 19);
    for (unsigned long i = 0; i < 16; i++)
        __free_page(nth_page(p, i));
    free_pages_exact(exact, 3 * PAGE_SIZE);
    EXPECT_EQ(heap_get_stats().live_bytes, before.live_bytes);
    EXPECT_EQ(heap_get_stats().live_objects, before.live_objects);
    EXPECT_EQ(heap_get_stats().served, before.served + 19);
}

TEST_F(pages, are_charged_to_the_threads_group) {
    pagoda_group *group = pagoda_group_create("pages", 20 * PAGE_SIZE);
    ASSERT_NE(group, nullptr);
    pagoda_group *before = pagoda_group_enter(group);
    gfp_t gfp = GFP_KERNEL | __GFP_ACCOUNT | __GFP_NOWARN;
    ::page *p = alloc_pages(gfp, 4);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(pagoda_group_usage(group), 16 * PAGE_SIZE);
    EXPECT_EQ(alloc_pages(gfp, 3), nullptr); // above the limit, of this group only
    void *exact = alloc_pages_exact(4 * PAGE_SIZE, gfp);
    EXPECT_EQ(pagoda_group_usage(group), 20 * PAGE_SIZE);
    ::page *other = alloc_page(GFP_KERNEL);
    EXPECT_NE(other, nullptr);
    __free_page(other);
    split_page(p, 4);
    for (unsigned long i = 0; i < 16; i++)
        __free_page(nth_page(p, i));
    EXPECT_EQ(pagoda_group_usage(group), 4 * PAGE_SIZE);
    free_pages_exact(exact, 4 * PAGE_SIZE);
    p = alloc_pages(gfp, 2);
    get_page(p);
    __free_pages(p, 2); // but for its first page
    EXPECT_EQ(pagoda_group_usage(group), PAGE_SIZE);
    put_page(p);
    EXPECT_EQ(alloc_page(gfp | GFP_DMA), nullptr);
    EXPECT_EQ(pagoda_group_usage(group), 0u);
    pagoda_group_enter(before);
    pagoda_group_destroy(group);
}

TEST_F(pages, that_the_kernel_refuses_are_null) {
    child_end end = in_child([] {
        limit(RLIMIT_AS, process_figure("VmSize") + (16 << 20));
        std::vector<::page *> got;
        while (::page *p = alloc_pages(GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY, 9))
            got.push_back(p);
        EXPECT_LT(got.size(), 100u);
        EXPECT_EQ(alloc_pages_exact(4 << 20, GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY), nullptr);
        EXPECT_EQ(alloc_contig_pages(4096, GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY, NUMA_NO_NODE,
                                     nullptr),
                  nullptr);
        for (::page *p : got)
            __free_pages(p, 9);
        EXPECT_TRUE(zone_normal().consistent());
    });
    EXPECT_TRUE(succeeded(end));
}

// The model: what each live block is, and what stands in it.
class model {
  public:
    void step() {
        if (live_.empty() || random_.below(2000) >= live_.size())
            allocate();
        else
            release();
    }
    void finish() {
        while (!live_.empty())
            release();
    }
    uint64_t pages() const { return pages_; }

  private:
    struct piece {
        unsigned order;
        uint64_t pages; // 0: a block of that order
        bool compound;
        uint64_t seed;
    };
    static uint64_t length(const piece &b) { return b.pages != 0 ? b.pages : 1ull << b.order; }

    void allocate() {
        piece b = {static_cast<unsigned>(random_.below(8) == 0 ? random_.below(MAX_PAGE_ORDER + 1)
                                                               : random_.below(3)),
                   0, false, random_.next()};
        gfp_t gfp = random_.one_in(2) ? GFP_KERNEL : GFP_KERNEL | __GFP_ZERO;
        char *p = nullptr;
        uint64_t align = PAGE_SIZE << b.order;
        switch (random_.below(4)) {
        case 0:
            b.pages = 1 + random_.below(1ull << b.order);
            align = PAGE_SIZE << get_order(b.pages * PAGE_SIZE);
            p = static_cast<char *>(alloc_pages_exact(b.pages * PAGE_SIZE, gfp));
            break;
        case 1:
            b.compound = b.order > 0;
            if (::page *got = alloc_pages(gfp | __GFP_COMP, b.order))
                p = static_cast<char *>(::page_address(got));
            break;
        default:
            p = block(b.order, gfp);
        }
        ASSERT_NE(p, nullptr);
        auto at = reinterpret_cast<uintptr_t>(p);
        ASSERT_EQ(at % align, 0u);
        auto above = live_.lower_bound(at);
        if (above != live_.end()) {
            ASSERT_LE(at + length(b) * PAGE_SIZE, above->first);
        }
        if (above != live_.begin()) {
            auto below = std::prev(above);
            ASSERT_LE(below->first + length(below->second) * PAGE_SIZE, at);
        }
        if ((gfp & __GFP_ZERO) != 0) {
            for (uint64_t i = 0; i < length(b); i++)
                ASSERT_EQ(*word(at, i), 0u);
        }
        for (uint64_t i = 0; i < length(b); i++)
            *word(at, i) = b.seed + i;
        live_[at] = b;
        pages_ += length(b);
    }

    void release() {
        uintptr_t low = live_.begin()->first;
        uintptr_t high = live_.rbegin()->first;
        auto it = live_.lower_bound(low + random_.below(high - low + 1));
        auto [at, b] = *it;
        live_.erase(it);
        auto *p = reinterpret_cast<char *>(at);
        for (uint64_t i = 0; i < length(b); i++)
            ASSERT_EQ(*word(at, i), b.seed + i);
        ::page *pg = virt_to_page(p);
        ASSERT_EQ(::page_address(pg), p);
        ASSERT_EQ(pfn_to_page(page_to_pfn(pg)), pg);
        uint64_t last = length(b) - 1;
        ASSERT_EQ(compound_head(nth_page(pg, last)), b.compound ? pg : nth_page(pg, last));
        ASSERT_EQ(page_ref_count(pg), 1);
        if (b.pages != 0)
            free_pages_exact(p, b.pages * PAGE_SIZE);
        else if (b.compound && random_.one_in(2))
            put_page(nth_page(pg, last));
        else
            free_at(p, b.order);
        pages_ -= length(b);
    }

    uint64_t *word(uintptr_t at, uint64_t page) {
        return reinterpret_cast<uint64_t *>(at + page * PAGE_SIZE + page % 500 * 8);
    }

    random_numbers random_{42};
    std::map<uintptr_t, piece> live_;
    uint64_t pages_ = 0;
};

TEST_F(pages, behave_as_the_model) {
    uint64_t used = zone_used();
    model m;
    for (uint64_t i = 0, n = min_of(operations(), uint64_t{1'000'000}); i < n; i++) {
        m.step();
        if (HasFatalFailure())
            return;
        if (i % 50'000 == 0) {
            ASSERT_EQ(zone_used(), used + m.pages());
            ASSERT_TRUE(zone_normal().consistent());
        }
    }
    m.finish();
    EXPECT_EQ(zone_used(), used);
}

TEST_F(pages, serve_threads_at_once) {
    uint64_t used = zone_used();
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++)
        threads.emplace_back([t] {
            random_numbers random(t);
            std::vector<std::pair<uint64_t *, unsigned>> mine;
            for (int i = 0; i < 30'000; i++) {
                if (mine.size() < 50) {
                    auto order = static_cast<unsigned>(random.below(5));
                    auto *p = reinterpret_cast<uint64_t *>(block(order));
                    ASSERT_NE(p, nullptr);
                    *p = reinterpret_cast<uintptr_t>(p) ^ t;
                    mine.emplace_back(p, order);
                } else {
                    auto &slot = mine[random.below(mine.size())];
                    ASSERT_EQ(*slot.first, reinterpret_cast<uintptr_t>(slot.first) ^ t);
                    free_at(slot.first, slot.second);
                    slot = mine.back();
                    mine.pop_back();
                }
            }
            for (auto [p, order] : mine)
                free_at(p, order);
        });
    for (std::thread &t : threads)
        t.join();
    __free_page(alloc_page(GFP_KERNEL)); // what a try of a lock left over
    EXPECT_EQ(zone_used(), used);
    EXPECT_TRUE(zone_normal().consistent());
}

} // namespace
} // namespace pagoda::test
