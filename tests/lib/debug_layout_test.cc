#include "lib/debug_layout.h"

#include "hugepage/options.h"
#include "tests/unit.h"

#include <vector>

using namespace pagoda::test;
using pagoda::cache_traits;
using pagoda::debug_layout;

namespace {

struct kmem_cache *make(slab_flags_t flags) {
    return kmem_cache_create("debugged", 50, nullptr, flags);
}

// A child that goes on after its reports; what it says.
template <class F> child_end reported(F body) {
    return in_child([&] {
        pagoda::mutable_options().on_error = pagoda::error_policy::report;
        body();
    });
}

TEST(DebugLayout, MakesRoomForWhatIsAskedFor) {
    cache_traits plain = {};
    plain.object_size = 50;
    plain.align = 16;
    EXPECT_EQ(debug_layout(plain), 50u);
    cache_traits red = plain;
    red.flags = SLAB_RED_ZONE;
    EXPECT_GE(debug_layout(red), 16u + 50 + 8);
    EXPECT_EQ(red.lead, 16u);
    cache_traits user = plain;
    user.flags = SLAB_STORE_USER;
    EXPECT_GE(debug_layout(user), 50u + 16);
    EXPECT_EQ(user.lead, 0u);
}

TEST(DebugCaches, CorrectUseIsNotReported) {
    child_end end = reported([] {
        struct kmem_cache *c = make(SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER);
        random_numbers random(1);
        std::vector<void *> held;
        for (int i = 0; i < 20000; i++) {
            if (random.one_in(2)) {
                held.push_back(kmem_cache_alloc(c, GFP_KERNEL));
                EXPECT_EQ(reinterpret_cast<uintptr_t>(held.back()) % 8, 0u);
                memset(held.back(), static_cast<int>(random.next()), 50);
            } else if (!held.empty()) {
                kmem_cache_free(c, held.back());
                held.pop_back();
            }
        }
        for (void *p : held)
            kmem_cache_free(c, p);
        kmem_cache_destroy(c);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

TEST(DebugCaches, WritesBesideAnObjectAreFoundWhenItIsFreed) {
    for (int at : {50, -1, 57}) {
        child_end end = reported([&] {
            struct kmem_cache *c = make(SLAB_RED_ZONE | SLAB_STORE_USER);
            auto *p = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
            p[at] = 'A';
            kmem_cache_free(c, p);
        });
        EXPECT_TRUE(succeeded(end));
        EXPECT_EQ(end.lines(), 1u) << end.errors;
        EXPECT_TRUE(end.said("BUG debugged: ")) << end.errors;
        EXPECT_TRUE(end.said(at < 0 ? "left red zone overwritten" : "right red zone overwritten"))
            << end.errors;
        EXPECT_TRUE(end.said("is 65, not 204")) << end.errors;
        EXPECT_TRUE(end.said("allocated at 0x")) << end.errors;
    }
}

TEST(DebugCaches, WritesIntoFreeObjectsAreFoundWhenTheyAreHandedOut) {
    child_end end = reported([] {
        struct kmem_cache *c = make(SLAB_POISON | SLAB_STORE_USER);
        auto *p = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
        kmem_cache_free(c, p);
        EXPECT_EQ(static_cast<unsigned char>(p[0]), 0x6b);
        EXPECT_EQ(static_cast<unsigned char>(p[49]), 0xa5);
        p[20] = 0;
        while (kmem_cache_alloc(c, GFP_KERNEL) != p) {
        }
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("written to after it was freed")) << end.errors;
    EXPECT_TRUE(end.said("freed at 0x")) << end.errors;
}

TEST(DebugCaches, AConstructedObjectKeepsItsState) {
    child_end end = reported([] {
        kmem_cache_args args = {};
        args.ctor = [](void *p) { memset(p, 3, 50); };
        struct kmem_cache *c =
            kmem_cache_create("constructed", 50, &args, SLAB_POISON | SLAB_RED_ZONE);
        for (int i = 0; i < 500; i++) {
            auto *p = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
            ASSERT_EQ(p[0], 3);
            ASSERT_EQ(p[49], 3);
            if (i % 2 == 0)
                kmem_cache_free(c, p);
        }
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

// Readers look at freed objects of such a cache, and may take a lock or a reference in them.
TEST(DebugCaches, AnObjectThatReadersMayLookAtKeepsWhatItHolds) {
    child_end end = reported([] {
        struct kmem_cache *c = make(SLAB_POISON | SLAB_RED_ZONE | SLAB_TYPESAFE_BY_RCU);
        auto *p = static_cast<char *>(kmem_cache_alloc(c, GFP_KERNEL));
        memset(p, 7, 50);
        int section = pagoda_rcu_read_lock();
        kmem_cache_free(c, p);
        EXPECT_EQ(p[0], 7);
        EXPECT_EQ(p[49], 7);
        p[10] = 8;
        pagoda_rcu_read_unlock(section);
        EXPECT_EQ(kmem_cache_alloc(c, GFP_KERNEL), p);
        EXPECT_EQ(p[10], 8);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

} // namespace
