#include <pagoda/compat24.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "tests/unit.h"

namespace {

using pagoda::test::in_child;
using pagoda::test::succeeded;

TEST(Flags, StandForWhatBecameOfThem) {
    static_assert(GFP_BUFFER == GFP_NOIO); // NOLINT(misc-redundant-expression)
    static_assert(__GFP_COLD == 0);
    static_assert(__GFP_REPEAT == __GFP_RETRY_MAYFAIL); // NOLINT(misc-redundant-expression)
    static_assert(SLAB_NO_REAP != 0);
    EXPECT_TRUE(gfpflags_allow_blocking(__GFP_WAIT));
    EXPECT_TRUE(gfpflags_allow_blocking(GFP_BUFFER));
    EXPECT_FALSE(gfpflags_allow_blocking(GFP_ATOMIC));
}

bool all_zero(unsigned long address, std::size_t bytes) {
    const char *p = reinterpret_cast<const char *>(address);
    return std::all_of(p, p + bytes, [](char c) { return c == 0; });
}

TEST(Pages, GetFreePageClears) {
    for (unsigned order = 0; order <= 4; ++order)
        for (int round = 0; round < 8; ++round) {
            const std::size_t bytes = PAGE_SIZE << order;
            const unsigned long pages =
                order == 0 ? get_free_page(GFP_KERNEL) : get_free_pages(GFP_KERNEL, order);
            ASSERT_NE(pages, 0U);
            EXPECT_EQ(pages % bytes, 0U);
            EXPECT_TRUE(all_zero(pages, bytes));
            std::memset(reinterpret_cast<void *>(pages), 0xff, bytes);
            free_pages(pages, order);
        }
    EXPECT_EQ(__get_dma_page(GFP_KERNEL | __GFP_NOWARN) != 0,
              __get_dma_pages(GFP_KERNEL | __GFP_NOWARN, 0) != 0);
}

int constructed, destructed;
void construct(void *object) {
    ++constructed;
    *static_cast<int *>(object) = 7;
}
void destruct(void *object) {
    ++destructed;
    EXPECT_EQ(*static_cast<int *>(object), 7);
}

TEST(Caches, ConstructorsAndDestructorsAreCalledOncePerObjectOfASlab) {
    EXPECT_TRUE(succeeded(in_child([] {
        kmem_cache_t *cache =
            kmem_cache_create("old", 100, 0, SLAB_HWCACHE_ALIGN, construct, destruct);
        ASSERT_NE(cache, nullptr);
        std::vector<void *> objects;
        for (int i = 0; i < 1000; ++i) {
            objects.push_back(kmem_cache_alloc(cache, GFP_KERNEL));
            ASSERT_EQ(*static_cast<int *>(objects.back()), 7);
        }
        EXPECT_GE(constructed, 1000);
        const int before = constructed;
        for (void *object : objects)
            kmem_cache_free(cache, object);
        for (void *&object : objects)
            object = kmem_cache_alloc(cache, GFP_KERNEL);
        EXPECT_EQ(constructed, before);
        for (void *object : objects)
            kmem_cache_free(cache, object);
        kmem_cache_destroy(cache);
        EXPECT_EQ(destructed, constructed);
    })));
}

TEST(Caches, TheNewFormsStayWhatTheyAre) {
    kmem_cache_args args = {};
    args.align = 64;
    for (kmem_cache_t *cache :
         {kmem_cache_create("four", 96, &args, 0), kmem_cache_create("none", 96, NULL, 0),
          kmem_cache_create("five", 96, 64, 0, nullptr),
          kmem_cache_create("six", 96, 0, 0, NULL, NULL)}) {
        ASSERT_NE(cache, nullptr);
        EXPECT_EQ(kmem_cache_size(cache), 96U);
        kmem_cache_destroy(cache);
    }
    EXPECT_EQ(kmem_cache_create("large", KMALLOC_MAX_SIZE + 1, 0, 0, NULL, NULL), nullptr);
}

TEST(BootMemory, IsHandedOutBeforeTheStageEnds) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_EQ(pagoda_boot_reserve(4 << 20), 0);
        auto *bytes = static_cast<char *>(alloc_bootmem(1000));
        auto *page = static_cast<char *>(alloc_bootmem_pages(5000));
        ASSERT_NE(bytes, nullptr);
        ASSERT_NE(page, nullptr);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes) % 64, 0U);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(page) % PAGE_SIZE, 0U);
        EXPECT_NE(alloc_bootmem_low(64), nullptr);
        EXPECT_NE(alloc_bootmem_low_pages(64), nullptr);
        EXPECT_TRUE(all_zero(reinterpret_cast<unsigned long>(bytes), 1000));
        const phys_addr_t held = memblock_reserved_size();
        free_bootmem(pagoda_memblock_phys(page), 5000);
        EXPECT_EQ(memblock_reserved_size(), held - 5000);
        memblock_free_all();
    })));
}

TEST(BootMemory, IsRefusedAfterwards) {
    const auto end = in_child([] {
        ASSERT_EQ(pagoda_boot_reserve(2 << 20), 0);
        memblock_free_all();
        EXPECT_EQ(alloc_bootmem(100), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1U) << end.errors;
}

TEST(BigPhysArea, LargeBuffersComeAndGo) {
    EXPECT_TRUE(succeeded(in_child([] {
        EXPECT_EQ(bigphysarea_alloc(4096), nullptr);
        ASSERT_EQ(pagoda_contig_reserve(64UL << 20), 0);
        const std::size_t whole = pagoda_contig_largest();
        for (int round = 0; round < 50; ++round) {
            std::set<char *> buffers;
            for (int i = 0; i < 10; ++i) {
                char *buffer = bigphysarea_alloc(5 << 20);
                ASSERT_NE(buffer, nullptr);
                buffer[0] = buffer[(5 << 20) - 1] = 'x';
                EXPECT_TRUE(buffers.insert(buffer).second);
            }
            for (char *buffer : buffers)
                bigphysarea_free(buffer, 5 << 20);
            EXPECT_EQ(pagoda_contig_largest(), whole);
        }
        char *pages = bigphysarea_alloc_pages(3, 16, GFP_KERNEL);
        ASSERT_NE(pages, nullptr);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pages) % (16 * PAGE_SIZE), 0U);
        bigphysarea_free_pages(pages);
        bigphysarea_free_pages(bigphysarea_alloc_pages(1, 0, GFP_KERNEL));
        bigphysarea_free(nullptr, 0);
        EXPECT_EQ(bigphysarea_alloc(0), nullptr);
        EXPECT_EQ(bigphysarea_alloc(-1), nullptr);
        EXPECT_EQ(bigphysarea_alloc_pages(-1, 1, GFP_KERNEL), nullptr);
        EXPECT_EQ(bigphysarea_alloc_pages(1 << 30, 1, GFP_KERNEL), nullptr);
        EXPECT_EQ(pagoda_contig_largest(), whole);
    })));
}

} // namespace
