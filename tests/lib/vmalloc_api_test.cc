#include "lib/vmalloc_api.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"
#include "tests/contents.h"
#include "tests/unit.h"

#include <pagoda/mm.h>
#include <pagoda/pagoda.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <map>
#include <setjmp.h>
#include <vector>

namespace pagoda::test {
namespace {

constexpr size_t kMiB = 1 << 20;

sigjmp_buf fault_return;
void on_fault(int) { siglongjmp(fault_return, 1); }

// Whether a byte can be read: by trying.
bool readable(const void *p) {
    struct sigaction act = {};
    struct sigaction old = {};
    act.sa_handler = on_fault;
    sigaction(SIGSEGV, &act, &old);
    volatile bool ok = false;
    if (sigsetjmp(fault_return, 1) == 0) {
        static_cast<void>(*static_cast<const volatile char *>(p));
        ok = true;
    }
    sigaction(SIGSEGV, &old, nullptr);
    return ok;
}

class vmalloc_names : public ::testing::Test {
  protected:
    // With the reserve, so that what is in use changes by what the tests take only.
    void SetUp() override { ASSERT_TRUE(kernel_api_init()); }
    static size_t pages_of(size_t size) { return align_up(size, sys::page_size()); }
    // The last byte of the area is there, and the next one is not.
    static bool guarded(const void *p, size_t size) {
        const char *bytes = static_cast<const char *>(p);
        return readable(bytes + pages_of(size) - 1) && !readable(bytes + pages_of(size)) &&
               !readable(bytes + pages_of(size) + sys::page_size() - 1);
    }
    template <class F> static child_end reported(F body) {
        return in_child([&] {
            mutable_options().on_error = error_policy::report;
            body();
        });
    }
};

TEST_F(vmalloc_names, give_whole_pages_in_the_range) {
    unsigned long pages = vmalloc_nr_pages();
    for (size_t size : {size_t{1}, size_t{4096}, size_t{4097}, size_t{300'000}, 3 * kMiB}) {
        void *p = vmalloc(size);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % PAGE_SIZE, 0u);
        EXPECT_GE(reinterpret_cast<uintptr_t>(p), VMALLOC_START);
        EXPECT_LE(reinterpret_cast<uintptr_t>(p) + size, VMALLOC_END);
        EXPECT_TRUE(is_vmalloc_addr(p));
        EXPECT_EQ(vmalloc_nr_pages(), pages + pages_of(size) / PAGE_SIZE);
        fill(p, pages_of(size), size);
        EXPECT_TRUE(intact(p, pages_of(size), size));
        vfree(p);
        EXPECT_EQ(vmalloc_nr_pages(), pages);
    }
    int local = 0;
    EXPECT_FALSE(is_vmalloc_addr(&local));
    EXPECT_FALSE(is_vmalloc_addr(nullptr));
    void *page = reinterpret_cast<void *>(__get_free_page(GFP_KERNEL));
    EXPECT_FALSE(is_vmalloc_addr(page));
    free_page(reinterpret_cast<unsigned long>(page));
    EXPECT_EQ(VMALLOC_TOTAL, kVmallocSpan);
    vfree(nullptr);
    vfree_atomic(nullptr);
}

TEST_F(vmalloc_names, refuse_what_cannot_be) {
    EXPECT_EQ(vmalloc(0), nullptr);
    volatile size_t huge = size_t{1} << 60;
    EXPECT_EQ(vmalloc(huge), nullptr);
    EXPECT_EQ(vmalloc(VMALLOC_TOTAL), nullptr);
    EXPECT_EQ(vmalloc_array(huge, 1 << 10), nullptr);
    EXPECT_EQ(vcalloc(huge, 1 << 10), nullptr);
    EXPECT_EQ(__vmalloc_array(huge, 1 << 10, GFP_KERNEL), nullptr);
    EXPECT_EQ(__vcalloc(huge, 1 << 10, GFP_KERNEL), nullptr);
    EXPECT_EQ(__vmalloc_node(8192, 8192, GFP_KERNEL, 0, nullptr), nullptr);
}

TEST_F(vmalloc_names, need_flags_that_may_block) {
    child_end end = in_child([] {
        EXPECT_EQ(__vmalloc(8192, GFP_NOWAIT), nullptr); // has __GFP_NOWARN
        EXPECT_EQ(__vmalloc(8192, GFP_ATOMIC), nullptr);
        EXPECT_EQ(__vmalloc(8192, GFP_ATOMIC | __GFP_NOFAIL), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("may not block"));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    for (gfp_t gfp : {GFP_NOIO, GFP_NOFS, GFP_KERNEL | __GFP_NOFAIL, GFP_KERNEL | __GFP_HIGHMEM}) {
        void *p = __vmalloc(8192, gfp);
        EXPECT_NE(p, nullptr);
        vfree(p);
    }
}

TEST_F(vmalloc_names, are_not_made_of_memory_for_32_bit_devices) {
    child_end end = in_child([] {
        EXPECT_EQ(vmalloc_32(8192), nullptr);
        EXPECT_EQ(vmalloc_32_user(8192), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("alloc_pages_exact"));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST_F(vmalloc_names, that_zero_do_so_in_used_memory_too) {
    for (size_t size : {size_t{8192}, 3 * kMiB}) {
        void *p = vmalloc(size);
        memset(p, 0xee, size);
        vfree(p);
        for (void *z : {vzalloc(size), vzalloc_node(size, 0), vmalloc_user(size),
                        __vmalloc(size, GFP_KERNEL | __GFP_ZERO), vcalloc(size / 16, 16)}) {
            ASSERT_NE(z, nullptr);
            EXPECT_TRUE(all_zero(z, size));
            memset(z, 0xee, size);
            vfree(z);
        }
    }
    void *p = vmalloc_huge(4 * kMiB, GFP_KERNEL | __GFP_ZERO);
    EXPECT_TRUE(all_zero(p, 4 * kMiB));
    vfree(p);
    p = vmalloc_huge_node(4 * kMiB, GFP_KERNEL, 0);
    EXPECT_NE(p, nullptr);
    vfree(p);
    p = vmalloc_node(100, 0);
    EXPECT_NE(p, nullptr);
    vfree(p);
}

// An area is whole pages, and with __GFP_ZERO all of it is zero: what a resize makes the caller's
// in its last page must be.
TEST_F(vmalloc_names, that_zero_do_so_up_to_the_last_page) {
    constexpr gfp_t kZeroed = GFP_KERNEL | __GFP_ZERO;
    constexpr size_t kSize = 5 * kMiB;
    auto dirty_area = [] {
        void *p = vmalloc(kSize);
        memset(p, 0xee, kSize);
        vfree(p);
    };
    dirty_area();
    void *p = vzalloc(kSize - 4000);
    p = vrealloc(p, kSize - 100, kZeroed);
    EXPECT_TRUE(all_zero(p, kSize - 100));
    vfree(p);
    dirty_area();
    p = kvzalloc(kSize - 4000, GFP_KERNEL);
    ASSERT_TRUE(is_vmalloc_addr(p));
    p = kvrealloc(p, kSize - 100, kZeroed);
    EXPECT_TRUE(all_zero(p, kSize - 100));
    kvfree(p);
}

TEST_F(vmalloc_names, put_a_guard_behind_every_area) {
    for (size_t size : {size_t{1}, size_t{4096}, 2 * kMiB - 4096, 2 * kMiB, 5 * kMiB + 1}) {
        void *p = vmalloc(size);
        EXPECT_TRUE(guarded(p, size)) << size;
        vfree(p);
    }
}

TEST_F(vmalloc_names, put_a_guard_where_a_longer_area_was) {
    child_end end = in_child([] {
        for (bool malloced : {false, true}) {
            vmalloc_purge(0);
            void *longer = malloced ? vmalloc_alloc(4 * kMiB, kPageSize, GFP_KERNEL, nullptr)
                                    : vmalloc(4 * kMiB);
            memset(longer, 1, 4 * kMiB);
            EXPECT_TRUE(vmalloc_free(longer, GFP_KERNEL));
            void *p = vmalloc(3 * kMiB);
            EXPECT_EQ(p, longer); // its addresses serve again
            EXPECT_TRUE(guarded(p, 3 * kMiB));
            vfree(p);
        }
        // And none where malloc's areas follow: those may use all of what is there.
        vmalloc_purge(0);
        void *p = vmalloc(3 * kMiB);
        vfree(p);
        char *q = static_cast<char *>(vmalloc_alloc(3 * kMiB, kPageSize, GFP_KERNEL, nullptr));
        EXPECT_EQ(q, p);
        EXPECT_EQ(vmalloc_resize(q, 4 * kMiB - 4096, GFP_KERNEL), q);
        EXPECT_TRUE(readable(q + 3 * kMiB));
        EXPECT_TRUE(vmalloc_free(q, GFP_KERNEL));
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(vmalloc_names, warn_of_what_is_no_area_and_go_on) {
    child_end end = in_child([] { // with on_error=abort
        int local = 0;
        vfree(&local);
        vfree(reinterpret_cast<void *>(__get_free_page(GFP_KERNEL)));
        vfree(reinterpret_cast<void *>(VMALLOC_END - 4096));
        vfree_atomic(&local);
        EXPECT_EQ(vrealloc(&local, 100, GFP_KERNEL), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 5u) << end.errors;
    EXPECT_TRUE(end.said("no vmalloc area is there"));
}

TEST_F(vmalloc_names, report_areas_freed_twice_and_addresses_inside) {
    child_end end = reported([] {
        char *p = static_cast<char *>(vmalloc(3 * kMiB));
        vfree(p + 4096);
        vfree(p + 2 * kMiB);
        EXPECT_EQ(vrealloc(p + 2 * kMiB, kMiB, GFP_KERNEL), nullptr);
        EXPECT_EQ(vmalloc_size(p), 3 * kMiB);
        vfree(p);
        vfree(p);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 4u) << end.errors;
    EXPECT_TRUE(end.said("inside an object"));
    EXPECT_TRUE(end.said("double free"));
}

TEST_F(vmalloc_names, refuse_in_a_handler_and_free_later) {
    child_end end = in_child([] {
        void *p = vmalloc(8192);
        unsigned long pages = vmalloc_nr_pages();
        {
            slow_path interrupted;
            lock_guard g(vmalloc_lock()); // as a handler that came at the worst moment
            EXPECT_EQ(vmalloc(8192), nullptr);
            EXPECT_EQ(__vmalloc(8192, GFP_KERNEL | __GFP_NOFAIL), nullptr);
            EXPECT_EQ(vrealloc(p, 4096, GFP_KERNEL), nullptr);
            EXPECT_EQ(vmalloc_nr_pages(), 0u);
            vfree(p);
        }
        EXPECT_EQ(vmalloc_nr_pages(), pages); // the next call does the work
        void *q = vmalloc(8192);
        EXPECT_EQ(vmalloc_nr_pages(), pages);
        vfree_atomic(q);
        EXPECT_EQ(vmalloc_nr_pages(), pages - 2);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), kDebug ? 3u : 0u) << end.errors;
    EXPECT_EQ(end.said("in a handler"), kDebug);
}

TEST_F(vmalloc_names, resize) {
    EXPECT_EQ(vrealloc(nullptr, 0, GFP_KERNEL), nullptr);
    gfp_t gfp = GFP_KERNEL | __GFP_ZERO;
    char *p = static_cast<char *>(vrealloc(nullptr, 100, gfp));
    size_t size = 100;
    fill(p, size, 1);
    for (size_t next :
         {size_t{3000}, size_t{4096}, size_t{4097}, size_t{100'000}, 3 * kMiB, 9 * kMiB, 2 * kMiB,
          size_t{5000}, size_t{4000}, size_t{70'000}, size_t{8}}) {
        uint64_t tag = next;
        p = static_cast<char *>(vrealloc(p, next, gfp));
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(intact(p, min_of(size, next), size == 100 ? 1 : size)) << next;
        if (next > size) {
            EXPECT_TRUE(all_zero(p + size, next - size)) << next;
        }
        EXPECT_TRUE(guarded(p, next)) << next;
        EXPECT_EQ(vmalloc_size(p), pages_of(next));
        fill(p, next, tag);
        size = next;
    }
    EXPECT_EQ(vrealloc_node_align(p, 100, 8192, gfp, 0), nullptr);
    EXPECT_EQ(vrealloc(p, VMALLOC_TOTAL, gfp), nullptr);
    EXPECT_EQ(vmalloc_size(p), pages_of(8));
    EXPECT_EQ(vrealloc(p, 0, gfp), nullptr);
    EXPECT_EQ(vmalloc_size(p), 0u);
}

TEST_F(vmalloc_names, resize_what_malloc_made_and_guard_it) {
    child_end end = in_child([] {
        vmalloc_purge(0);
        void *longer = vmalloc_alloc(4 * kMiB, kPageSize, GFP_KERNEL, nullptr);
        memset(longer, 0xff, 4 * kMiB);
        EXPECT_TRUE(vmalloc_free(longer, GFP_KERNEL));
        char *p = static_cast<char *>(heap_alloc(3 * kMiB, GFP_KERNEL));
        EXPECT_EQ(p, longer); // with the rest mapped behind it
        EXPECT_TRUE(readable(p + 3 * kMiB));
        p = static_cast<char *>(vrealloc(p, 3 * kMiB + 8192, GFP_KERNEL | __GFP_ZERO));
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(all_zero(p + 3 * kMiB, 8192));
        EXPECT_TRUE(guarded(p, 3 * kMiB + 8192));
        heap_free(p, GFP_KERNEL); // one heap
    });
    EXPECT_TRUE(succeeded(end));
}

// What malloc's area has behind it would go back to the system for the guard.
TEST_F(vmalloc_names, resize_what_malloc_made_by_copying_without_io) {
    vmalloc_purge(0);
    auto *p = static_cast<char *>(heap_alloc(4 * kMiB, GFP_KERNEL));
    memset(p, 1, 4 * kMiB);
    heap_free(p, GFP_KERNEL);
    auto *slack = static_cast<char *>(heap_alloc(3 * kMiB, GFP_KERNEL));
    ASSERT_EQ(slack, p);
    for (size_t size : {2 * kMiB, 5 * kMiB}) {
        EXPECT_TRUE(resident(p + 4 * kMiB - 1));
        auto *q = static_cast<char *>(vrealloc(slack, size, GFP_NOIO));
        ASSERT_NE(q, nullptr);
        EXPECT_EQ(*q, 1);
        EXPECT_NE(q, p);
        EXPECT_TRUE(resident(p + 4 * kMiB - 1));
        vfree(q);
        slack = static_cast<char *>(heap_alloc(3 * kMiB, GFP_KERNEL));
        ASSERT_EQ(slack, p);
    }
    heap_free(slack, GFP_KERNEL);
}

TEST_F(vmalloc_names, resize_by_copying_where_pages_cannot_move) {
    child_end end = in_child([] {
        char *p = static_cast<char *>(vmalloc(8192));
        fill(p, 8192, 3);
        sys::inject_failures(0, 2); // in place, and elsewhere
        char *q = static_cast<char *>(vrealloc(p, 5 * kMiB, GFP_KERNEL));
        ASSERT_NE(q, nullptr);
        EXPECT_TRUE(intact(q, 8192, 3));
        EXPECT_TRUE(guarded(q, 5 * kMiB));
        sys::inject_failures(0, 1000);
        EXPECT_EQ(vrealloc(q, 50 * kMiB, GFP_KERNEL | __GFP_NOWARN), nullptr);
        sys::inject_failures(0, 0);
        EXPECT_TRUE(intact(q, 8192, 3)); // as it was
        vfree(q);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(vmalloc_names, are_charged_to_the_threads_group) {
    pagoda_group *group = pagoda_group_create("areas", 4 * kMiB);
    ASSERT_NE(group, nullptr);
    pagoda_group *before = pagoda_group_enter(group);
    void *p = __vmalloc(3 * kMiB - 100, GFP_KERNEL_ACCOUNT);
    EXPECT_EQ(pagoda_group_usage(group), 3 * kMiB);
    EXPECT_EQ(__vmalloc(2 * kMiB, GFP_KERNEL_ACCOUNT | __GFP_NOWARN), nullptr);
    EXPECT_EQ(vrealloc(p, 5 * kMiB, GFP_KERNEL_ACCOUNT | __GFP_NOWARN), nullptr);
    EXPECT_EQ(pagoda_group_usage(group), 3 * kMiB);
    p = vrealloc(p, 4 * kMiB, GFP_KERNEL_ACCOUNT);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(pagoda_group_usage(group), 4 * kMiB);
    p = vrealloc(p, kMiB, GFP_KERNEL_ACCOUNT);
    EXPECT_EQ(pagoda_group_usage(group), kMiB);
    void *other = vmalloc(8 * kMiB); // nobody's
    EXPECT_NE(other, nullptr);
    vfree(other);
    vfree(p);
    EXPECT_EQ(pagoda_group_usage(group), 0u);
    p = vmalloc(kMiB); // the same addresses, without the charge
    EXPECT_EQ(pagoda_group_usage(group), 0u);
    vfree(p);
    pagoda_group_enter(before);
    pagoda_group_destroy(group);
}

TEST_F(vmalloc_names, lead_from_addresses_to_pages_and_back) {
    char *p = static_cast<char *>(vmalloc(3 * 4096));
    for (size_t at : {size_t{0}, size_t{4096}, size_t{8192}}) {
        ::page *pg = vmalloc_to_page(p + at + 17);
        ASSERT_NE(pg, nullptr);
        EXPECT_EQ(page_address(pg), p + at);
        EXPECT_EQ(vmalloc_to_pfn(p + at), page_to_pfn(pg));
        EXPECT_EQ(pfn_to_page(page_to_pfn(pg)), pg);
    }
    EXPECT_EQ(vmalloc_to_page(p + 2 * 4096), nth_page(vmalloc_to_page(p), 2));
    EXPECT_EQ(vmalloc_to_page(p + pages_of(3 * 4096)), nullptr); // the guard
    int local = 0;
    EXPECT_EQ(vmalloc_to_page(&local), nullptr);
    EXPECT_EQ(vmalloc_to_pfn(nullptr), 0u);
    vfree(p);
    EXPECT_EQ(vmalloc_to_page(p), nullptr);
}

// 128 MiB of which three of four pages are free, and no free block of four pages anywhere.
class fragmented_zone {
  public:
    fragmented_zone() {
        mutable_options().thp = thp_policy::never;
        first_ = alloc_contig_pages(kPages, GFP_KERNEL, NUMA_NO_NODE, nullptr);
        memset(page_address(first_), 1, kBytes);
        full_ = process_figure("VmRSS");
        for (unsigned order = 9; order >= 2; order--)
            while (alloc_pages_nolock(0, NUMA_NO_NODE, order) != nullptr) {
            }
        for (unsigned long i = 0; i < kPages; i++)
            if (i % 4 != 0)
                __free_page(nth_page(first_, i));
    }
    // What the process held when all of it was in use, in bytes.
    uint64_t full() const { return full_; }
    bool intact() const {
        for (unsigned long i = 0; i < kPages; i += 4)
            if (*static_cast<char *>(page_address(nth_page(first_, i))) != 1)
                return false;
        return true;
    }
    static constexpr size_t kBytes = 128 * kMiB;

  private:
    static constexpr unsigned long kPages = kBytes / PAGE_SIZE;
    ::page *first_;
    uint64_t full_;
};

TEST_F(vmalloc_names, use_the_memory_of_a_fragmented_zone) {
    child_end end = in_child([] {
        fragmented_zone zone;
        EXPECT_EQ(alloc_pages_nolock(0, NUMA_NO_NODE, 9), nullptr);
        EXPECT_EQ(alloc_pages_nolock(0, NUMA_NO_NODE, 2), nullptr);
        size_t most = zone.kBytes / 4 * 3;
        void *p = vmalloc(most);
        ASSERT_NE(p, nullptr);
        memset(p, 2, most);
        // The pages that were free in between have been given back for it, but for what is kept.
        EXPECT_LT(process_figure("VmRSS"), zone.full() + 24 * kMiB);
        EXPECT_TRUE(zone.intact());
        vfree(p);
    });
    EXPECT_TRUE(succeeded(end));
}

// Contiguous for the program only: page frames are not consecutive, here because the pages are
// touched out of order. Without CAP_SYS_ADMIN the kernel does not show it.
TEST_F(vmalloc_names, lie_anywhere_in_the_machine) {
    constexpr size_t kPages = 8192;
    vmalloc_purge(0);
    auto *p = static_cast<char *>(vmalloc(kPages * PAGE_SIZE));
    ASSERT_NE(p, nullptr);
    for (size_t i = 0; i < kPages; i++)
        p[i * 3001 % kPages * PAGE_SIZE] = 1;
    int contiguous = pagoda_phys_contiguous(p, kPages * PAGE_SIZE);
    EXPECT_TRUE(contiguous == 0 || contiguous == -EPERM) << contiguous;
    for (size_t i = 0; i < kPages; i++)
        ASSERT_EQ(p[i * PAGE_SIZE], 1);
    vfree(p);
}

TEST_F(vmalloc_names, serve_kvmalloc_where_the_zone_is_fragmented) {
    child_end end = in_child([] {
        fragmented_zone zone;
        void *p = kvmalloc(64 * kMiB, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(is_vmalloc_addr(p));
        memset(p, 2, 64 * kMiB);
        EXPECT_LT(process_figure("VmRSS"), zone.full() + 24 * kMiB);
        EXPECT_TRUE(zone.intact());
        kvfree(p);
        EXPECT_EQ(vmalloc_size(p), 0u);
        p = vmalloc(8192);
        kvfree(p); // one heap
        EXPECT_EQ(vmalloc_size(p), 0u);
        p = vmalloc(8192);
        kfree(p);
        EXPECT_EQ(vmalloc_size(p), 0u);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(vmalloc_names, serve_as_many_areas_as_there_are_mappings) {
    child_end end = in_child([] {
        std::vector<char *> areas;
        for (int i = 0; i < 20'000; i++) {
            char *p = static_cast<char *>(vmalloc(1));
            ASSERT_NE(p, nullptr);
            *p = static_cast<char>(i);
            areas.push_back(p);
        }
        for (int i = 0; i < 20'000; i++)
            ASSERT_EQ(areas[static_cast<size_t>(i)][0], static_cast<char>(i));
        for (char *p : areas)
            vfree(p);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(vmalloc_names, behave_as_the_model) {
    struct area {
        size_t size;
        uint64_t tag;
    };
    unsigned long before = vmalloc_nr_pages();
    std::map<char *, area> live;
    random_numbers random(11);
    uint64_t pages = 0;
    for (uint64_t i = 0; i < 5'000; i++) {
        auto it = live.begin();
        if (!live.empty())
            std::advance(it, random.below(live.size()));
        unsigned kind = live.size() < 40 ? 0 : static_cast<unsigned>(random.below(3));
        if (kind != 0) {
            ASSERT_TRUE(intact(it->first, it->second.size, it->second.tag));
        }
        if (kind == 0 && live.size() < 60) {
            size_t size = random.skewed(22);
            bool zero = random.one_in(2);
            char *p = static_cast<char *>(zero ? vzalloc(size) : vmalloc(size));
            if (size == 0) {
                ASSERT_EQ(p, nullptr);
                continue;
            }
            ASSERT_NE(p, nullptr);
            if (zero) {
                ASSERT_TRUE(all_zero(p, size));
            }
            auto above = live.upper_bound(p);
            if (above != live.end()) {
                ASSERT_LE(p + pages_of(size) + PAGE_SIZE, above->first);
            }
            if (above != live.begin()) {
                ASSERT_LE(std::prev(above)->first + pages_of(std::prev(above)->second.size), p);
            }
            fill(p, size, i);
            live[p] = {size, i};
            pages += pages_of(size) / PAGE_SIZE;
        } else if (kind == 1) {
            size_t size = 1 + random.skewed(22);
            area old = it->second;
            char *p = static_cast<char *>(vrealloc(it->first, size, GFP_KERNEL));
            ASSERT_NE(p, nullptr);
            live.erase(it);
            ASSERT_TRUE(intact(p, min_of(size, old.size), old.tag) || size < old.size);
            fill(p, size, i);
            live[p] = {size, i};
            pages += pages_of(size) / PAGE_SIZE - pages_of(old.size) / PAGE_SIZE;
        } else {
            pages -= pages_of(it->second.size) / PAGE_SIZE;
            vfree(it->first);
            live.erase(it);
        }
        ASSERT_EQ(vmalloc_nr_pages(), before + pages);
        if (i % 100 == 0) {
            for (auto &[p, a] : live)
                ASSERT_TRUE(guarded(p, a.size));
        }
    }
    for (auto &[p, a] : live)
        vfree(p);
}

} // namespace
} // namespace pagoda::test
