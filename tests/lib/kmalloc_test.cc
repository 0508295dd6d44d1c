#include "lib/kmalloc.h"

#include "hugepage/options.h"
#include "hugepage/page.h"
#include "lib/heap.h"
#include "lib/hot_path.h"
#include "lib/kernel_api.h"
#include "lib/vmalloc.h"
#include "tests/unit.h"

#include <errno.h>
#include <vector>

using namespace pagoda;
using namespace pagoda::test;

namespace {

// Unknown to the compiler, which would refuse them itself.
const volatile size_t kHuge = SIZE_MAX;
const volatile size_t kInt = INT_MAX;

size_t kernel_bucket(size_t n) {
    for (size_t size : {8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192})
        if (n <= size)
            return size;
    size_t size = 8192;
    while (size < n)
        size *= 2;
    return size;
}

bool aligned(const void *p, size_t size) {
    size_t to = size <= 8 ? 8 : max_of<size_t>(size & -size, 8);
    return reinterpret_cast<uintptr_t>(p) % to == 0;
}

bool all(const void *p, size_t len, unsigned char byte) {
    const auto *at = static_cast<const unsigned char *>(p);
    for (size_t i = 0; i < len; i++)
        if (at[i] != byte)
            return false;
    return true;
}

// Row 8, and the classes of row 5.
TEST(Kmalloc, EverySizeTo64KiBIsNaturallyAlignedInABucketNoLargerThanTheKernels) {
    for (size_t size = 1; size <= 65536; size++) {
        void *p = kmalloc(size, GFP_KERNEL);
        ASSERT_NE(p, nullptr);
        ASSERT_TRUE(aligned(p, size)) << size;
        ASSERT_EQ(ksize(p), kmalloc_size_roundup(size)) << size;
        ASSERT_GE(ksize(p), size);
        ASSERT_LE(ksize(p), kernel_bucket(size)) << size;
        kfree(p);
    }
}

TEST(Kmalloc, LargeSizesAreNaturallyAlignedUpToTheLimit) {
    random_numbers random(1);
    std::vector<void *> held;
    for (int i = 0; i < 2000; i++) {
        size_t size = 65536 + random.below(KMALLOC_MAX_SIZE / 2 - 65536);
        if (random.one_in(2))
            size = align_up(size, size_t{1} << random.below(21));
        size = min_of(size, size_t{2} << 20);
        void *p = kmalloc(size, GFP_KERNEL);
        ASSERT_NE(p, nullptr) << size;
        ASSERT_TRUE(aligned(p, size)) << size << " at " << p;
        ASSERT_EQ(ksize(p), kmalloc_size_roundup(size));
        ASSERT_LE(ksize(p), kernel_bucket(size));
        static_cast<char *>(p)[0] = 1;
        static_cast<char *>(p)[size - 1] = 1;
        held.push_back(p);
        if (held.size() > 20) {
            size_t which = random.below(held.size());
            kfree(held[which]);
            held[which] = held.back();
            held.pop_back();
        }
    }
    for (void *p : held)
        kfree(p);
}

// Row 4.
TEST(Kmalloc, TheLimitHoldsAndOneByteMoreIsRefusedWithOneWarning) {
    void *p = kmalloc(KMALLOC_MAX_SIZE, GFP_KERNEL);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(ksize(p), KMALLOC_MAX_SIZE);
    kfree(p);
    child_end end = in_child([] {
        EXPECT_EQ(pagoda_kmalloc(KMALLOC_MAX_SIZE + 1, GFP_KERNEL | __GFP_NOWARN), nullptr);
        EXPECT_EQ(pagoda_kmalloc(KMALLOC_MAX_SIZE + 1, GFP_KERNEL), nullptr);
        EXPECT_EQ(pagoda_kmalloc(kHuge, GFP_KERNEL), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("KMALLOC_MAX_SIZE")) << end.errors;
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    EXPECT_EQ(kmalloc_size_roundup(KMALLOC_MAX_SIZE + 1), KMALLOC_MAX_SIZE + 1);
}

// Row 10.
TEST(Kmalloc, NothingIsAllocatedForZeroBytesAndFreeIgnoresIt) {
    heap_init();
    uint64_t served = heap_get_stats().served;
    EXPECT_EQ(kmalloc(0, GFP_KERNEL), ZERO_SIZE_PTR);
    EXPECT_EQ(pagoda_kmalloc(0, GFP_ATOMIC), ZERO_SIZE_PTR);
    EXPECT_EQ(ksize(ZERO_SIZE_PTR), 0u);
    EXPECT_EQ(ksize(nullptr), 0u);
    EXPECT_EQ(kmalloc_size_roundup(0), 0u);
    kfree(ZERO_SIZE_PTR);
    kfree(nullptr);
    kfree_nolock(nullptr);
    kfree_sensitive(ZERO_SIZE_PTR);
    kvfree(ZERO_SIZE_PTR);
    kvfree_sensitive(nullptr, 10);
    EXPECT_EQ(heap_get_stats().served, served);
}

// Row 3.
TEST(Kmalloc, ZeroedMemoryIsZeroToTheEndOfItsBucket) {
    random_numbers random(2);
    for (int i = 0; i < 3000; i++) {
        size_t size = 1 + random.skewed(17);
        void *dirty = kmalloc(size, GFP_KERNEL);
        memset(dirty, 0xee, ksize(dirty));
        kfree(dirty);
        void *p = kzalloc(size, GFP_KERNEL);
        ASSERT_TRUE(all(p, ksize(p), 0)) << size;
        kfree(p);
    }
}

TEST(Kmalloc, InitOnAllocClearsWhatNobodyAskedToClear) {
    child_end end = in_child([] {
        heap_init();
        mutable_options().init_on_alloc = true;
        hot_paths_close(); // as the initialisation does with this option
        struct kmem_cache *cache = kmem_cache_create("cleared", 100, nullptr, 0);
        for (size_t size = 1; size < 200000; size += 1 + size / 3) {
            void *p = kmalloc(size, GFP_KERNEL);
            memset(p, 1, size);
            kfree(p);
            p = kmalloc(size, GFP_KERNEL);
            ASSERT_TRUE(all(p, size, 0)) << size;
            memset(p, 1, size);
            kfree(p);
            p = heap_alloc(size, GFP_KERNEL);
            ASSERT_TRUE(all(p, size, 0)) << size;
            kfree(p);
            p = kmem_cache_alloc(cache, GFP_KERNEL);
            ASSERT_TRUE(all(p, 100, 0));
            memset(p, 1, 100);
            kmem_cache_free(cache, p);
        }
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(Kmalloc, ALowerLimitCanBeSet) {
    child_end end = in_child([] {
        mutable_options().kmalloc_max = 128 << 10;
        void *p = kmalloc(128 << 10, GFP_KERNEL);
        EXPECT_NE(p, nullptr);
        kfree(p);
        EXPECT_EQ(kmalloc((128 << 10) + 1, GFP_KERNEL | __GFP_NOWARN), nullptr);
        p = kvmalloc(1 << 20, GFP_KERNEL);
        EXPECT_NE(p, nullptr) << "vmalloc serves it";
        kvfree(p);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(Kmalloc, ArraysThatOverflowAreRefused) {
    EXPECT_EQ(kmalloc_array(kHuge / 2, 3, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(kcalloc(kHuge, 2, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(kvmalloc_array(kHuge / 2, 3, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(krealloc_array(nullptr, kHuge / 2, 3, GFP_KERNEL), nullptr);
    void *p = kcalloc(10, 10, GFP_KERNEL);
    EXPECT_TRUE(all(p, 100, 0));
    kfree(p);
}

TEST(Kmalloc, ErrnoIsLeftAlone) {
    errno = 77;
    EXPECT_EQ(pagoda_kmalloc(kHuge, GFP_KERNEL | __GFP_NOWARN), nullptr);
    kfree(kmalloc(100, GFP_KERNEL));
    EXPECT_EQ(errno, 77);
}

TEST(Kmalloc, ANodeThatIsNotThereIsRefusedOnlyWithThisnode) {
    void *p = kmalloc_node(64, GFP_KERNEL, 7);
    EXPECT_NE(p, nullptr);
    kfree(p);
    EXPECT_EQ(kmalloc_node(64, GFP_KERNEL | __GFP_THISNODE, 7), nullptr);
    p = kzalloc_node(64, GFP_KERNEL | __GFP_THISNODE, 0);
    EXPECT_TRUE(all(p, 64, 0));
    kfree(p);
}

TEST(Kmalloc, PageAllocatorZonesAreIgnoredWithOneWarning) {
    child_end end = in_child([] {
        for (int i = 0; i < 2; i++) {
            void *p = kmalloc(64, GFP_KERNEL | __GFP_DMA32);
            EXPECT_NE(p, nullptr);
            kfree(p);
        }
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST(Kmalloc, DmaMemoryNeedsADevice) { EXPECT_EQ(kmalloc(64, GFP_KERNEL | __GFP_DMA), nullptr); }

TEST(Krealloc, FollowsTheKernelsRules) {
    void *p = krealloc(nullptr, 100, GFP_KERNEL);
    ASSERT_NE(p, nullptr);
    memset(p, 7, 100);
    EXPECT_EQ(krealloc(p, 1, GFP_KERNEL), p) << "shrinking keeps the pointer";
    EXPECT_EQ(krealloc(p, ksize(p), GFP_KERNEL), p) << "growing in the bucket, too";
    void *q = krealloc(p, 5000, GFP_KERNEL);
    ASSERT_NE(q, nullptr);
    EXPECT_TRUE(all(q, 100, 7));
    EXPECT_EQ(krealloc(q, kHuge / 2, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_TRUE(all(q, 100, 7)) << "a failure leaves the object";
    EXPECT_EQ(krealloc(q, 0, GFP_KERNEL), ZERO_SIZE_PTR);
    p = krealloc(ZERO_SIZE_PTR, 50, GFP_KERNEL);
    EXPECT_GE(ksize(p), 50u);
    kfree(p);
}

TEST(Krealloc, GrowthIsZeroedWhereEveryCallAskedForIt) {
    random_numbers random(3);
    for (int round = 0; round < 300; round++) {
        size_t size = 1 + random.below(300);
        auto *p = static_cast<unsigned char *>(kzalloc(size, GFP_KERNEL));
        memset(p, 9, size);
        for (int i = 0; i < 10; i++) {
            size_t next = 1 + random.skewed(14);
            p = static_cast<unsigned char *>(krealloc(p, next, GFP_KERNEL | __GFP_ZERO));
            ASSERT_TRUE(all(p, min_of(size, next), 9));
            if (next > size) {
                ASSERT_TRUE(all(p + size, next - size, 0)) << size << " to " << next;
            }
            memset(p, 9, next);
            size = next;
        }
        kfree(p);
    }
}

TEST(Krealloc, MovesWhereTheAlignmentAsksForIt) {
    void *first = kmalloc(16, GFP_KERNEL);
    void *second = kmalloc(16, GFP_KERNEL);
    void *odd = reinterpret_cast<uintptr_t>(first) % 32 != 0 ? first : second;
    memset(odd, 5, 16);
    void *even = krealloc_node_align(odd, 32, 32, GFP_KERNEL, NUMA_NO_NODE);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(even) % 32, 0u);
    EXPECT_TRUE(all(even, 16, 5));
    kfree(even);
    kfree(odd == first ? second : first);
}

TEST(Krealloc, WhatIsNotOursIsReportedAndNothingHappens) {
    child_end end = in_child([] {
        mutable_options().foreign = foreign_policy::report;
        int here = 0;
        EXPECT_EQ(krealloc(&here, 100, GFP_KERNEL), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("not Pagoda's memory")) << end.errors;
}

TEST(Kvmalloc, SmallOnesAreKmallocsLargeOnesVmallocs) {
    void *small = kvmalloc(100, GFP_KERNEL);
    EXPECT_TRUE(in_zone(small));
    void *middle = kvmalloc(1 << 20, GFP_KERNEL);
    EXPECT_TRUE(in_zone(middle));
    void *large = kvzalloc(64 << 20, GFP_KERNEL);
    ASSERT_NE(large, nullptr);
    EXPECT_FALSE(in_zone(large));
    EXPECT_TRUE(all(large, 1 << 20, 0));
    void *grown = kvrealloc(middle, 8 << 20, GFP_KERNEL);
    ASSERT_NE(grown, nullptr);
    for (void *p : {small, large, grown})
        kvfree(p);
    EXPECT_EQ(kvmalloc(kInt + 1, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(kvmalloc(8 << 20, GFP_ATOMIC | __GFP_NOWARN), nullptr) << "vmalloc may wait";
}

TEST(Kvmalloc, AlignsAsAskedAlsoWhatIsSmall) {
    for (size_t size : {24, 100, 1000, 4096, 5000, 100000}) {
        for (size_t align = 1; align <= 65536; align *= 2) {
            void *held[5];
            for (void *&p : held) {
                p = pagoda_kvmalloc(size, align, GFP_KERNEL, NUMA_NO_NODE);
                ASSERT_NE(p, nullptr);
                ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u) << size << " at " << align;
            }
            for (void *p : held)
                kvfree(p);
        }
    }
    EXPECT_EQ(pagoda_kvmalloc(0, 1, GFP_KERNEL, NUMA_NO_NODE), ZERO_SIZE_PTR);
}

TEST(Kfree, SensitiveMemoryIsOverwritten) {
    heap_init();
    auto *p = static_cast<char *>(kmalloc(200, GFP_KERNEL));
    memset(p, 3, 200);
    kfree_sensitive(p);
    EXPECT_TRUE(all(p, 200, 0)) << "free memory, which is still mapped";
    auto *large = static_cast<char *>(kvmalloc(100000, GFP_KERNEL));
    memset(large, 3, 100000);
    kvfree_sensitive(large, 50000);
    EXPECT_TRUE(all(large, 50000, 0));
}

TEST(KmallocNolock, ServesInAnyContextAndNothingLarge) {
    kfree(kmalloc(64, GFP_KERNEL));
    void *p = kmalloc_nolock(64, __GFP_ZERO, NUMA_NO_NODE);
    ASSERT_NE(p, nullptr);
    EXPECT_TRUE(all(p, 64, 0));
    kfree_nolock(p);
    EXPECT_EQ(kmalloc_nolock(KMALLOC_MAX_CACHE_SIZE + 1, 0, NUMA_NO_NODE), nullptr);
    EXPECT_EQ(kmalloc_nolock(0, 0, NUMA_NO_NODE), ZERO_SIZE_PTR);
}

TEST(Duplicates, AreCopiesWithTheirEnd) {
    char *s = kstrdup("pagoda", GFP_KERNEL);
    EXPECT_STREQ(s, "pagoda");
    char *n = kstrndup(s, 3, GFP_KERNEL);
    EXPECT_STREQ(n, "pag");
    char *m = kmemdup_nul("abcdef", 2, GFP_KERNEL);
    EXPECT_STREQ(m, "ab");
    void *d = kmemdup(s, 7, GFP_KERNEL);
    EXPECT_STREQ(static_cast<char *>(d), "pagoda");
    void *v = kvmemdup(s, 7, GFP_KERNEL);
    EXPECT_STREQ(static_cast<char *>(v), "pagoda");
    char *f = kasprintf(GFP_KERNEL, "%s-%d", s, 42);
    EXPECT_STREQ(f, "pagoda-42");
    EXPECT_EQ(kstrdup(nullptr, GFP_KERNEL), nullptr);
    EXPECT_EQ(kstrndup(nullptr, 3, GFP_KERNEL), nullptr);
    EXPECT_EQ(kmemdup_nul(nullptr, 3, GFP_KERNEL), nullptr);
    EXPECT_EQ(kmemdup(nullptr, 3, GFP_KERNEL), nullptr);
    EXPECT_EQ(kvmemdup(nullptr, 3, GFP_KERNEL), nullptr);
    EXPECT_EQ(kmemdup_array(s, kHuge / 2, 3, GFP_KERNEL | __GFP_NOWARN), nullptr);
    for (void *p : {static_cast<void *>(s), static_cast<void *>(n), static_cast<void *>(m), d, v,
                    static_cast<void *>(f)})
        kvfree(p);
}

TEST(Sizes, Saturate) {
    struct flexible {
        int n;
        long tail[];
    };
    EXPECT_EQ(struct_size(static_cast<flexible *>(nullptr), tail, 4), sizeof(flexible) + 32);
    EXPECT_EQ(struct_size_t(flexible, tail, SIZE_MAX), SIZE_MAX);
    EXPECT_EQ(size_add(SIZE_MAX, 1), SIZE_MAX);
    EXPECT_EQ(size_sub(1, 2), SIZE_MAX);
    EXPECT_EQ(size_sub(5, 2), 3u);
    EXPECT_EQ(array3_size(2, 3, 4), 24u);
    auto *f = kzalloc_flex(flexible, tail, 10, GFP_KERNEL);
    EXPECT_GE(ksize(f), sizeof(flexible) + 80);
    kfree(f);
}

// Row 6.
TEST(Kmalloc, AMillionTinyObjectsTakeWhatTheyAre) {
    child_end end = in_child([] {
        heap_init();
        constexpr size_t kCount = 1'000'000;
        auto *held = static_cast<void **>(kvzalloc(kCount * sizeof(void *), GFP_KERNEL));
        memset(held, 1, kCount * sizeof(void *));
        kfree(kmalloc(8, GFP_KERNEL));
        uint64_t before = process_figure("VmRSS");
        for (size_t i = 0; i < kCount; i++) {
            held[i] = kmalloc(8, GFP_KERNEL);
            *static_cast<uint64_t *>(held[i]) = i;
        }
        uint64_t grown = process_figure("VmRSS") - before;
        printf("1,000,000 objects of 8 bytes: %llu bytes\n",
               static_cast<unsigned long long>(grown));
        // Beyond the objects: bitmaps and tables. What the kernel counts is in batches of pages.
        EXPECT_LE(grown, 8'000'000 * 102 / 100 + (kDebug ? 1 << 20 : 256 << 10));
        for (size_t i = 0; i < kCount; i++)
            ASSERT_EQ(*static_cast<uint64_t *>(held[i]), i);
    });
    EXPECT_TRUE(succeeded(end));
}

// Row 9: one heap.
TEST(OneHeap, WhatOneFaceAllocatedTheOtherFrees) {
    struct kmem_cache *cache = kmem_cache_create("matrix", 64, nullptr, 0);
    ASSERT_NE(cache, nullptr);
    for (int i = 0; i < 200; i++) {
        heap_free(kmalloc(64, GFP_KERNEL), GFP_KERNEL);
        heap_free(kmem_cache_alloc(cache, GFP_KERNEL), GFP_KERNEL);
        kfree(heap_alloc(64, GFP_KERNEL));
        kfree(kmem_cache_alloc(cache, GFP_KERNEL));
        kmem_cache_free(cache, kmem_cache_alloc(cache, GFP_KERNEL));
    }
    kfree(heap_alloc(8 << 20, GFP_KERNEL));
    kmem_cache_destroy(cache);
}

TEST(OneHeap, AnObjectOfNoCacheIsReportedAndLeaked) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        struct kmem_cache *cache = kmem_cache_create("mine", 64, nullptr, 0);
        struct kmem_cache *other = kmem_cache_create("other", 64, nullptr, SLAB_NO_MERGE);
        void *p = kmalloc(64, GFP_KERNEL);
        void *q = kmem_cache_alloc(other, GFP_KERNEL);
        kmem_cache_free(cache, p);
        kmem_cache_free(cache, q);
        EXPECT_EQ(ksize(p), 64u);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("kmem_cache_free mine: ")) << end.errors;
    EXPECT_TRUE(end.said("an object of cache malloc-64")) << end.errors;
    EXPECT_TRUE(end.said("an object of cache other")) << end.errors;
}

} // namespace
