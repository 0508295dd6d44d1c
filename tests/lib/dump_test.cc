#include "lib/dump.h"

#include "lib/heap.h"
#include "tests/unit.h"

#include <pagoda/slab.h>

using namespace pagoda::test;

namespace {

TEST(Dump, NamesEveryKindOfMemory) {
    struct expected {
        void *p;
        const char *text;
    };
    struct kmem_cache *c =
        kmem_cache_create("dumped", 100, nullptr, SLAB_STORE_USER | SLAB_RED_ZONE);
    auto *object = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
    auto *freed = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
    kmem_cache_free(c, freed);
    auto *small = static_cast<char *>(kmalloc(64, GFP_KERNEL));
    auto *run = static_cast<char *>(kmalloc(100000, GFP_KERNEL));
    auto *area = static_cast<char *>(kvmalloc(16 << 20, GFP_KERNEL));
    int local = 0;
    for (expected e :
         {expected{object + 24, "an object of cache dumped, 24 bytes behind its start"},
          {object + 24, "allocated at 0x"},
          {object - 4, "4 bytes before its start"},
          {freed, "a free object of cache dumped"},
          {small + 8, "an object of cache malloc-64, 8 bytes behind"},
          {run + 5000, "in a page run of 106496 bytes"},
          {area + 5000, "in a vmalloc area of 16777216 bytes"},
          {&local, "not Pagoda's memory"},
          {nullptr, "is NULL"},
          {ZERO_SIZE_PTR, "is ZERO_SIZE_PTR"}}) {
        child_end end = in_child([&] { mem_dump_obj(e.p); });
        EXPECT_TRUE(succeeded(end));
        EXPECT_TRUE(end.said(e.text)) << e.text << "\n" << end.errors;
        EXPECT_EQ(end.lines(), 1u);
    }
    child_end end = in_child([&] {
        EXPECT_TRUE(kmem_dump_obj(small));
        EXPECT_FALSE(kmem_dump_obj(run));
        EXPECT_FALSE(kmem_dump_obj(&local));
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
    kfree(small);
    kfree(run);
    kvfree(area);
}

} // namespace
