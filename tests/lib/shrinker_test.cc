#include "lib/shrinker.h"

#include "tests/unit.h"

#include "hugepage/options.h"
#include "lib/heap.h"
#include "lib/thread.h"

#include <pagoda/shrinker.h>

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

// A cache of `objects` that notes how it is asked.
struct cache {
    unsigned long objects = 0;
    unsigned long frees_of = 1; // one in so many is freed
    std::vector<unsigned long> scans;
    unsigned counts = 0;
    gfp_t gfp = 0;
    unsigned long answer = 0; // instead of scanning, if not 0

    static cache &of(struct shrinker *s) { return *static_cast<cache *>(s->private_data); }
    static unsigned long count(struct shrinker *s, struct shrink_control *sc) {
        EXPECT_EQ(t_thread.depth, 0);
        of(s).counts++;
        of(s).gfp = sc->gfp_mask;
        return of(s).objects;
    }
    static unsigned long scan(struct shrinker *s, struct shrink_control *sc) {
        EXPECT_EQ(t_thread.depth, 0);
        EXPECT_EQ(sc->nr_scanned, sc->nr_to_scan);
        EXPECT_EQ(sc->nid, 0);
        cache &c = of(s);
        c.scans.push_back(sc->nr_to_scan);
        if (c.answer != 0)
            return c.answer;
        unsigned long n = min_of(c.objects, sc->nr_to_scan) / c.frees_of;
        c.objects -= n;
        return n;
    }
};

struct shrinker *registered(cache &c, unsigned flags = 0) {
    struct shrinker *s = shrinker_alloc(flags, "test-%d", 7);
    EXPECT_NE(s, nullptr);
    EXPECT_EQ(s->seeks, DEFAULT_SEEKS);
    EXPECT_EQ(s->flags, flags);
    EXPECT_EQ(s->batch, 0);
    s->count_objects = cache::count;
    s->scan_objects = cache::scan;
    s->private_data = &c;
    shrinker_register(s);
    return s;
}

shrink_result shrink(gfp_t gfp, int priority) {
    unsigned opened = memalloc_noreclaim_save();
    shrink_result r = shrink_all(gfp, priority);
    memalloc_noreclaim_restore(opened);
    return r;
}

class shrinkers : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
    void TearDown() override {
        EXPECT_FALSE(shrinkers_registered());
        EXPECT_EQ(shrink(GFP_KERNEL, 0).freeable, 0u);
    }
};

TEST_F(shrinkers, share_of_a_call) {
    const struct {
        uint64_t freeable, deferred;
        int priority, seeks;
        uint64_t share;
    } table[] = {
        {4096, 0, 12, 2, 2},    {4095, 0, 12, 2, 0},     {4096, 0, 0, 2, 8192},
        {1000, 0, 3, 2, 250},   {1000, 0, 3, 4, 125},    {1000, 0, 12, 0, 500},
        {1000, 800, 3, 2, 350}, {10, 1000000, 0, 2, 20}, {100, 0, 0, 1, 200},
        {1, 0, 0, 2, 2},
    };
    for (const auto &row : table)
        EXPECT_EQ(shrink_share(row.freeable, row.deferred, row.priority, row.seeks), row.share)
            << row.freeable << " " << row.priority;
}

TEST_F(shrinkers, scans_in_batches) {
    cache c;
    c.objects = 1000;
    struct shrinker *s = registered(c);
    shrink_result r = shrink(GFP_KERNEL, 1); // 500 * 4 / 2 = 1000 objects
    EXPECT_EQ(r.freed, 7u * 128);            // the rest is less than a batch
    EXPECT_EQ(r.freeable, 1000u);
    EXPECT_EQ(c.scans, std::vector<unsigned long>(7, 128));
    EXPECT_EQ(c.gfp, GFP_KERNEL);
    s->batch = 50;
    c.scans.clear();
    // 104 left: 52 * 4 / 2, and 104 deferred, half of which counts at this priority.
    EXPECT_EQ(shrink(GFP_KERNEL, 1).freed, 104u);
    EXPECT_EQ(c.scans, std::vector<unsigned long>({50, 50, 50}));
    shrinker_free(s);
}

TEST_F(shrinkers, what_is_left_over_is_done_later_and_is_bounded) {
    cache c;
    c.objects = 400; // at priority 4: 50 a time, less than a batch
    struct shrinker *s = registered(c);
    for (int i = 0; i < 20; i++) {
        EXPECT_EQ(shrink(GFP_KERNEL, 4).freed, 0u);
        EXPECT_TRUE(c.scans.empty());
    }
    // 800 deferred at most: 50 of them count, and 50: still no batch.
    EXPECT_EQ(shrink(GFP_KERNEL, 4).freed, 0u);
    // At priority 3: 100 of those, and 100.
    EXPECT_EQ(shrink(GFP_KERNEL, 3).freed, 128u);
    shrinker_free(s);
}

TEST_F(shrinkers, a_few_objects_are_scanned_at_the_last_priority) {
    cache c;
    c.objects = 10;
    struct shrinker *s = registered(c);
    for (int priority = kFirstPriority; priority > 2; priority--)
        EXPECT_EQ(shrink(GFP_KERNEL, priority).freed, 0u) << priority;
    uint64_t freed = 0;
    for (int priority = 2; priority >= 0; priority--)
        freed += shrink(GFP_KERNEL, priority).freed;
    EXPECT_EQ(freed, 10u);
    shrinker_free(s);
}

TEST_F(shrinkers, special_answers) {
    cache c;
    struct shrinker *s = registered(c);
    EXPECT_EQ(shrink(GFP_KERNEL, 0).freeable, 0u);
    c.objects = SHRINK_EMPTY;
    EXPECT_EQ(shrink(GFP_KERNEL, 0).freeable, 0u);
    EXPECT_TRUE(c.scans.empty());
    c.objects = 1000;
    c.answer = SHRINK_STOP;
    EXPECT_EQ(shrink(GFP_KERNEL, 0).freed, 0u);
    EXPECT_EQ(c.scans.size(), 1u);
    shrinker_free(s);
}

// A shrinker that counts what it looked at itself, and says none.
TEST_F(shrinkers, a_shrinker_that_looks_at_nothing_is_not_asked_for_ever) {
    cache c;
    c.objects = 10;
    struct shrinker *s = registered(c);
    s->scan_objects = [](struct shrinker *self, struct shrink_control *sc) {
        cache::of(self).scans.push_back(1);
        sc->nr_scanned = 0;
        return 0ul;
    };
    shrink(GFP_KERNEL, 0);
    EXPECT_LE(c.scans.size(), 20u);
    shrinker_free(s);
}

TEST_F(shrinkers, no_seeks_means_half_of_all_at_any_priority) {
    cache c;
    c.objects = 512;
    struct shrinker *s = registered(c);
    s->seeks = 0;
    EXPECT_EQ(shrink(GFP_KERNEL, kFirstPriority).freed, 256u);
    shrinker_free(s);
}

TEST_F(shrinkers, flags_say_who_is_called) {
    cache plain;
    cache io;
    cache fs;
    cache both;
    struct shrinker *all[] = {registered(plain, SHRINKER_NUMA_AWARE), registered(io, SHRINKER_IO),
                              registered(fs, SHRINKER_FS),
                              registered(both, SHRINKER_IO | SHRINKER_FS)};
    const struct {
        gfp_t gfp;
        unsigned plain, io, fs, both;
    } table[] = {
        {GFP_KERNEL, 1, 1, 1, 1},
        {GFP_NOFS, 1, 1, 0, 0},
        {GFP_NOIO, 1, 0, 0, 0},
        {__GFP_RECLAIM | __GFP_FS, 1, 0, 1, 0},
    };
    for (const auto &row : table) {
        plain.counts = io.counts = fs.counts = both.counts = 0;
        shrink(row.gfp, 3);
        EXPECT_EQ(plain.counts, row.plain) << row.gfp;
        EXPECT_EQ(io.counts, row.io) << row.gfp;
        EXPECT_EQ(fs.counts, row.fs) << row.gfp;
        EXPECT_EQ(both.counts, row.both) << row.gfp;
    }
    for (struct shrinker *s : all)
        shrinker_free(s);
}

TEST_F(shrinkers, is_not_called_before_it_is_registered_and_can_be_freed_without) {
    struct shrinker *s = shrinker_alloc(0, "%s", std::string(100, 'n').c_str());
    ASSERT_NE(s, nullptr);
    EXPECT_FALSE(shrinkers_registered());
    shrinker_free(s);
    shrinker_free(nullptr);
    cache c;
    s = registered(c);
    shrinker_register(s); // twice is once
    shrink(GFP_KERNEL, 0);
    EXPECT_EQ(c.counts, 1u);
    shrinker_free(s);
}

TEST_F(shrinkers, freeing_one_in_its_own_callback_is_reported) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        cache c;
        struct shrinker *s = registered(c);
        s->count_objects = [](struct shrinker *self, struct shrink_control *) {
            shrinker_free(self);
            return 0ul;
        };
        shrink(GFP_KERNEL, 0);
        shrinker_free(s);
        EXPECT_FALSE(shrinkers_registered());
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("shrinker_free(test-7) in a callback of that shrinker")) << end.errors;
}

// shrinker_free waits for a callback that runs, and none runs afterwards.
TEST_F(shrinkers, no_callback_runs_once_freed) {
    struct shared {
        std::atomic<bool> alive{true};
        std::atomic<unsigned> inside{0};
        std::atomic<unsigned> calls{0};
        std::atomic<unsigned> late{0};
    };
    std::atomic<bool> stop{false};
    std::vector<std::thread> reclaimers;
    for (int i = 0; i < 2; i++)
        reclaimers.emplace_back([&] {
            while (!stop)
                shrink(GFP_KERNEL, 0);
        });
    for (int round = 0; round < 200; round++) {
        shared state;
        struct shrinker *s = shrinker_alloc(0, "short-lived");
        ASSERT_NE(s, nullptr);
        s->private_data = &state;
        s->count_objects = [](struct shrinker *self, struct shrink_control *) {
            auto &st = *static_cast<shared *>(self->private_data);
            st.inside++;
            st.calls++;
            st.late += !st.alive;
            std::this_thread::yield();
            st.late += !st.alive;
            st.inside--;
            return 0ul;
        };
        s->scan_objects = [](struct shrinker *, struct shrink_control *) { return 0ul; };
        shrinker_register(s);
        while (state.calls == 0)
            std::this_thread::yield();
        shrinker_free(s);
        EXPECT_EQ(state.inside, 0u);
        state.alive = false;
        std::this_thread::yield();
        EXPECT_EQ(state.late, 0u);
    }
    stop = true;
    for (auto &t : reclaimers)
        t.join();
}

// A fork child has no thread that would end the callbacks of its parent's.
TEST_F(shrinkers, can_be_freed_in_a_fork_child) {
    struct shared {
        std::atomic<bool> inside{false};
        std::atomic<bool> go_on{false};
    } state;
    struct shrinker *s = shrinker_alloc(0, "slow");
    ASSERT_NE(s, nullptr);
    s->private_data = &state;
    s->count_objects = [](struct shrinker *self, struct shrink_control *) {
        auto &st = *static_cast<shared *>(self->private_data);
        st.inside = true;
        while (!st.go_on)
            std::this_thread::yield();
        return 0ul;
    };
    shrinker_register(s);
    std::thread reclaimer([] { shrink(GFP_KERNEL, 0); });
    while (!state.inside)
        std::this_thread::yield();
    heap_before_fork();
    child_end end = in_child(
        [&] {
            heap_after_fork(true);
            shrinker_free(s);
            EXPECT_FALSE(shrinkers_registered());
        },
        60);
    heap_after_fork(false);
    EXPECT_TRUE(succeeded(end));
    state.go_on = true;
    reclaimer.join();
    shrinker_free(s);
}

} // namespace
} // namespace pagoda::test
