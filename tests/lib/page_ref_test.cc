#include "lib/page_ref.h"

#include "hugepage/options.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "tests/unit.h"

#include <pagoda/mm.h>
#include <pagoda/vmalloc.h>

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

class references : public ::testing::Test {
  protected:
    // With the reserve, so that what is in use changes by what the tests take only.
    void SetUp() override { ASSERT_TRUE(kernel_api_init()); }
    static uint64_t used() {
        zone_stats s = zone_normal().stats();
        return s.present - s.free;
    }
    template <class F> static child_end reported(F body) {
        return in_child([&] {
            mutable_options().on_error = error_policy::report;
            body();
        });
    }
};

TEST_F(references, of_a_page_end_with_the_last_one) {
    uint64_t before = used();
    ::page *p = alloc_page(GFP_KERNEL);
    EXPECT_EQ(page_ref_count(p), 1);
    get_page(p);
    EXPECT_EQ(page_ref_count(p), 2);
    __free_page(p);
    EXPECT_EQ(page_ref_count(p), 1);
    EXPECT_EQ(used(), before + 1);
    put_page(p);
    EXPECT_EQ(used(), before);
}

TEST_F(references, of_a_compound_page_are_those_of_its_first) {
    uint64_t before = used();
    ::page *p = alloc_pages(GFP_KERNEL | __GFP_COMP, 4);
    EXPECT_EQ(compound_order(p), 4u);
    EXPECT_EQ(compound_nr(p), 16u);
    EXPECT_EQ(page_size(p), 16 * PAGE_SIZE);
    for (unsigned long i = 1; i < 16; i++) {
        ::page *tail = nth_page(p, i);
        EXPECT_EQ(compound_head(tail), p);
        EXPECT_EQ(compound_order(tail), 0u);
        EXPECT_EQ(page_ref_count(tail), 0);
        EXPECT_EQ(page_count(tail), static_cast<int>(i));
        get_page(tail);
    }
    EXPECT_EQ(page_ref_count(p), 16);
    __free_pages(p, 4);
    for (unsigned long i = 1; i < 15; i++)
        put_page(nth_page(p, i));
    EXPECT_EQ(used(), before + 16);
    put_page(nth_page(p, 15));
    EXPECT_EQ(used(), before);
}

TEST_F(references, of_another_block_are_on_its_first_page_only) {
    ::page *p = alloc_pages(GFP_KERNEL, 2);
    EXPECT_EQ(page_ref_count(p), 1);
    for (unsigned long i = 1; i < 4; i++) {
        EXPECT_EQ(page_ref_count(nth_page(p, i)), 0);
        EXPECT_EQ(compound_head(nth_page(p, i)), nth_page(p, i));
    }
    EXPECT_EQ(compound_order(p), 0u);
    __free_pages(p, 2);
}

TEST_F(references, of_its_later_pages_are_refused) {
    child_end end = reported([] {
        ::page *p = alloc_pages(GFP_KERNEL, 2);
        uint64_t before = used();
        get_page(nth_page(p, 2));
        EXPECT_EQ(page_ref_count(nth_page(p, 2)), 0);
        put_page(nth_page(p, 2)); // would free it out of the block
        EXPECT_EQ(used(), before);
        __free_pages(p, 2);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("get_page of 0x"));
    EXPECT_TRUE(end.said("which is not compound")) << end.errors;
}

TEST_F(references, of_others_keep_the_first_page_of_a_freed_block) {
    uint64_t before = used();
    ::page *p = alloc_pages(GFP_KERNEL, 3);
    get_page(p);
    memset(page_address(p), 0x11, PAGE_SIZE);
    __free_pages(p, 3);
    EXPECT_EQ(used(), before + 1);
    EXPECT_EQ(page_ref_count(p), 1);
    put_page(p);
    EXPECT_EQ(used(), before);
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_F(references, are_counted_as_the_kernel_does) {
    ::page *p = alloc_page(GFP_KERNEL);
    page_ref_add(p, 9);
    EXPECT_EQ(page_ref_count(p), 10);
    page_ref_sub(p, 4);
    EXPECT_EQ(page_ref_inc_return(p), 7);
    EXPECT_EQ(page_ref_dec_return(p), 6);
    EXPECT_EQ(page_ref_sub_return(p, 3), 3);
    page_ref_inc(p);
    page_ref_dec(p);
    EXPECT_FALSE(page_ref_sub_and_test(p, 1));
    EXPECT_FALSE(page_ref_add_unless(p, 5, 2));
    EXPECT_TRUE(page_ref_add_unless(p, 5, 3));
    EXPECT_FALSE(page_ref_freeze(p, 3));
    EXPECT_TRUE(page_ref_freeze(p, 7));
    EXPECT_FALSE(get_page_unless_zero(p));
    page_ref_unfreeze(p, 2);
    EXPECT_TRUE(get_page_unless_zero(p));
    page_ref_sub(p, 2);
    __free_page(p);
}

// __free_pages() of a block while somebody else gives up the reference that he has to its first
// page: whoever is last, every page is freed once.
TEST_F(references, to_a_block_may_end_on_two_threads_at_once) {
    constexpr int kRounds = 50'000;
    auto wait_until = [](auto is_so) {
        for (int spins = 0; !is_so(); spins++)
            if (spins % 1000 == 999)
                std::this_thread::yield();
    };
    uint64_t before = used();
    std::atomic<::page *> shared{nullptr};
    std::atomic<int> round{0};
    std::thread other([&] {
        for (int i = 1; i <= kRounds; i++) {
            wait_until([&] { return round.load() == i; });
            put_page(shared.load());
            shared = nullptr;
        }
    });
    for (int i = 1; i <= kRounds; i++) {
        ::page *p = alloc_pages(GFP_KERNEL, 2);
        ASSERT_NE(p, nullptr);
        get_page(p);
        shared = p;
        round = i;
        for (int wait = i % 64; wait > 0; wait--)
            asm volatile("");
        __free_pages(p, 2);
        wait_until([&] { return shared.load() == nullptr; });
    }
    other.join();
    __free_page(alloc_page(GFP_KERNEL)); // what a try of a lock left over
    EXPECT_EQ(used(), before);
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_F(references, that_do_not_exist_cannot_be_dropped) {
    child_end end = reported([] {
        uint64_t before = used();
        ::page *p = alloc_pages(GFP_KERNEL, 2);
        put_page(p); // three pages would be lost
        EXPECT_EQ(used(), before + 4);
        EXPECT_EQ(page_ref_count(p), 1);
        put_page(nth_page(p, 1)); // has none
        EXPECT_EQ(used(), before + 4);
        __free_pages(p, 2);
        put_page(p);
        get_page(p);
        EXPECT_EQ(page_ref_count(p), 0);
        EXPECT_EQ(used(), before);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("a block of order 2 that is not compound")) << end.errors;
    EXPECT_TRUE(end.said("double free"));
    EXPECT_TRUE(end.said("put_page of"));
    EXPECT_TRUE(end.said("get_page of"));
    EXPECT_TRUE(end.said("page_ref_count of"));
}

TEST_F(references, of_memory_that_is_not_the_page_allocators_are_reported) {
    child_end end = reported([] {
        void *object = heap_alloc(64, GFP_KERNEL);
        int local = 0;
        EXPECT_EQ(page_ref_count(virt_to_page(object)), 0);
        EXPECT_EQ(page_ref_count(virt_to_page(&local)), 0);
        EXPECT_EQ(page_ref_inc_return(virt_to_page(&local)), 0);
        EXPECT_FALSE(page_ref_freeze(virt_to_page(&local), 1));
        get_page(vmalloc_to_page(vmalloc(1)));
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 5u) << end.errors;
}

TEST_F(references, say_nothing_about_whose_address_is_valid) {
    void *p = reinterpret_cast<void *>(__get_free_page(GFP_KERNEL));
    void *object = heap_alloc(64, GFP_KERNEL);
    int local = 0;
    EXPECT_TRUE(virt_addr_valid(p));
    EXPECT_TRUE(virt_addr_valid(object));
    EXPECT_FALSE(virt_addr_valid(&local));
    EXPECT_FALSE(virt_addr_valid(nullptr));
    free_page(reinterpret_cast<unsigned long>(p));
    EXPECT_FALSE(virt_addr_valid(p));
    heap_free(object, GFP_KERNEL);
}

} // namespace
} // namespace pagoda::test
