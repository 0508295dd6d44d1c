#include "lib/highmem.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/kmap.h"
#include "lib/thread.h"
#include "tests/unit.h"

#include <pagoda/highmem.h>
#include <pagoda/pagoda.h>
#include <pagoda/vmap.h>

#include <algorithm>
#include <map>
#include <set>
#include <sys/stat.h>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::random_numbers;
using test::succeeded;

class HighmemTest : public ::testing::Test {
  protected:
    static constexpr uint32_t kPages = 4096;
    void SetUp() override {
        ASSERT_TRUE(heap_init());
        mutable_options().highmem_bytes = kPages * kPageSize;
        highmem_after_fork_in_child(); // each test has a zone of its own
    }
    void TearDown() override {
        sys::inject_failures(0, 0);
        mutable_options() = option_values{};
    }
    static uint64_t word(page *p) {
        uint64_t w;
        memcpy_from_page(reinterpret_cast<char *>(&w), public_page(p), 8, sizeof w);
        return w;
    }
    static void set_word(page *p, uint64_t w) {
        memcpy_to_page(public_page(p), 8, reinterpret_cast<char *>(&w), sizeof w);
    }
    static bool all_zero(page *p) {
        static const char zeros[kPageSize] = {};
        char copy[kPageSize];
        memcpy_from_page(copy, public_page(p), 0, kPageSize);
        return memcmp(copy, zeros, kPageSize) == 0;
    }
    static uint64_t memory_of(page *p) {
        struct stat status;
        EXPECT_EQ(fstat(region_of(p)->fd, &status), 0);
        return static_cast<uint64_t>(status.st_blocks) * 512;
    }
};

TEST_F(HighmemTest, GroupsPayForPages) {
    constexpr gfp_t kAccounted = GFP_HIGHUSER | __GFP_ACCOUNT;
    pagoda_group *g = pagoda_group_create("highmem", 2 * kPageSize);
    pagoda_group_enter(g);
    ::page *plain = alloc_page(GFP_HIGHUSER);
    EXPECT_EQ(pagoda_group_usage(g), 0u);
    ::page *first = alloc_page(kAccounted);
    ::page *second = alloc_page(kAccounted);
    ASSERT_NE(second, nullptr);
    EXPECT_TRUE(PageHighMem(first) && PageHighMem(second));
    EXPECT_EQ(pagoda_group_usage(g), 2 * kPageSize);
    EXPECT_EQ(alloc_page(kAccounted | __GFP_NOWARN), nullptr) << "nor from another zone";
    EXPECT_EQ(pagoda_group_failures(g), 1u);
    get_page(first);
    __free_page(first);
    EXPECT_EQ(pagoda_group_usage(g), 2 * kPageSize) << "somebody has it";
    put_page(first);
    EXPECT_EQ(pagoda_group_usage(g), kPageSize);
    __free_page(plain);
    plain = alloc_page(GFP_HIGHUSER); // first's place, maybe, and not its payer
    __free_page(plain);
    EXPECT_EQ(pagoda_group_usage(g), kPageSize);
    pagoda_group_enter(nullptr);
    pagoda_group_destroy(g); // lives on with its page
    __free_page(second);
}

TEST_F(HighmemTest, IsEmptyUnlessAskedFor) {
    mutable_options() = option_values{};
    EXPECT_EQ(highmem_alloc(GFP_HIGHUSER), nullptr);
    EXPECT_EQ(totalhigh_pages(), 0u);
    EXPECT_EQ(nr_free_highpages(), 0u);
}

TEST_F(HighmemTest, PagesHaveNoAddress) {
    page *p = highmem_alloc(GFP_HIGHUSER);
    ASSERT_NE(p, nullptr);
    EXPECT_TRUE(PageHighMem(public_page(p)));
    EXPECT_EQ(pagoda_highmem_address(public_page(p)), nullptr);
    EXPECT_EQ(p->refs.load(), 1u);
    highmem_free(p, GFP_KERNEL);
}

// Contents against a model, with every flag that changes where a page comes from.
TEST_F(HighmemTest, PagesKeepWhatIsWritten) {
    random_numbers random(11);
    std::map<page *, uint64_t> live;
    for (int i = 0; i < 20000; i++) {
        if (live.size() < 300 && random.below(100) < 55) {
            gfp_t gfp = random.below(4) == 0 ? GFP_ATOMIC | __GFP_HIGHMEM : GFP_HIGHUSER;
            bool zero = random.below(3) == 0;
            page *p = highmem_alloc(zero ? gfp | __GFP_ZERO : gfp);
            if (p == nullptr) {
                ASSERT_FALSE(gfpflags_allow_blocking(gfp));
                continue;
            }
            ASSERT_FALSE(live.contains(p));
            ASSERT_TRUE(!zero || all_zero(p));
            live[p] = random.next();
            set_word(p, live[p]);
        } else if (!live.empty()) {
            auto one = live.lower_bound(live.begin()->first + random.below(300));
            if (one == live.end())
                one = live.begin();
            ASSERT_EQ(word(one->first), one->second);
            highmem_free(one->first, random.below(4) == 0 ? GFP_ATOMIC : GFP_KERNEL);
            live.erase(one);
        }
        ASSERT_EQ(nr_free_highpages(), kPages - live.size());
    }
    for (auto [p, w] : live) {
        ASSERT_EQ(word(p), w);
        highmem_free(p, GFP_KERNEL);
    }
}

TEST_F(HighmemTest, TheZoneEndsAndBeginsAgain) {
    std::vector<page *> all;
    std::set<page *> different;
    while (page *p = highmem_alloc(GFP_HIGHUSER)) {
        all.push_back(p);
        different.insert(p);
    }
    EXPECT_EQ(all.size(), kPages);
    EXPECT_EQ(different.size(), kPages);
    EXPECT_EQ(nr_free_highpages(), 0u);
    EXPECT_EQ(totalhigh_pages(), kPages);
    uint64_t live = zone_normal().live_bytes();
    for (page *p : all)
        set_word(p, 1);
    EXPECT_EQ(memory_of(all[0]), kPages * kPageSize);
    for (page *p : all)
        highmem_free(p, GFP_KERNEL);
    EXPECT_LE(memory_of(all[0]), 1024 * kPageSize); // what is kept for the next ones
    EXPECT_LE(zone_normal().live_bytes(), live - (kPages - 1024) * kPageSize);
    for (uint32_t i = 0; i < kPages; i++) {
        page *p = highmem_alloc(GFP_HIGHUSER | __GFP_ZERO);
        ASSERT_NE(p, nullptr) << i;
        ASSERT_TRUE(all_zero(p)) << i;
    }
}

TEST_F(HighmemTest, ShortMemoryGivesNullAndLosesNothing) {
    uint32_t have = 0;
    while (memory_of(highmem_alloc(GFP_HIGHUSER)) / kPageSize != ++have) {
    } // the next one needs more memory
    for (int i = 0; i < 3; i++) {
        sys::inject_failures(0, 1);
        EXPECT_EQ(highmem_alloc(GFP_HIGHUSER), nullptr);
    }
    for (; have < kPages; have++)
        ASSERT_NE(highmem_alloc(GFP_HIGHUSER), nullptr) << have;
    EXPECT_EQ(nr_free_highpages(), 0u);
}

TEST_F(HighmemTest, AtomicFlagsMakeNoSystemCall) {
    EXPECT_EQ(highmem_alloc(GFP_ATOMIC | __GFP_HIGHMEM), nullptr); // not even a file yet
    page *p = highmem_alloc(GFP_HIGHUSER);
    page *q = highmem_alloc(GFP_ATOMIC | __GFP_HIGHMEM); // of those that the first brought
    ASSERT_NE(q, nullptr);
    lock_guard held(highmem_lock());
    EXPECT_EQ(highmem_alloc(GFP_ATOMIC | __GFP_HIGHMEM), nullptr);
    highmem_free(q, GFP_ATOMIC); // left to the next holder
    static_cast<void>(p);
}

TEST_F(HighmemTest, HandlersLeaveFreesToTheNextHolder) {
    page *p = highmem_alloc(GFP_HIGHUSER);
    page *q = highmem_alloc(GFP_HIGHUSER);
    {
        slow_path interrupted;
        lock_guard held(highmem_lock());
        highmem_free(p, GFP_KERNEL);
        highmem_free(q, GFP_KERNEL);
    }
    EXPECT_EQ(nr_free_highpages(), kPages);
    std::set<page *> different;
    for (uint32_t i = 0; i < kPages; i++)
        different.insert(highmem_alloc(GFP_HIGHUSER));
    EXPECT_EQ(different.size(), kPages);
    EXPECT_TRUE(different.contains(p) && different.contains(q));
}

TEST_F(HighmemTest, SecondFreesAndMappedPagesAreReported) {
    auto end = in_child([] {
        mutable_options().on_error = error_policy::report;
        page *p = highmem_alloc(GFP_HIGHUSER);
        kmap(public_page(p));
        highmem_free(p, GFP_KERNEL);
        kunmap(public_page(p));
        highmem_free(p, GFP_KERNEL);
        highmem_free(p, GFP_KERNEL);
        EXPECT_EQ(nr_free_highpages(), kPages);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("still mapped by kmap()")) << end.errors;
    EXPECT_TRUE(end.said("free already")) << end.errors;
    EXPECT_EQ(end.lines(), 2u);
}

TEST_F(HighmemTest, VmapGathersThem) {
    std::vector<::page *> pages;
    for (uint64_t i = 0; i < 100; i++) {
        page *p = highmem_alloc(GFP_HIGHUSER);
        set_word(p, i * i);
        pages.insert(i % 2 == 0 ? pages.begin() : pages.end(), public_page(p));
    }
    char *all = static_cast<char *>(vmap(pages.data(), 100, VM_MAP, PAGE_KERNEL));
    ASSERT_NE(all, nullptr);
    for (size_t i = 0; i < 100; i++) {
        char *one = static_cast<char *>(kmap(pages[i]));
        ASSERT_EQ(memcmp(all + i * kPageSize, one, kPageSize), 0);
        kunmap(pages[i]);
        EXPECT_EQ(pagoda_highmem_address(pages[i]), nullptr);
    }
    vunmap(all);
}

// The page allocator's calls serve from the zone and take its pages back.
TEST_F(HighmemTest, AllocPageGivesThemOnRequestOnly) {
    ::page *high = alloc_page(GFP_HIGHUSER | __GFP_ZERO);
    ASSERT_NE(high, nullptr);
    EXPECT_TRUE(PageHighMem(high));
    EXPECT_EQ(page_address(high), nullptr);
    EXPECT_EQ(nr_free_highpages(), kPages - 1);
    strcpy(static_cast<char *>(kmap(high)), "high");
    EXPECT_STREQ(static_cast<char *>(page_address(high)), "high");
    kunmap(high);
    EXPECT_EQ(page_address(high), nullptr);

    for (auto [gfp, order] : {std::pair<gfp_t, unsigned>{GFP_KERNEL, 0}, {GFP_HIGHUSER, 1}}) {
        ::page *low = alloc_pages(gfp, order);
        EXPECT_FALSE(PageHighMem(low));
        EXPECT_NE(page_address(low), nullptr);
        __free_pages(low, order);
    }
    EXPECT_EQ(alloc_page(GFP_HIGHUSER | __GFP_DMA | __GFP_NOWARN), nullptr);
    EXPECT_EQ(nr_free_highpages(), kPages - 1);

    EXPECT_EQ(page_ref_count(high), 1);
    get_page(high);
    EXPECT_EQ(page_ref_inc_return(high), 3);
    EXPECT_EQ(compound_head(high), high);
    EXPECT_EQ(compound_order(high), 0u);
    EXPECT_TRUE(page_ref_sub_return(high, 1) == 2);
    put_page(high);
    EXPECT_EQ(nr_free_highpages(), kPages - 1);
    __free_page(high);
    EXPECT_EQ(nr_free_highpages(), kPages);

    pagoda_sysinfo info;
    si_meminfo(&info);
    EXPECT_EQ(info.totalhigh, kPages);
    pagoda_zone_info zone;
    ASSERT_TRUE(pagoda_zoneinfo(3, &zone));
    EXPECT_EQ(zone.free, kPages);
}

TEST_F(HighmemTest, NormalServesWhenTheyAreUsedUp) {
    std::vector<::page *> all(kPages + 100);
    EXPECT_EQ(alloc_pages_bulk(GFP_HIGHUSER, all.size(), all.data()), all.size());
    EXPECT_EQ(std::count_if(all.begin(), all.end(), PageHighMem), kPages);
    for (size_t i = 0; i < all.size(); i++)
        memset_page(all[i], 0, static_cast<int>(i), PAGE_SIZE);
    for (size_t i = 0; i < all.size(); i++) {
        char last = 0;
        memcpy_from_page(&last, all[i], PAGE_SIZE - 1, 1);
        ASSERT_EQ(last, static_cast<char>(i));
        __free_page(all[i]);
    }
    EXPECT_EQ(nr_free_highpages(), kPages);
}

TEST_F(HighmemTest, SecondFreesOfThePageAllocatorAreReported) {
    auto end = in_child([] {
        mutable_options().on_error = error_policy::report;
        ::page *p = alloc_page(GFP_HIGHUSER);
        __free_page(p);
        __free_page(p);
        put_page(p);
        ::page *q = alloc_page(GFP_HIGHUSER);
        __free_pages(q, 1); // not its order
        EXPECT_EQ(nr_free_highpages(), kPages - 1);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("double free")) << end.errors;
}

TEST_F(HighmemTest, AForkChildHasAZoneOfItsOwn) {
    page *p = highmem_alloc(GFP_HIGHUSER);
    set_word(p, 5);
    auto end = in_child([&] {
        highmem_after_fork_in_child(); // as the fork handler does
        EXPECT_EQ(word(p), 5u);
        for (uint32_t i = 0; i < kPages; i++)
            set_word(highmem_alloc(GFP_HIGHUSER), 7);
        highmem_free(p, GFP_KERNEL);
        EXPECT_EQ(highmem_alloc(GFP_HIGHUSER), nullptr); // the parent's stays the parent's
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(word(p), 5u);
}

// Far more content than the process may have addresses for.
TEST_F(HighmemTest, HoldsMoreThanTheAddressSpace) {
    auto end = in_child([] {
        constexpr uint64_t kMany = 100 << 20 >> kPageShift;
        mutable_options().highmem_bytes = 128 << 20;
        std::vector<page *> pages(kMany);
        pages[0] = highmem_alloc(GFP_HIGHUSER);
        set_word(pages[0], 1);
        test::limit(RLIMIT_AS, test::process_figure("VmSize") + (4 << 20));
        for (uint64_t i = 1; i < kMany; i++) {
            pages[i] = highmem_alloc(GFP_HIGHUSER);
            ASSERT_NE(pages[i], nullptr) << i;
            set_word(pages[i], i * 0x9e3779b97f4a7c15ULL);
        }
        for (uint64_t i = 1; i < kMany; i++)
            ASSERT_EQ(word(pages[i]), i * 0x9e3779b97f4a7c15ULL) << i;
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(HighmemTest, ThreadsShareTheZone) {
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++)
        threads.emplace_back([t] {
            random_numbers random(t);
            std::vector<page *> mine;
            for (int i = 0; i < 3000; i++) {
                if (mine.size() < 100 && random.below(2) == 0) {
                    mine.push_back(highmem_alloc(GFP_HIGHUSER));
                    ASSERT_NE(mine.back(), nullptr);
                    set_word(mine.back(), t);
                } else if (!mine.empty()) {
                    ASSERT_EQ(word(mine.back()), t);
                    highmem_free(mine.back(), GFP_KERNEL);
                    mine.pop_back();
                }
            }
            for (page *p : mine)
                highmem_free(p, GFP_KERNEL);
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(nr_free_highpages(), kPages);
}

} // namespace
} // namespace pagoda
