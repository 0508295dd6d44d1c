#include "lib/failure_hook.h"

#include "lib/heap.h"
#include "tests/unit.h"

#include <pagoda/mm.h>
#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

using namespace pagoda::test;

namespace {

struct countdown {
    int left;
    int asked;
};

// Fails every third allocation.
bool every_third(size_t, gfp_t, void *argument) {
    auto *c = static_cast<countdown *>(argument);
    c->asked++;
    return ++c->left % 3 == 0;
}

TEST(FailureHook, DecidesOverEveryAllocation) {
    child_end end = in_child([] {
        countdown c = {};
        struct kmem_cache *cache = kmem_cache_create("hooked", 64, nullptr, 0);
        pagoda_set_failure_hook(every_third, &c);
        int failed = 0;
        constexpr gfp_t kFlags = GFP_KERNEL | __GFP_NOWARN;
        for (int i = 0; i < 300; i++) {
            void *p = kmalloc(64, kFlags);
            failed += p == nullptr;
            kfree(p);
        }
        EXPECT_EQ(failed, 100);
        EXPECT_EQ(c.asked, 300);
        failed = 0;
        for (int i = 0; i < 300; i++) {
            void *p = kmem_cache_alloc(cache, kFlags);
            failed += p == nullptr;
            if (p != nullptr)
                kmem_cache_free(cache, p);
            p = pagoda::heap_alloc(64, kFlags);
            failed += p == nullptr;
            kfree(p);
            unsigned long page = __get_free_page(kFlags);
            failed += page == 0;
            free_page(page);
        }
        EXPECT_EQ(failed, 300);
        c.left = 2;
        EXPECT_EQ(vmalloc(1 << 20), nullptr);
        pagoda_set_failure_hook(nullptr, nullptr);
        int asked = c.asked;
        for (int i = 0; i < 300; i++) {
            void *p = kmalloc(64, kFlags);
            EXPECT_NE(p, nullptr);
            kfree(p);
        }
        EXPECT_EQ(c.asked, asked);
        kmem_cache_destroy(cache);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(FailureHook, SeesSizeAndFlags) {
    child_end end = in_child([] {
        static size_t size;
        static gfp_t flags;
        pagoda_set_failure_hook(
            [](size_t s, gfp_t f, void *) {
                size = s;
                flags = f;
                return false;
            },
            nullptr);
        kfree(kmalloc(777, GFP_ATOMIC));
        EXPECT_EQ(size, 777u);
        EXPECT_EQ(flags, GFP_ATOMIC);
        EXPECT_STRNE(pagoda_version(), "");
    });
    EXPECT_TRUE(succeeded(end));
}

} // namespace
