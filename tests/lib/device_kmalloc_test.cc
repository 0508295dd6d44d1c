#include "tests/provider.h"

#include "lib/device_kmalloc.h"
#include "lib/device_pages.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/thread.h"

#include <pagoda/pagoda.h>
#include <pagoda/slab.h>

#include <vector>

namespace pagoda::test {
namespace {

constexpr uint64_t kMask24 = (uint64_t{1} << 24) - 1;
constexpr uint64_t kMask32 = (uint64_t{1} << 32) - 1;

#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(device_kmalloc, name) { EXPECT_TRUE(succeeded(in_child(name))); }                         \
    void name()

void attach() { ASSERT_EQ(pagoda_dma_register(&kFakeProvider), 0); }

// Row 27.
TEST_IN_CHILD(of_any_size_is_reached_and_naturally_aligned) {
    attach();
    for (size_t size : {1,      8,       9,       16,        64,      96,     100,    192,
                        512,    1000,    4096,    5120,      8192,    10'000, 32'768, 32'769,
                        65'536, 100'000, 262'144, 1'000'000, 1 << 20, 4 << 20}) {
        auto *p = static_cast<char *>(kmalloc(size, GFP_KERNEL | GFP_DMA));
        ASSERT_NE(p, nullptr) << size;
        size_t usable = ksize(p);
        EXPECT_GE(usable, size);
        EXPECT_TRUE(devices.reached(p, usable, kMask24)) << size;
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (size & -size), 0u) << size;
        EXPECT_EQ(devices.address_of(p) % (size & -size), 0u) << size;
        memset(p, 0x29, usable);
        kfree(p);
        p = static_cast<char *>(kzalloc(size, GFP_KERNEL | GFP_DMA));
        ASSERT_NE(p, nullptr) << size;
        for (size_t i = 0; i < size; i++)
            ASSERT_EQ(p[i], 0) << size;
        kfree(p);
    }
    EXPECT_EQ(kmalloc(0, GFP_KERNEL | GFP_DMA), ZERO_SIZE_PTR);
    EXPECT_EQ(kmalloc(KMALLOC_MAX_SIZE + 1, GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
}

TEST_IN_CHILD(shares_nothing_with_other_memory) {
    attach();
    void *dma = kmalloc(64, GFP_KERNEL | GFP_DMA);
    ASSERT_NE(dma, nullptr);
    kfree(dma);
    for (size_t size : {size_t{64}, size_t{40'960}}) {
        kfree(kmalloc(size, GFP_KERNEL | GFP_DMA));
        for (int i = 0; i < 1000; i++) {
            const void *p = kmalloc(size, GFP_KERNEL);
            ASSERT_NE(p, nullptr);
            ASSERT_EQ(devices.address_of(p), ~uint64_t{0});
        }
    }
    // The flag is the cache's own affair.
    struct kmem_cache *plain = kmem_cache_create("plain", 64, nullptr, SLAB_NO_MERGE);
    EXPECT_EQ(devices.address_of(kmem_cache_alloc(plain, GFP_KERNEL | GFP_DMA)), ~uint64_t{0});
}

TEST_IN_CHILD(is_resized_within_such_memory) {
    attach();
    auto *p = static_cast<char *>(kmalloc(50, GFP_KERNEL | GFP_DMA));
    ASSERT_NE(p, nullptr);
    memset(p, 0x3c, 50);
    p = static_cast<char *>(krealloc(p, 50'000, GFP_KERNEL | GFP_DMA));
    ASSERT_NE(p, nullptr);
    EXPECT_TRUE(devices.reached(p, 50'000, kMask24));
    for (int i = 0; i < 50; i++)
        ASSERT_EQ(p[i], 0x3c);
    kfree_sensitive(p);
    const void *copy = kmemdup("frame", 6, GFP_KERNEL | GFP_DMA);
    ASSERT_NE(copy, nullptr);
    EXPECT_TRUE(devices.reached(copy, 6, kMask24));
    kvfree(copy);
}

TEST_IN_CHILD(without_blocking_is_had_from_what_there_is) {
    attach();
    ASSERT_TRUE(kernel_api_init());
    EXPECT_EQ(kmalloc(64, GFP_ATOMIC | GFP_DMA | __GFP_NOWARN), nullptr);
    kfree(kmalloc(64, GFP_KERNEL | GFP_DMA));
    int calls = devices.calls;
    for (size_t size : {64, 777, 20'000, 50'000}) { // with a cache, and without one so far
        void *p = kmalloc(size, GFP_ATOMIC | GFP_DMA);
        ASSERT_NE(p, nullptr) << size;
        EXPECT_TRUE(devices.reached(p, size, kMask24));
        kfree(p);
    }
    {
        slow_path interrupted;
        void *p = kmalloc(300, GFP_KERNEL | GFP_DMA);
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(devices.reached(p, 300, kMask24));
        kfree(p);
    }
    EXPECT_EQ(devices.calls, calls);
}

TEST_IN_CHILD(is_charged_to_groups) {
    attach();
    pagoda_group *group = pagoda_group_create("frames", 1 << 20);
    pagoda_group *before = pagoda_group_enter(group);
    gfp_t gfp = GFP_KERNEL_ACCOUNT | GFP_DMA | __GFP_NOWARN;
    void *small = kmalloc(1000, gfp);
    void *large = kmalloc(100'000, gfp);
    ASSERT_TRUE(small != nullptr && large != nullptr);
    EXPECT_TRUE(devices.reached(small, 1000, kMask24) && devices.reached(large, 100'000, kMask24));
    EXPECT_GE(pagoda_group_usage(group), 101'000u);
    EXPECT_EQ(kmalloc(1 << 20, gfp), nullptr);
    void *free_of_charge = kmalloc(1000, GFP_KERNEL | GFP_DMA);
    uint64_t usage = pagoda_group_usage(group);
    kfree(free_of_charge);
    EXPECT_EQ(pagoda_group_usage(group), usage);
    kfree(small);
    kfree(large);
    EXPECT_EQ(pagoda_group_usage(group), 0u);
    pagoda_group_enter(before);
    pagoda_group_destroy(group);
}

TEST(device_kmalloc, says_why_there_is_none) {
    child_end end = in_child([] { EXPECT_EQ(kmalloc(64, GFP_KERNEL | GFP_DMA), nullptr); });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("no device is attached")) << end.errors;
    end = in_child([] {
        attach();
        devices.answer = -ENODEV;
        devices.answers_left = 1000;
        EXPECT_EQ(kmalloc(64, GFP_KERNEL | GFP_DMA), nullptr);
        EXPECT_EQ(kmalloc(64'000, GFP_KERNEL | GFP_DMA | __GFP_NOFAIL), nullptr) << "nor waits";
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("the fake one was unplugged")) << end.errors;
}

void fill(void *object) { memset(object, 0x19, 100); }

// Row 45: caches of such memory, of each kind that has other code.
TEST_IN_CHILD(has_caches_beside_it) {
    attach();
    const slab_flags_t kinds[] = {0, SLAB_HWCACHE_ALIGN, SLAB_ACCOUNT, SLAB_RED_ZONE | SLAB_POISON,
                                  SLAB_TYPESAFE_BY_RCU};
    for (slab_flags_t zone : {SLAB_CACHE_DMA, SLAB_CACHE_DMA32, 0u}) {
        kmem_cache_args where = {};
        where.device_mask = zone == 0 ? (uint64_t{1} << 28) - 1 : 0;
        uint64_t mask = zone == SLAB_CACHE_DMA ? kMask24 : zone != 0 ? kMask32 : where.device_mask;
        for (slab_flags_t kind : kinds) {
            struct kmem_cache *c =
                kmem_cache_create("dma", 100, &where, zone | kind | SLAB_NO_MERGE);
            ASSERT_NE(c, nullptr);
            std::vector<void *> held;
            for (int i = 0; i < 3000; i++) {
                held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
                ASSERT_NE(held.back(), nullptr);
                ASSERT_TRUE(devices.reached(held.back(), 100, mask));
            }
            for (void *p : held)
                kmem_cache_free(c, p);
            EXPECT_EQ(kmem_cache_alloc_bulk(c, GFP_KERNEL, held.size(), held.data()), 3000);
            for (const void *p : held)
                ASSERT_TRUE(devices.reached(p, 100, mask));
            kmem_cache_free_bulk(c, held.size(), held.data());
            kmem_cache_destroy(c);
        }
        struct kmem_cache *made = kmem_cache_create("made", 100, &where, zone);
        kmem_cache_destroy(made);
        kmem_cache_args args = where;
        args.ctor = fill;
        made = kmem_cache_create("made", 100, &args, zone);
        auto *p = static_cast<char *>(kmem_cache_alloc(made, GFP_KERNEL));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(p[99], 0x19);
        kmem_cache_free(made, p);
        kmem_cache_destroy(made);
    }
    device_pages_trim(0);
    EXPECT_EQ(devices.bytes(), 0u);
}

int destroyed = 0;

TEST_IN_CHILD(is_not_there_in_a_child) {
    attach();
    kmem_cache_args args = {};
    args.ctor = fill;
    args.dtor = [](void *object) {
        fill(object);
        destroyed++;
    };
    struct kmem_cache *c = kmem_cache_create("objects", 100, &args, SLAB_CACHE_DMA32);
    struct kmem_cache *checked =
        kmem_cache_create("checked", 100, nullptr, SLAB_CACHE_DMA | SLAB_POISON | SLAB_RED_ZONE);
    std::vector<char *> held;
    for (int i = 0; i < 2000; i++) {
        held.push_back(static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL)));
        ASSERT_NE(held.back(), nullptr);
    }
    void *poisoned = kmem_cache_alloc(checked, GFP_KERNEL);
    void *small = kmalloc(64, GFP_KERNEL | GFP_DMA);
    void *large = kmalloc(100'000, GFP_KERNEL | GFP_DMA);
    ASSERT_TRUE(poisoned != nullptr && small != nullptr && large != nullptr);
    heap_before_fork();
    pid_t pid = fork();
    heap_after_fork(pid == 0);
    if (pid == 0) {
        alarm(60);
        devices = {};
        kfree(small); // ignored, all of them
        kfree(large);
        kmem_cache_free(checked, poisoned);
        for (size_t i = 0; i < held.size(); i += 2)
            kmem_cache_free(c, held[i]);
        heap_trim(0);
        int wrong = destroyed != 0;
        for (int i = 0; i < 3000; i++) {
            void *mine = kmem_cache_alloc(c, GFP_KERNEL);
            wrong += mine == nullptr || !devices.reached(mine, 100, kMask32);
            kmem_cache_free(c, mine);
            mine = kmalloc(64, GFP_KERNEL | GFP_DMA);
            wrong += mine == nullptr || !devices.reached(mine, 64, kMask24);
            kfree(mine);
        }
        kmem_cache_destroy(c);
        kmem_cache_destroy(checked);
        heap_trim(0);
        _exit(wrong != 0 || devices.bytes() > (2 << 20));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    for (char *p : held) {
        EXPECT_EQ(p[0], 0x19);
        kmem_cache_free(c, p);
    }
    kmem_cache_free(checked, poisoned);
    kfree(small);
    kfree(large);
    kmem_cache_destroy(c);
    EXPECT_GE(destroyed, 2000);
    kmem_cache_destroy(checked);
}

} // namespace
} // namespace pagoda::test
