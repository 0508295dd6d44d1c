#include "lib/cache_list.h"

#include "hugepage/options.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "tests/unit.h"

#include <atomic>
#include <set>
#include <thread>
#include <vector>

using namespace pagoda::test;
using pagoda::cache_alignment;
using pagoda::cache_of_pointer;
using pagoda::kClassShared;

namespace {

struct kmem_cache *make(const char *name, unsigned size, slab_flags_t flags = 0) {
    return kmem_cache_create(name, size, nullptr, flags);
}

const pagoda::kmem_cache &inside(struct kmem_cache *c) {
    return *reinterpret_cast<pagoda::kmem_cache *>(c);
}

int constructed = 0;
int destructed = 0;
void construct(void *object) {
    constructed++;
    *static_cast<uint64_t *>(object) = 0xc0de;
}
void destruct(void *object) {
    destructed++;
    EXPECT_EQ(*static_cast<uint64_t *>(object), 0xc0deu) << "in its constructed state";
}

// Row 42.
TEST(KmemCache, BothFormsOfCreation) {
    kmem_cache_args args = {};
    args.align = 128;
    struct kmem_cache *by_args = kmem_cache_create("by_args", 100, &args, 0);
    struct kmem_cache *by_five = kmem_cache_create("by_five", 100, 256u, SLAB_NO_MERGE, nullptr);
    struct kmem_cache *by_default = kmem_cache_create("by_default", 100, nullptr, 0);
    ASSERT_NE(by_args, nullptr);
    ASSERT_NE(by_five, nullptr);
    ASSERT_NE(by_default, nullptr);
    void *p = kmem_cache_alloc(by_args, GFP_KERNEL);
    void *q = kmem_cache_alloc(by_five, GFP_KERNEL);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 128, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(q) % 256, 0u);
    EXPECT_EQ(kmem_cache_size(by_args), 100u);
    kmem_cache_free(by_args, p);
    kmem_cache_free(by_five, q);
    for (auto *c : {by_args, by_five, by_default})
        kmem_cache_destroy(c);
    struct point {
        long x, y;
    };
    struct kmem_cache *points = KMEM_CACHE(point, 0);
    EXPECT_EQ(kmem_cache_size(points), sizeof(point));
    kmem_cache_destroy(points);
}

TEST(KmemCache, BadArgumentsAreRefusedWithTheirReason) {
    child_end end = in_child([] {
        kmem_cache_args odd = {};
        odd.align = 24;
        kmem_cache_args user = {};
        user.useroffset = 60;
        user.usersize = 8;
        kmem_cache_args freeptr = {};
        freeptr.use_freeptr_offset = true;
        kmem_cache_args sheaf = {};
        sheaf.sheaf_capacity = 128;
        EXPECT_EQ(kmem_cache_create(nullptr, 64, nullptr, 0), nullptr);
        EXPECT_EQ(make("", 64), nullptr);
        EXPECT_EQ(make("a b", 64), nullptr);
        EXPECT_EQ(make("none", 0), nullptr);
        EXPECT_EQ(make("huge", KMALLOC_MAX_SIZE + 1), nullptr);
        EXPECT_EQ(make("flags", 64, 0x80000000u), nullptr);
        for (kmem_cache_args *args : {&odd, &user, &freeptr, &sheaf})
            EXPECT_EQ(kmem_cache_create("args", 64, args, 0), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 10u) << end.errors;
    EXPECT_TRUE(end.said("refused, its name has a space")) << end.errors;
}

TEST(KmemCache, SlabPanicEndsTheProcess) {
    child_end end = in_child([] { make("a b", 64, SLAB_PANIC); });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("SLAB_PANIC")) << end.errors;
}

// Row 44.
TEST(KmemCache, HardwareCacheAlignment) {
    EXPECT_EQ(cache_alignment(SLAB_HWCACHE_ALIGN, 0, 20), 32u);
    EXPECT_EQ(cache_alignment(SLAB_HWCACHE_ALIGN, 0, 40), 64u);
    EXPECT_EQ(cache_alignment(SLAB_HWCACHE_ALIGN, 0, 100), 64u);
    EXPECT_EQ(cache_alignment(SLAB_HWCACHE_ALIGN, 0, 3), 8u);
    EXPECT_EQ(cache_alignment(0, 0, 100), 8u);
    struct kmem_cache *lines = make("lines", 40, SLAB_HWCACHE_ALIGN);
    std::set<uintptr_t> seen;
    std::vector<void *> held;
    for (int i = 0; i < 500; i++) {
        held.push_back(kmem_cache_alloc(lines, GFP_KERNEL));
        uintptr_t at = reinterpret_cast<uintptr_t>(held.back());
        EXPECT_EQ(at % 64, 0u);
        EXPECT_TRUE(seen.insert(at / 64).second) << "a line of its own";
    }
    for (void *p : held)
        kmem_cache_free(lines, p);
    kmem_cache_destroy(lines);
}

TEST(KmemCache, AlikeOnesShareTheirSlabsAndOthersDoNot) {
    struct kmem_cache *a = make("a", 200);
    struct kmem_cache *alike = make("alike", 199);
    struct kmem_cache *other_size = make("other_size", 100);
    struct kmem_cache *alone = make("alone", 200, SLAB_NO_MERGE);
    struct kmem_cache *typed = make("typed", 200, SLAB_TYPESAFE_BY_RCU);
    EXPECT_EQ(a, alike);
    EXPECT_NE(a, other_size);
    EXPECT_NE(a, alone);
    EXPECT_NE(a, typed);
    void *p = kmem_cache_alloc(a, GFP_KERNEL);
    kmem_cache_destroy(a);
    kmem_cache_free(alike, p); // its own reference
    for (auto *c : {alike, other_size, alone, typed})
        kmem_cache_destroy(c);
}

TEST(KmemCache, ALargerAlikeOneHasAllOfItsObjects) {
    struct kmem_cache *smaller = make("smaller", 209);
    struct kmem_cache *larger = make("larger", 216);
    ASSERT_EQ(smaller, larger);
    EXPECT_EQ(kmem_cache_size(larger), 216u);
    std::vector<char *> held;
    for (bool zeroed : {false, true}) {
        for (int i = 0; i < 1000; i++) {
            held.push_back(static_cast<char *>(
                kmem_cache_alloc(larger, zeroed ? GFP_KERNEL | __GFP_ZERO : GFP_KERNEL)));
            EXPECT_EQ(ksize(held.back()), 216u);
            ASSERT_TRUE(!zeroed || held.back()[215] == 0) << "the last byte";
            memset(held.back(), 0x55, 216);
        }
        for (void *p : held)
            kmem_cache_free(larger, p);
        held.clear();
    }
    kmem_cache_destroy(smaller);
    kmem_cache_destroy(larger);
}

// Rows 46 and 47.
TEST(KmemCache, ConstructorsRunOncePerObjectOfASlabAndDestructorsWhenItGoes) {
    constructed = destructed = 0;
    kmem_cache_args args = {};
    args.ctor = construct;
    args.dtor = destruct;
    struct kmem_cache *c = kmem_cache_create("constructed", 300, &args, 0);
    std::vector<void *> held;
    for (int i = 0; i < 1000; i++)
        held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
    for (void *p : held)
        EXPECT_EQ(*static_cast<uint64_t *>(p), 0xc0deu);
    int after = constructed;
    EXPECT_EQ(static_cast<uint64_t>(after), inside(c).slabs * inside(c).info.objects);
    for (int i = 0; i < 1'000'000; i++) {
        void *p = kmem_cache_alloc(c, GFP_KERNEL);
        ASSERT_EQ(*static_cast<uint64_t *>(p), 0xc0deu);
        kmem_cache_free(c, p);
    }
    EXPECT_EQ(constructed, after);
    for (void *p : held)
        kmem_cache_free(c, p);
    kmem_cache_destroy(c);
    EXPECT_EQ(constructed, after);
    EXPECT_EQ(destructed, constructed);
}

TEST(KmemCache, ZeroAndAConstructorTogetherAreABug) {
    child_end end = in_child([] {
        kmem_cache_args args = {};
        args.ctor = construct;
        struct kmem_cache *c = kmem_cache_create("bug", 64, &args, 0);
        void *p = kmem_cache_zalloc(c, GFP_KERNEL);
        EXPECT_EQ(*static_cast<uint64_t *>(p), 0xc0deu) << "the constructor's state stays";
        kmem_cache_free(c, p);
        kmem_cache_destroy(c);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("__GFP_ZERO would undo its constructor")) << end.errors;
}

// Row 48, and what destroy leaves.
TEST(KmemCache, GrowsToAMillionObjectsAndIsGoneAfterDestroy) {
    struct kmem_cache *c = make("many", 72, SLAB_NO_MERGE);
    std::vector<void *> held;
    for (int i = 0; i < 1'000'000; i++) {
        held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
        ASSERT_NE(held.back(), nullptr);
        *static_cast<int *>(held.back()) = i;
    }
    for (int i = 0; i < 1'000'000; i++) {
        ASSERT_EQ(*static_cast<int *>(held[static_cast<size_t>(i)]), i);
        kmem_cache_free(c, held[static_cast<size_t>(i)]);
    }
    kmem_cache_destroy(c);
    EXPECT_EQ(inside(c).info.size, 0u) << "its page_class value is free again";
}

// Row 49.
TEST(KmemCache, ObjectsLeftAtDestroyAreReportedAndTheCacheIsLeaked) {
    child_end end = in_child([] {
        struct kmem_cache *c = make("leaky", 64, SLAB_NO_MERGE);
        void *p = kmem_cache_alloc(c, GFP_KERNEL);
        memset(p, 1, 64);
        kmem_cache_destroy(c);
        EXPECT_EQ(*static_cast<char *>(p), 1);
        struct kmem_cache *next = make("leaky", 64);
        EXPECT_NE(next, c);
        kmem_cache_destroy(next);
        kfree(p); // still an object
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("kmem_cache_destroy leaky: 1 objects are still in use")) << end.errors;
    kmem_cache_destroy(nullptr);
}

// Row 43.
TEST(KmemCache, ReclaimLeavesTheSlabsOfANoReapCache) {
    struct kmem_cache *kept = make("kept", 500, SLAB_NO_REAP);
    struct kmem_cache *reaped = make("reaped", 500, SLAB_NO_MERGE);
    for (struct kmem_cache *c : {kept, reaped}) {
        std::vector<void *> held;
        for (int i = 0; i < 1000; i++)
            held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
        for (void *p : held)
            kmem_cache_free(c, p);
    }
    pagoda::caches_drain();
    EXPECT_GE(inside(kept).slabs, 1000u / inside(kept).info.objects);
    EXPECT_EQ(inside(reaped).slabs, 0u);
    EXPECT_NE(kmem_cache_shrink(kept), 0);
    EXPECT_EQ(kmem_cache_shrink(reaped), 0);
    kmem_cache_destroy(kept);
    kmem_cache_destroy(reaped);
}

// Without rseq nobody can empty another thread's slot: a sheaf without objects stays there,
// whatever the thread does next.
TEST(KmemCache, SheavesThatOutliveTheirCacheDoNoHarm) {
    EXPECT_TRUE(succeeded(in_child([] {
        pagoda::mutable_options().percpu = pagoda::percpu_policy::off;
        for (int round = 0; round < 6; round++) {
            const unsigned capacity = round % 2 == 0 ? 8 : 127;
            const bool goes_on = round < 4;
            struct kmem_cache *c = nullptr;
            std::vector<void *> held;
            std::atomic<int> step{0};
            std::thread other([&] {
                kmem_cache_args args = {};
                args.sheaf_capacity = capacity;
                c = kmem_cache_create("first", 64, &args, SLAB_NO_MERGE);
                for (unsigned i = 0; i < capacity; i++)
                    held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
                step = 1;
                while (step != 2)
                    std::this_thread::yield();
                args.sheaf_capacity = 135 - capacity;
                struct kmem_cache *next =
                    goes_on ? kmem_cache_create("next", 64, &args, SLAB_NO_MERGE) : nullptr;
                for (int i = 0; goes_on && i < 1000; i++)
                    held.push_back(kmem_cache_alloc(next, GFP_KERNEL));
                for (void *p : held)
                    kmem_cache_free(next, p);
                kmem_cache_destroy(next);
                EXPECT_TRUE(!goes_on || inside(next).traits == nullptr) << "it has lost none";
            });
            while (step != 1)
                std::this_thread::yield();
            for (void *p : held)
                kmem_cache_free(c, p);
            held.clear();
            kmem_cache_destroy(c);
            EXPECT_EQ(inside(c).traits, nullptr) << "none is in use";
            step = 2;
            other.join();
        }
    })));
}

TEST(KmemCache, MoreCachesThanPageClassValuesStillServe) {
    std::vector<struct kmem_cache *> caches;
    std::vector<void *> objects;
    for (int i = 0; i < 300; i++) {
        caches.push_back(
            make(("c" + std::to_string(i)).c_str(), 64 + static_cast<unsigned>(i), SLAB_NO_MERGE));
        ASSERT_NE(caches.back(), nullptr);
        objects.push_back(kmem_cache_zalloc(caches.back(), GFP_KERNEL));
        ASSERT_NE(objects.back(), nullptr);
        EXPECT_EQ(cache_of_pointer(objects.back()), &inside(caches.back()));
    }
    EXPECT_EQ(inside(caches.back()).cls, kClassShared);
    EXPECT_EQ(kmem_cache_size(caches.back()), 363u);
    EXPECT_EQ(ksize(objects.back()), 363u);
    for (size_t i = 0; i < caches.size(); i++) {
        if (i % 2 == 0)
            kmem_cache_free(caches[i], objects[i]);
        else
            kfree(objects[i]);
        kmem_cache_destroy(caches[i]);
    }
}

TEST(KmemCache, ASharedCachesMisusesAreReported) {
    child_end end = in_child([] {
        pagoda::mutable_options().on_error = pagoda::error_policy::report;
        struct kmem_cache *c = make("checked", 100, SLAB_CONSISTENCY_CHECKS);
        auto *p = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
        kmem_cache_free(c, p + 8);
        kmem_cache_free(c, p);
        kmem_cache_free(c, p);
        kmem_cache_destroy(c);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("inside an object of cache checked")) << end.errors;
    EXPECT_TRUE(end.said("double free")) << end.errors;
}

// The left red zone of a slab's first object is not behind anything of that slab.
TEST(KmemCache, AFreeInFrontOfASlabsFirstObjectIsReported) {
    child_end end = in_child([] {
        pagoda::mutable_options().on_error = pagoda::error_policy::report;
        struct kmem_cache *c = make("zoned", 256, SLAB_RED_ZONE | SLAB_HWCACHE_ALIGN);
        std::vector<void *> held; // slabs that follow each other
        for (int i = 0; i < 2000; i++)
            held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
        for (void *p : held) {
            auto *object = static_cast<char *>(p);
            if (reinterpret_cast<uintptr_t>(object) % pagoda::kPageSize == 64)
                kfree(object - 64); // where a slab may begin
        }
        for (void *p : held)
            kmem_cache_free(c, p);
        kmem_cache_destroy(c);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("inside an object of cache zoned")) << end.errors;
    EXPECT_FALSE(end.said("double free")) << end.errors;
    EXPECT_FALSE(end.said("still in use")) << end.errors;
}

TEST(KmemCache, DmaCachesHaveNoMemoryWithoutADevice) {
    for (slab_flags_t flag : {SLAB_CACHE_DMA, SLAB_CACHE_DMA32}) {
        struct kmem_cache *c = make("dma", 64, flag);
        ASSERT_NE(c, nullptr);
        EXPECT_EQ(kmem_cache_alloc(c, GFP_KERNEL | __GFP_NOWARN), nullptr);
        kmem_cache_destroy(c);
    }
}

TEST(KmemCache, LargeObjectsAndLargeAlignments) {
    random_numbers random(4);
    for (int i = 0; i < 60; i++) {
        kmem_cache_args args = {};
        args.align = 1u << (3 + random.below(14));
        unsigned size = static_cast<unsigned>(1 + random.skewed(20));
        struct kmem_cache *c = kmem_cache_create("large", size, &args, SLAB_NO_MERGE);
        ASSERT_NE(c, nullptr);
        std::vector<char *> held;
        for (int n = 0; n < 5; n++) {
            held.push_back(static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL)));
            ASSERT_NE(held.back(), nullptr) << size << " at " << args.align;
            ASSERT_EQ(reinterpret_cast<uintptr_t>(held.back()) % args.align, 0u)
                << size << " at " << args.align;
            memset(held.back(), n, size);
        }
        for (int n = 0; n < 5; n++) {
            EXPECT_EQ(held[static_cast<size_t>(n)][0], n);
            EXPECT_EQ(held[static_cast<size_t>(n)][size - 1], static_cast<char>(n));
            kmem_cache_free(c, held[static_cast<size_t>(n)]);
        }
        kmem_cache_destroy(c);
    }
}

} // namespace
