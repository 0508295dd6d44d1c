#include "lib/hot_path.h"

#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/kmem_cache.h"
#include "tests/unit.h"

#include <pagoda/slab.h>

using namespace pagoda;
using namespace pagoda::test;

namespace {

TEST(HotPath, IsOpenInReleaseBuildsUntilSomebodyClosesIt) {
    child_end end = in_child([] {
        ::kmem_cache *before = kmem_cache_create("before", 64, nullptr, 0);
        auto hot = [](::kmem_cache *c) {
            return reinterpret_cast<pagoda::kmem_cache *>(c)->hot_cls;
        };
        EXPECT_EQ(hot_paths_closed(), kDebug);
        EXPECT_EQ(g_percpu.small_limit != 0, !kDebug);
        EXPECT_EQ(g_kernel_api.small_limit != 0, !kDebug);
        EXPECT_EQ(hot(before) != 0, !kDebug);
        hot_paths_close();
        EXPECT_TRUE(hot_paths_closed());
        hot_path_open(g_percpu.small_limit);
        EXPECT_EQ(g_percpu.small_limit, 0u) << "closed for good";
        EXPECT_EQ(g_kernel_api.small_limit, 0u);
        EXPECT_EQ(hot(before), 0);
        ::kmem_cache *after = kmem_cache_create("after", 128, nullptr, 0);
        EXPECT_EQ(hot(after), 0);
        for (::kmem_cache *c : {before, after}) {
            void *p = kmem_cache_alloc(c, GFP_KERNEL);
            EXPECT_NE(p, nullptr);
            kmem_cache_free(c, p);
            kmem_cache_destroy(c);
        }
        kfree(kmalloc(64, GFP_KERNEL));
    });
    EXPECT_TRUE(succeeded(end));
}

} // namespace
