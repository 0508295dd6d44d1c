#include "lib/scope.h"

#include "tests/unit.h"

#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/thread.h"

#include <thread>

namespace pagoda::test {
namespace {

TEST(scope, save_returns_what_was_not_open_and_restore_closes_just_that) {
    unsigned outer = pagoda_memalloc_save(PAGODA_SCOPE_NOFS);
    EXPECT_EQ(outer, PAGODA_SCOPE_NOFS);
    unsigned inner = pagoda_memalloc_save(PAGODA_SCOPE_NOFS | PAGODA_SCOPE_NOIO);
    EXPECT_EQ(inner, PAGODA_SCOPE_NOIO);
    EXPECT_EQ(memalloc_noio_save(), 0u);
    memalloc_noio_restore(0);
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_NOIO);
    pagoda_memalloc_restore(inner);
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_NOFS);
    pagoda_memalloc_restore(outer);
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_KERNEL);
    EXPECT_EQ(pagoda_memalloc_save(~7u), 0u) << "unknown scopes";
}

TEST(scope, flags_in_each_scope) {
    const struct {
        unsigned scopes;
        gfp_t gfp;
        gfp_t becomes;
    } table[] = {
        {0, GFP_KERNEL, GFP_KERNEL},
        {PAGODA_SCOPE_NOIO, GFP_KERNEL | __GFP_ZERO, GFP_NOIO | __GFP_ZERO},
        {PAGODA_SCOPE_NOFS, GFP_USER, GFP_USER & ~__GFP_FS},
        {PAGODA_SCOPE_NOIO | PAGODA_SCOPE_NOFS, GFP_KERNEL, GFP_NOIO},
        {PAGODA_SCOPE_NOIO, GFP_ATOMIC, GFP_ATOMIC},
        {PAGODA_SCOPE_NORECLAIM, GFP_KERNEL, GFP_KERNEL | __GFP_MEMALLOC},
        {PAGODA_SCOPE_NORECLAIM, GFP_KERNEL | __GFP_NOMEMALLOC, GFP_KERNEL | __GFP_NOMEMALLOC},
        {kScopeAtomic, GFP_KERNEL | __GFP_NOFAIL | __GFP_ZERO, GFP_ATOMIC | __GFP_ZERO},
        {kScopeAtomic, GFP_NOWAIT, GFP_NOWAIT},
        {kScopeAtomic | PAGODA_SCOPE_NORECLAIM, GFP_NOFS, GFP_ATOMIC | __GFP_MEMALLOC},
    };
    for (const auto &row : table)
        EXPECT_EQ(apply_scopes(row.gfp, row.scopes), row.becomes) << row.scopes << " " << row.gfp;
}

TEST(scope, is_the_threads_own) {
    unsigned opened = memalloc_nofs_save();
    std::thread([] { EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_KERNEL); }).join();
    memalloc_nofs_restore(opened);
}

TEST(scope, atomic_pairs_nest_and_an_end_too_many_does_nothing) {
    for (int i = 0; i < 1000; i++)
        pagoda_atomic_begin();
    unsigned opened = memalloc_noio_save();
    for (int i = 0; i < 999; i++)
        pagoda_atomic_end();
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_ATOMIC);
    pagoda_memalloc_restore(~0u);
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_ATOMIC) << "restore closed what begin opened";
    pagoda_atomic_end();
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_KERNEL);
    pagoda_atomic_end();
    EXPECT_EQ(scoped_gfp(GFP_KERNEL), GFP_KERNEL);
    static_cast<void>(opened);
}

TEST(scope, without_io_nothing_is_given_back_until_the_slow_path_ends) {
    EXPECT_TRUE(may_give_back());
    {
        slow_path scope;
        EXPECT_EQ(scope.limit(GFP_NOIO), GFP_NOIO);
        scope.limit(GFP_NOIO);
        EXPECT_FALSE(may_give_back());
    }
    EXPECT_TRUE(may_give_back());
    slow_path scope;
    scope.limit(GFP_KERNEL);
    scope.limit(GFP_ATOMIC);
    EXPECT_TRUE(may_give_back());
}

// An atomic scope: what needs the kernel fails, what is there is served.
TEST(scope, atomic_allocations_do_not_grow_the_heap) {
    child_end end = in_child([] {
        void *warm = heap_alloc(100, GFP_KERNEL);
        pagoda_atomic_begin();
        void *p = heap_alloc(100, GFP_KERNEL | __GFP_NOWARN);
        EXPECT_NE(p, nullptr);
        EXPECT_EQ(heap_alloc(size_t{64} << 20, GFP_KERNEL | __GFP_NOWARN), nullptr);
        heap_free(p, GFP_KERNEL);
        pagoda_atomic_end();
        void *big = heap_alloc(size_t{64} << 20, GFP_KERNEL);
        EXPECT_NE(big, nullptr);
        heap_free(big, GFP_KERNEL);
        heap_free(warm, GFP_KERNEL);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), kDebug ? 1u : 0u) << end.errors;
    EXPECT_EQ(end.said("a blocking allocation (0x2cc0(GFP_KERNEL|__GFP_NOWARN)) between "
                       "pagoda_atomic_begin and pagoda_atomic_end is served as GFP_ATOMIC"),
              kDebug);
}

TEST(scope, a_blocking_allocation_in_a_handler_that_interrupted_the_allocator_is_reported_once) {
    child_end end = in_child([] {
        heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
        slow_path interrupted;
        for (int i = 0; i < 3; i++) {
            void *p = heap_alloc(100, GFP_NOFS | __GFP_NOWARN);
            EXPECT_NE(p, nullptr);
            heap_free(p, GFP_KERNEL); // a free never waits: fine anywhere
        }
        heap_free(heap_alloc(100, GFP_ATOMIC), GFP_ATOMIC);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), kDebug ? 1u : 0u) << end.errors;
    EXPECT_EQ(end.said("(0x2c40(GFP_NOFS|__GFP_NOWARN)) in a signal handler"), kDebug);
}

} // namespace
} // namespace pagoda::test
