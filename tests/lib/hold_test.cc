#include "lib/hold.h"

#include "hugepage/options.h"
#include "hugepage/provider.h"
#include "hugepage/report.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/hot_path.h"
#include "lib/kmalloc.h"
#include "lib/kmem_cache.h"
#include "lib/page_run.h"
#include "lib/pages.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"
#include "tests/contents.h"
#include "tests/unit.h"

#include <pagoda/memblock.h>
#include <pagoda/mm.h>
#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <algorithm>
#include <errno.h>
#include <fcntl.h>
#include <functional>
#include <set>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr size_t kMiB = 1 << 20;

class holds : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(heap_init());
        mutable_options().on_error = error_policy::report;
    }
};

char *at(void *p) { return static_cast<char *>(p); }

// The object is not handed out again: `take` makes others of its kind.
bool comes_back(void *p, size_t bytes, const std::function<void *()> &take,
                const std::function<void(void *)> &give) {
    std::vector<void *> others;
    bool seen = false;
    size_t tries = min_of(size_t{300}, size_t{32} * kMiB / bytes);
    for (size_t i = 0; i < tries && !seen; i++) {
        others.push_back(take());
        seen = others.back() == p;
    }
    for (void *each : others)
        give(each);
    return seen;
}

// What every kind of object promises: a free while it is held is reported and put off, a second one
// is a double free, and the last release frees it.
void check_kind(const std::function<void *()> &take, const std::function<void(void *)> &give,
                size_t bytes) {
    void *p = take();
    ASSERT_NE(p, nullptr);
    fill(p, bytes, 1);
    ASSERT_EQ(pagoda_object_hold(p, bytes), 0);
    ASSERT_EQ(pagoda_object_hold(at(p) + bytes - 1, 1), 0) << "anywhere in it";
    uint64_t reports = misuse_count();
    give(p);
    EXPECT_EQ(misuse_count(), reports + 1);
    EXPECT_FALSE(comes_back(p, bytes, take, give));
    EXPECT_TRUE(intact(p, bytes, 1));
    EXPECT_EQ(pagoda_object_hold(p, 1), -ENOENT) << "it was freed";
    reports = misuse_count();
    give(p);
    EXPECT_EQ(misuse_count(), reports + 1) << "double free";
    pagoda_object_release(at(p) + bytes / 2);
    EXPECT_FALSE(comes_back(p, bytes, take, give));
    EXPECT_TRUE(intact(p, bytes, 1));
    reports = misuse_count();
    pagoda_object_release(p);
    EXPECT_EQ(misuse_count(), reports);
    EXPECT_TRUE(comes_back(p, bytes, take, give)) << "now it is free";
}

void give_to_heap(void *p) { heap_free(p, GFP_KERNEL); }

// The reports of these go to a child's stderr.
template <class F> void quietly(F body) {
    child_end end = in_child([&] {
        mutable_options().on_error = error_policy::report;
        body();
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("that a device uses"));
}

TEST_F(holds, of_objects_of_slabs_put_frees_off) {
    quietly([] {
        for (size_t size : {16, 48, 64, 128, 1000, 2048, 4096, 8192, 24576, 32768})
            check_kind([=] { return heap_alloc(size, GFP_KERNEL); }, give_to_heap, size);
        check_kind([] { return kmalloc(8, GFP_KERNEL); }, [](void *p) { kfree(p); }, 8);
        check_kind([] { return kmalloc(100, GFP_KERNEL); }, [](void *p) { kfree(p); }, 100);
    });
}

TEST_F(holds, of_runs_put_frees_off) {
    quietly([] {
        for (size_t size : {size_t{40960}, size_t{131072}, 512 * 1024 + size_t{1}, kMiB})
            check_kind([=] { return heap_alloc(size, GFP_KERNEL); }, give_to_heap, size);
    });
}

TEST_F(holds, of_areas_put_frees_off) {
    quietly([] {
        check_kind([] { return heap_alloc(3 * kMiB, GFP_KERNEL); }, give_to_heap, 3 * kMiB);
        check_kind([] { return vmalloc(5 * kPageSize); }, [](void *p) { vfree(p); }, 5 * kPageSize);
        check_kind([] { return kvmalloc(9 * kMiB, GFP_KERNEL); }, [](void *p) { kvfree(p); },
                   9 * kMiB);
    });
}

TEST_F(holds, of_caches_objects_put_frees_off) {
    quietly([] {
        for (slab_flags_t flags :
             {SLAB_NO_MERGE, SLAB_RED_ZONE, SLAB_POISON | SLAB_STORE_USER, SLAB_TYPESAFE_BY_RCU}) {
            ::kmem_cache *c = pagoda_kmem_cache_create("holds", 200, nullptr, flags);
            ASSERT_NE(c, nullptr);
            auto take = [=] { return pagoda_kmem_cache_alloc(c, GFP_KERNEL); };
            check_kind(
                take, [=](void *p) { pagoda_kmem_cache_free(c, p); }, 200);
            check_kind(
                take, [](void *p) { kfree(p); }, 200);
            check_kind(
                take, [=](void *p) { pagoda_kmem_cache_free_bulk(c, 1, &p); }, 200);
            check_kind(
                take, [](void *p) { pagoda_kmem_cache_free_bulk(nullptr, 1, &p); }, 200);
            pagoda_kmem_cache_destroy(c);
        }
    });
}

TEST_F(holds, of_pages_put_frees_off) {
    quietly([] {
        for (gfp_t kind : {GFP_KERNEL, GFP_KERNEL | __GFP_COMP})
            for (unsigned order : {0u, 1u, 4u})
                check_kind([=] { return reinterpret_cast<void *>(__get_free_pages(kind, order)); },
                           [=](void *p) { free_pages(reinterpret_cast<unsigned long>(p), order); },
                           kPageSize << order);
        check_kind([] { return alloc_pages_exact(kPageSize, GFP_KERNEL); },
                   [](void *p) { free_pages_exact(p, kPageSize); }, kPageSize);
    });
}

TEST_F(holds, of_a_block_with_further_references_keep_its_tails) {
    quietly([] {
        ::page *block = alloc_pages(GFP_KERNEL, 2);
        ASSERT_NE(block, nullptr);
        char *p = at(page_address(block));
        get_page(block);
        ASSERT_EQ(pagoda_object_hold(p + 2 * kPageSize, kPageSize), 0);
        memset(p, 7, 4 * kPageSize);
        __free_pages(block, 2); // its tails would go at once
        std::vector<unsigned long> others;
        for (int i = 0; i < 100; i++) {
            others.push_back(__get_free_pages(GFP_KERNEL, 0));
            EXPECT_FALSE(others.back() - reinterpret_cast<unsigned long>(p) < 4 * kPageSize);
        }
        uint64_t live = pages_get_stats().pages;
        pagoda_object_release(p + 2 * kPageSize);
        EXPECT_EQ(pages_get_stats().pages, live - 3);
        put_page(block);
        EXPECT_EQ(pages_get_stats().pages, live - 4);
    });
}

TEST_F(holds, of_several_objects_in_a_bulk_free_put_off_those_alone) {
    quietly([] {
        ::kmem_cache *c = pagoda_kmem_cache_create("bulk", 64, nullptr, SLAB_NO_MERGE);
        void *objects[40];
        void *same[40];
        ASSERT_EQ(pagoda_kmem_cache_alloc_bulk(c, GFP_KERNEL, 40, objects), 40);
        memcpy(same, objects, sizeof same);
        for (int i = 0; i < 40; i += 7)
            ASSERT_EQ(pagoda_object_hold(same[i], 64), 0);
        uint64_t reports = misuse_count();
        pagoda_kmem_cache_free_bulk(c, 40, objects);
        EXPECT_EQ(misuse_count(), reports + 6);
        std::set<void *> again;
        for (int i = 0; i < 200; i++)
            again.insert(pagoda_kmem_cache_alloc(c, GFP_KERNEL));
        for (int i = 0; i < 40; i += 7) {
            EXPECT_EQ(again.count(same[i]), 0u);
            pagoda_object_release(same[i]);
        }
        for (void *p : again)
            pagoda_kmem_cache_free(c, p);
        EXPECT_EQ(misuse_count(), reports + 6);
        pagoda_kmem_cache_destroy(c); // says so where one is still in use
        EXPECT_EQ(misuse_count(), reports + 6);
    });
}

TEST_F(holds, make_realloc_copy) {
    quietly([] {
        for (size_t size :
             {size_t{100}, size_t{5000}, size_t{100'000}, size_t{700'000}, 4 * kMiB}) {
            for (size_t wanted : {size / 4, size * 3}) {
                char *p = at(heap_alloc(size, GFP_KERNEL));
                fill(p, size, 5);
                ASSERT_EQ(pagoda_object_hold(p, size), 0);
                uint64_t reports = misuse_count();
                char *q = at(heap_realloc(p, wanted, GFP_KERNEL));
                ASSERT_NE(q, nullptr);
                EXPECT_NE(q, p) << size << " to " << wanted;
                EXPECT_TRUE(intact(q, min_of(size, wanted), 5));
                EXPECT_TRUE(intact(p, size, 5));
                EXPECT_EQ(misuse_count(), reports + 1);
                pagoda_object_release(p);
                heap_free(q, GFP_KERNEL);
                EXPECT_EQ(misuse_count(), reports + 1);
            }
        }
        void *p = kmalloc(64, GFP_KERNEL);
        ASSERT_EQ(pagoda_object_hold(p, 64), 0);
        void *q = krealloc(p, 640, GFP_KERNEL);
        EXPECT_NE(q, p);
        pagoda_object_release(p);
        kfree(q);
        p = vmalloc(3 * kPageSize);
        ASSERT_EQ(pagoda_object_hold(p, 64), 0);
        q = vrealloc(p, 2 * kPageSize, GFP_KERNEL);
        EXPECT_NE(q, p);
        pagoda_object_release(p);
        vfree(q);
    });
}

TEST_F(holds, keep_contents_until_what_is_freed_sensitively_goes) {
    quietly([] {
        struct kind {
            std::function<void *()> take;
            std::function<void(void *)> give;
            size_t bytes;
        };
        auto give = [](void *p) { kfree_sensitive(p); };
        const kind kinds[] = {
            {[] { return kmalloc(64, GFP_KERNEL); }, give, 64},
            {[] { return kmalloc(100'000, GFP_KERNEL); }, give, 100'000},
            {[] { return kmalloc(kMiB, GFP_KERNEL); }, give, kMiB},
            {[] { return kvmalloc(5 * kMiB, GFP_KERNEL); },
             [](void *p) { kvfree_sensitive(p, 5 * kMiB); }, 5 * kMiB},
            {[] { return vmalloc(3 * kPageSize); }, [](void *p) { kvfree_sensitive(p, 100); },
             3 * kPageSize},
        };
        for (const kind &k : kinds) {
            SCOPED_TRACE(k.bytes);
            void *p = k.take();
            fill(p, k.bytes, 1);
            ASSERT_EQ(pagoda_object_hold(p, k.bytes), 0);
            ASSERT_EQ(pagoda_object_hold(p, 1), 0);
            uint64_t reports = misuse_count();
            k.give(p);
            EXPECT_EQ(misuse_count(), reports + 1);
            EXPECT_TRUE(intact(p, k.bytes, 1)) << "the device is not done";
            k.give(p);
            EXPECT_EQ(misuse_count(), reports + 2) << "double free";
            pagoda_object_release(p);
            EXPECT_TRUE(intact(p, k.bytes, 1)) << "nor now";
            pagoda_object_release(p);
            EXPECT_EQ(misuse_count(), reports + 2);
            const char *bytes = at(p);
            EXPECT_EQ(std::count(bytes, bytes + k.bytes, 0), static_cast<long>(k.bytes))
                << "free memory, which is still mapped";
            EXPECT_TRUE(comes_back(p, k.bytes, k.take, k.give)) << "now it is free";
            // One that was held once is free at once.
            p = k.take();
            ASSERT_EQ(pagoda_object_hold(p, 1), 0);
            pagoda_object_release(p);
            k.give(p);
            EXPECT_EQ(misuse_count(), reports + 2);
        }
    });
}

TEST_F(holds, leave_neighbours_alone) {
    std::vector<char *> all;
    for (int i = 0; i < 500; i++)
        all.push_back(at(heap_alloc(96, GFP_KERNEL)));
    ASSERT_EQ(pagoda_object_hold(all[250], 96), 0);
    EXPECT_EQ(heap_usable_size(all[250]), heap_usable_size(all[249]));
    EXPECT_EQ(class_of_pointer(all[250]), class_of_pointer(all[0]));
    uint64_t reports = misuse_count();
    for (int i = 0; i < 500; i++)
        if (i != 250)
            heap_free(all[static_cast<size_t>(i)], GFP_KERNEL);
    heap_trim(0);
    pagoda_object_release(all[250]);
    heap_free(all[250], GFP_KERNEL);
    EXPECT_EQ(misuse_count(), reports);
}

TEST_F(holds, give_the_page_its_class_back_when_nothing_on_it_is_held) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(stays_on_one_cpu()); // the loop below frees on q's page
        std::vector<void *> all;
        void *p = heap_alloc(512, GFP_KERNEL);
        void *q = heap_alloc(512, GFP_KERNEL);
        while (page_index(q) != page_index(p)) {
            all.push_back(q);
            q = heap_alloc(512, GFP_KERNEL);
        }
        ASSERT_EQ(pagoda_object_hold(p, 512), 0);
        ASSERT_EQ(pagoda_object_hold(q, 512), 0);
        EXPECT_EQ(marked_class(p), kClassHeld);
        pagoda_object_release(p);
        heap_free(p, GFP_KERNEL);
        EXPECT_EQ(marked_class(q), kClassHeld) << "the other one is";
        pagoda_object_release(q);
        heap_free(q, GFP_KERNEL);
        for (int i = 0; i < 20; i++) // not at the first free
            heap_free(heap_alloc(512, GFP_KERNEL), GFP_KERNEL);
        EXPECT_EQ(marked_class(q), class_for_size(512));
        void *run = heap_alloc(40960, GFP_KERNEL);
        ASSERT_EQ(pagoda_object_hold(run, 1), 0);
        EXPECT_EQ(marked_class(run), kClassHeld);
        pagoda_object_release(run);
        heap_free(run, GFP_KERNEL);
        EXPECT_NE(marked_class(run), kClassHeld);
        for (void *each : all)
            heap_free(each, GFP_KERNEL);
    })));
}

TEST_F(holds, refuse_what_is_no_live_object) {
    int on_stack = 0;
    EXPECT_EQ(pagoda_object_hold(&on_stack, 1), -EFAULT);
    EXPECT_EQ(pagoda_object_hold(nullptr, 1), -EFAULT);
    pagoda_object_release(&on_stack);
    char *p = at(heap_alloc(1000, GFP_KERNEL));
    size_t usable = heap_usable_size(p);
    EXPECT_EQ(pagoda_object_hold(p, usable), 0);
    EXPECT_EQ(pagoda_object_hold(p + 1, usable), -ERANGE);
    EXPECT_EQ(pagoda_object_hold(p, ~size_t{0}), -ERANGE);
    pagoda_object_release(p);
    pagoda_object_release(p); // one too many does nothing
    heap_free(p, GFP_KERNEL);
    for (size_t size : {size_t{50'000}, 2 * kMiB}) {
        p = at(heap_alloc(size, GFP_KERNEL));
        usable = heap_usable_size(p);
        EXPECT_EQ(pagoda_object_hold(p + 5, usable), -ERANGE);
        EXPECT_EQ(pagoda_object_hold(p + 5, usable - 5), 0);
        pagoda_object_release(p + 9000);
        heap_free(p, GFP_KERNEL);
    }
    EXPECT_EQ(pagoda_object_hold(p, 1), -ENOENT) << "an area that is free";
    unsigned long pages = __get_free_pages(GFP_KERNEL, 1);
    EXPECT_EQ(pagoda_object_hold(at(reinterpret_cast<void *>(pages)) + 1, 2 * kPageSize), -ERANGE);
    free_pages(pages, 1);
}

// Freed memory is this heap's, and not for anybody to copy or map; what was set aside is somebody
// else's.
TEST_F(holds, tell_freed_memory_from_what_was_set_aside) {
    EXPECT_TRUE(succeeded(in_child([] {
        for (size_t size : {size_t{512}, size_t{70'000}, kMiB}) {
            std::vector<void *> all;
            for (int i = 0; i < 100; i++)
                all.push_back(heap_alloc(size, GFP_KERNEL));
            for (void *p : all)
                heap_free(p, GFP_KERNEL);
            heap_trim(0);
            EXPECT_EQ(marked_class(all[50]), kClassNone);
            EXPECT_EQ(pagoda_object_hold(all[50], size), -ENOENT) << size;
        }
        unsigned long page = __get_free_pages(GFP_KERNEL, 0);
        free_page(page);
        EXPECT_EQ(pagoda_object_hold(reinterpret_cast<void *>(page), 1), -ENOENT);
        ASSERT_EQ(pagoda_contig_reserve(2 * kMiB), 0);
        char *contig = at(pagoda_contig_alloc(kMiB, kPageSize));
        EXPECT_EQ(pagoda_object_hold(contig, kMiB), -EFAULT);
        ASSERT_EQ(pagoda_boot_reserve(4 * kMiB), 0);
        char *boot = at(memblock_alloc(3 * kPageSize, kPageSize));
        EXPECT_EQ(pagoda_object_hold(boot, kPageSize), -EFAULT);
        char *given = at(pagoda_memblock_virt(memblock_start_of_DRAM()));
        EXPECT_EQ(pagoda_object_hold(given, 1), -EFAULT) << "nobody's, but not the heap's yet";
        memblock_free_all();
        EXPECT_EQ(pagoda_object_hold(given, 1), -ENOENT);
        EXPECT_EQ(pagoda_object_hold(boot, kPageSize), -EFAULT) << "this stays";
        memblock_free_late(memblock_start_of_DRAM() + static_cast<size_t>(boot - given) + kPageSize,
                           kPageSize);
        EXPECT_EQ(pagoda_object_hold(boot + kPageSize, 1), -ENOENT);
        EXPECT_EQ(pagoda_object_hold(boot, kPageSize), -EFAULT);
        uintptr_t end = g_pagemap.base + (g_pagemap.frontier << kPageShift);
        EXPECT_EQ(pagoda_object_hold(reinterpret_cast<void *>(end - 1), 1), -EFAULT)
            << "the zone does not reach so far";
    })));
}

TEST_F(holds, are_counted) {
    void *p = heap_alloc(64, GFP_KERNEL);
    for (int i = 0; i < hold_bits<uint16_t>::kMost; i++)
        ASSERT_EQ(pagoda_object_hold(p, 64), 0);
    EXPECT_EQ(pagoda_object_hold(p, 64), -EOVERFLOW);
    for (int i = 0; i < hold_bits<uint16_t>::kMost; i++)
        pagoda_object_release(p);
    uint64_t reports = misuse_count();
    heap_free(p, GFP_KERNEL);
    EXPECT_EQ(misuse_count(), reports);
}

TEST_F(holds, need_the_allocator_in_a_handler_only_for_the_first_on_a_page) {
    void *p = heap_alloc(64, GFP_KERNEL);
    void *run = heap_alloc(70'000, GFP_KERNEL);
    void *start = nullptr;
    size_t bytes = 0;
    ASSERT_EQ(pagoda_object_hold(p, 64), 0);
    {
        slow_path interrupted;
        EXPECT_EQ(pagoda_object_hold(run, 64), -EAGAIN);
        EXPECT_EQ(pagoda_block_hold(p, &start, &bytes), -EAGAIN);
        EXPECT_EQ(pagoda_object_hold(p, 64), 0);
        EXPECT_TRUE(pagoda_object_release(p));
    }
    EXPECT_EQ(pagoda_object_hold(run, 64), 0);
    EXPECT_TRUE(pagoda_object_release(run));
    EXPECT_FALSE(pagoda_object_release(run)) << "nobody held it";
    EXPECT_TRUE(pagoda_object_release(p));
    EXPECT_FALSE(pagoda_object_release(p));
    heap_free(run, GFP_KERNEL);
    heap_free(p, GFP_KERNEL);
}

// Two threads undo what one did, while a third frees: it is as if the second had come later.
TEST(hold_counters, below_zero_for_a_moment_lose_nothing) {
    std::atomic<uint16_t> holds{UINT16_MAX};
    EXPECT_EQ(hold_note_free(holds), held_free::now);
    EXPECT_EQ(hold_lower(holds), hold_end::none);
    EXPECT_EQ(hold_raise(holds), 0);
    EXPECT_EQ(holds, 0);
    holds = hold_bits<uint16_t>::kFreed | 1;
    EXPECT_EQ(hold_raise(holds), -ENOENT);
    EXPECT_EQ(hold_note_free(holds), held_free::again);
    EXPECT_EQ(hold_lower(holds), hold_end::last);
    EXPECT_EQ(holds, 0);
}

TEST_F(holds, name_pointer_size_and_cache) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::abort; // goes on all the same
        void *p = kmalloc(128, GFP_KERNEL);
        pagoda_object_hold(p, 1);
        kfree(p);
        fprintf(stderr, "%p\n", p);
        pagoda_object_release(p);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("128 bytes that a device uses (cache malloc-128): put off until"));
    std::string pointer = end.errors.substr(end.errors.rfind("0x"));
    EXPECT_TRUE(end.said(("free of " + pointer.substr(0, pointer.size() - 1)).c_str()));
}

// A free may count itself on a page after another gave the page its class back.
TEST_F(holds, leave_nothing_in_the_records_of_a_slab_that_goes) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(stays_on_one_cpu());
        heap_trim(0);
        std::vector<void *> all;
        for (int i = 0; i < 400; i++)
            all.push_back(heap_alloc(512, GFP_KERNEL));
        void *p = all.back();
        ASSERT_EQ(pagoda_object_hold(p, 512), 0);
        pagoda_object_release(p);
        for (int i = 0; i < 20; i++) {
            heap_free(all.back(), GFP_KERNEL);
            all.back() = heap_alloc(512, GFP_KERNEL);
        }
        ASSERT_NE(marked_class(p), kClassHeld);
        page &record = page_at(static_cast<uint32_t>(page_index(p)));
        record.holds = 2;
        for (void *each : all)
            heap_free(each, GFP_KERNEL);
        heap_trim(0);
        EXPECT_EQ(marked_class(p), kClassNone) << "the slab is gone";
        EXPECT_EQ(record.holds, 0);
    })));
}

TEST_F(holds, are_void_in_a_child_of_fork) {
    void *p = heap_alloc(64, GFP_KERNEL);
    void *run = heap_alloc(100'000, GFP_KERNEL);
    void *area = heap_alloc(4 * kMiB, GFP_KERNEL);
    unsigned long pages = __get_free_pages(GFP_KERNEL, 2);
    for (void *each : {p, run, area, reinterpret_cast<void *>(pages)})
        ASSERT_EQ(pagoda_object_hold(each, 64), 0);
    // As if the thread that holds p had not come to closing its page when another one forked.
    uint8_t &mark = g_pagemap.page_class[page_index(p)];
    mark = page_at(static_cast<uint32_t>(page_index(p))).held_class;
    EXPECT_TRUE(succeeded(in_child([&] {
        // What the process's handlers do is done by hand: this test runs on libc's malloc.
        heap_before_fork();
        heap_after_fork(true);
        uint64_t reports = misuse_count();
        EXPECT_NE(marked_class(p), kClassHeld);
        EXPECT_EQ(pagoda_object_hold(p, 64), 0);
        EXPECT_TRUE(pagoda_object_release(p));
        EXPECT_FALSE(pagoda_object_release(p)) << "the parent's hold";
        for (void *each : {p, run, area})
            heap_free(each, GFP_KERNEL);
        free_pages(pages, 2);
        EXPECT_EQ(misuse_count(), reports);
        void *fresh = heap_alloc(64, GFP_KERNEL);
        EXPECT_EQ(pagoda_object_hold(fresh, 64), 0) << "it may have devices of its own";
        EXPECT_TRUE(succeeded(in_child([&] {
            heap_before_fork();
            heap_after_fork(true);
            EXPECT_NE(marked_class(fresh), kClassHeld) << "in a slab that had counters before";
            heap_free(fresh, GFP_KERNEL);
            EXPECT_EQ(misuse_count(), reports);
        })));
        pagoda_object_release(fresh);
    })));
    mark = kClassHeld;
    for (void *each : {p, run, area, reinterpret_cast<void *>(pages)})
        pagoda_object_release(each);
    for (void *each : {p, run, area})
        heap_free(each, GFP_KERNEL);
    free_pages(pages, 2);
}

// Threads hold, release, free and allocate objects of several sizes, which nobody else may be given
// while they are held: each is filled with its owner's mark, which is looked for till the end.
TEST_F(holds, keep_objects_apart_from_what_others_are_given) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        constexpr int kThreads = 4;
        std::atomic<uint64_t> wrong{0};
        std::atomic<uint64_t> put_off{0};
        int null = open("/dev/null", O_WRONLY); // thousands of reports
        dup2(null, 2);
        uint64_t reports = misuse_count();
        heap_trim(0);
        uint64_t live = heap_get_stats().live_objects;
        auto work = [&](unsigned seed) {
            struct object {
                unsigned char *p;
                size_t size;
                unsigned char mark;
                int held;
                bool freed;
            };
            random_numbers random(seed);
            std::vector<object> all;
            uint64_t steps = operations() / (kDebug ? 200 : 10);
            for (uint64_t step = 0; step < steps; step++) {
                if (all.size() < 40 || (all.size() < 400 && random.one_in(3))) {
                    constexpr size_t kSizes[] = {16, 64, 96, 512, 3000, 50'000};
                    object o = {};
                    o.size = kSizes[random.below(random.one_in(50) ? 6 : 5)];
                    o.p = static_cast<unsigned char *>(heap_alloc(o.size, GFP_KERNEL));
                    o.mark = static_cast<unsigned char>(1 + random.below(255));
                    memset(o.p, o.mark, o.size);
                    all.push_back(o);
                    continue;
                }
                object &o = all[random.below(all.size())];
                wrong += o.p[0] != o.mark || o.p[o.size - 1] != o.mark;
                bool gone = false;
                if (o.held == 0 || (!o.freed && random.one_in(3))) {
                    if (random.one_in(2)) {
                        wrong += pagoda_object_hold(o.p + random.below(o.size), 1) != 0;
                        o.held++;
                    } else {
                        put_off += o.held != 0;
                        gone = o.held == 0;
                        o.freed = true;
                        heap_free(o.p, GFP_KERNEL);
                    }
                } else {
                    bool last = o.held-- == 1;
                    gone = last && o.freed;
                    pagoda_object_release(o.p + random.below(o.size));
                }
                if (gone) {
                    o = all.back();
                    all.pop_back();
                }
            }
            for (object &o : all) {
                wrong += o.p[0] != o.mark || o.p[o.size - 1] != o.mark;
                while (o.held-- > 0)
                    pagoda_object_release(o.p);
                if (!o.freed)
                    heap_free(o.p, GFP_KERNEL);
            }
        };
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < kThreads; i++)
            threads.emplace_back(work, i + 1);
        for (std::thread &t : threads)
            t.join();
        EXPECT_EQ(wrong, 0u);
        EXPECT_NE(put_off, 0u);
        EXPECT_EQ(misuse_count() - reports, put_off) << "no double free, and each put off is told";
        heap_trim(0);
        EXPECT_EQ(heap_get_stats().live_objects, live);
        EXPECT_TRUE(zone_normal().consistent());
    });
    EXPECT_TRUE(succeeded(end));
}

} // namespace
} // namespace pagoda::test
