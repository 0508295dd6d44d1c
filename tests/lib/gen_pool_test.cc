#include "tests/unit.h"

#include "hugepage/sys.h"
#include "lib/bitmap.h"
#include "lib/gen_pool.h"
#include "lib/heap.h"

#include <errno.h>
#include <map>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr unsigned long kBase = 0x10000000; // nothing is there: a pool only counts

gen_pool *make(int order, size_t bytes, unsigned long base = kBase) {
    gen_pool *pool = gen_pool_create(order, NUMA_NO_NODE);
    EXPECT_NE(pool, nullptr);
    EXPECT_EQ(gen_pool_add(pool, base, bytes, NUMA_NO_NODE), 0);
    return pool;
}

TEST(bitmap, finds_runs_as_a_bit_by_bit_search_does) {
    random_numbers random(1);
    for (int round = 0; round < 20000; round++) {
        unsigned long map[4] = {};
        size_t size = 1 + random.below(256);
        for (size_t bit = 0; bit < size; bit++)
            if (random.one_in(4))
                bitmap::change(map, bit, 1, true);
        size_t from = random.below(size);
        size_t count = 1 + random.below(round % 2 == 0 ? 6 : 40);
        size_t align = size_t{1} << random.below(5);
        size_t offset = random.below(40);
        size_t expected = size;
        for (size_t at = from; at + count <= size && expected == size; at++) {
            bool clear = (at + offset) % align == 0;
            for (size_t i = at; clear && i < at + count; i++)
                clear = !bitmap::test(map, i);
            if (clear)
                expected = at;
        }
        ASSERT_EQ(bitmap::find_clear_run(map, size, from, count, align, offset), expected);
    }
}

TEST(bitmap, changes_whole_ranges_up_to_the_first_that_differs) {
    unsigned long map[3] = {};
    EXPECT_EQ(bitmap::change(map, 60, 100, true), 100u);
    EXPECT_EQ(bitmap::find(map, 192, 0, true), 60u);
    EXPECT_EQ(bitmap::find(map, 192, 60, false), 160u);
    EXPECT_EQ(bitmap::change(map, 0, 64, true), 0u) << "one word, one of its bits is set";
    EXPECT_EQ(bitmap::change(map, 128, 64, false), 0u);
    EXPECT_EQ(bitmap::change(map, 60, 110, false), 68u) << "whole words before the fault";
    EXPECT_EQ(bitmap::find(map, 192, 0, true), 128u);
}

TEST(gen_pool, has_what_was_added_in_whole_granules) {
    gen_pool *pool = gen_pool_create(8, NUMA_NO_NODE);
    EXPECT_EQ(gen_pool_size(pool), 0u);
    EXPECT_EQ(gen_pool_alloc(pool, 1), 0u);
    EXPECT_EQ(gen_pool_add(pool, kBase, 1000, NUMA_NO_NODE), 0);
    EXPECT_EQ(gen_pool_size(pool), 768u);
    EXPECT_EQ(gen_pool_avail(pool), 768u);
    EXPECT_EQ(gen_pool_add(pool, kBase + 4096, 255, NUMA_NO_NODE), -EINVAL);
    EXPECT_EQ(gen_pool_add(pool, 0, 4096, NUMA_NO_NODE), -EINVAL);
    EXPECT_EQ(gen_pool_add(pool, ~0UL - 511, 1024, NUMA_NO_NODE), -EINVAL);
    unsigned long a = gen_pool_alloc(pool, 257);
    EXPECT_EQ(a, kBase);
    EXPECT_EQ(gen_pool_avail(pool), 256u);
    EXPECT_EQ(gen_pool_alloc(pool, 257), 0u);
    EXPECT_EQ(gen_pool_alloc(pool, 0), 0u);
    EXPECT_EQ(gen_pool_alloc(pool, ~size_t{0}), 0u);
    EXPECT_EQ(gen_pool_alloc(pool, 256), kBase + 512);
    gen_pool_free(pool, a, 512);
    gen_pool_free(pool, kBase + 512, 256);
    gen_pool_destroy(pool);
    EXPECT_EQ(gen_pool_create(-1, 0), nullptr);
    EXPECT_EQ(gen_pool_create(63, 0), nullptr);
}

TEST(gen_pool, knows_its_chunks) {
    gen_pool *pool = make(4, 4096);
    int tag = 0;
    ASSERT_EQ(gen_pool_add_owner(pool, kBase + 8192, 0x5000, 4096, 0, &tag), 0);
    EXPECT_TRUE(gen_pool_has_addr(pool, kBase, 4096));
    EXPECT_FALSE(gen_pool_has_addr(pool, kBase, 4097));
    EXPECT_FALSE(gen_pool_has_addr(pool, kBase - 1, 2));
    EXPECT_FALSE(gen_pool_has_addr(pool, kBase + 4096, 1));
    EXPECT_FALSE(gen_pool_has_addr(pool, kBase, ~size_t{0}));
    EXPECT_EQ(gen_pool_virt_to_phys(pool, kBase + 8192 + 100), 0x5000u + 100);
    EXPECT_EQ(gen_pool_virt_to_phys(pool, kBase), ~phys_addr_t{0}) << "no second address";
    EXPECT_EQ(gen_pool_virt_to_phys(pool, kBase + 4096), ~phys_addr_t{0});
    void *owner = nullptr;
    unsigned long a = gen_pool_alloc_owner(pool, 4096, &owner);
    EXPECT_EQ(a, kBase + 8192) << "the chunk added last comes first";
    EXPECT_EQ(owner, &tag);
    unsigned long b = gen_pool_alloc_owner(pool, 4096, &owner);
    EXPECT_EQ(b, kBase);
    EXPECT_EQ(owner, nullptr);
    gen_pool_free_owner(pool, a, 4096, &owner);
    EXPECT_EQ(owner, &tag);
    gen_pool_free(pool, b, 4096);
    std::vector<unsigned long> starts;
    gen_pool_for_each_chunk(
        pool,
        [](gen_pool *, gen_pool_chunk *c, void *data) {
            EXPECT_EQ(c->end_addr - c->start_addr, 4095u);
            static_cast<std::vector<unsigned long> *>(data)->push_back(c->start_addr);
        },
        &starts);
    EXPECT_EQ(starts, (std::vector<unsigned long>{kBase + 8192, kBase}));
    gen_pool_destroy(pool);
}

TEST(gen_pool, algorithms_choose_as_they_say) {
    constexpr unsigned long base = kBase + 0x30; // chunks need not be aligned
    gen_pool *pool = make(4, 64 * 16, base);
    gen_pool_set_algo(pool, gen_pool_fixed_alloc, nullptr);
    auto take = [&](unsigned long offset, size_t bytes) {
        genpool_data_fixed data = {offset};
        return gen_pool_alloc_algo(pool, bytes, gen_pool_fixed_alloc, &data);
    };
    EXPECT_EQ(take(0, 16), base);
    EXPECT_EQ(take(0, 16), 0u) << "taken";
    EXPECT_EQ(take(8, 16), 0u) << "not a granule's start";
    EXPECT_EQ(take(64 * 16, 16), 0u);
    EXPECT_EQ(take(63 * 16, 32), 0u);
    EXPECT_EQ(take(10 * 16, 16), base + 10 * 16); // a hole of 9, then one of 4, then the rest
    EXPECT_EQ(take(15 * 16, 16), base + 15 * 16);
    gen_pool_set_algo(pool, nullptr, nullptr);
    EXPECT_EQ(gen_pool_alloc(pool, 48), base + 16) << "first fit";
    gen_pool_free(pool, base + 16, 48);
    EXPECT_EQ(gen_pool_alloc_algo(pool, 48, gen_pool_best_fit, nullptr), base + 11 * 16);
    gen_pool_free(pool, base + 11 * 16, 48);
    EXPECT_EQ(gen_pool_alloc_algo(pool, 9 * 16, gen_pool_best_fit, nullptr), base + 16);
    gen_pool_free(pool, base + 16, 9 * 16);
    EXPECT_EQ(gen_pool_alloc_algo(pool, 49 * 16, gen_pool_best_fit, nullptr), 0u);
    genpool_data_align align = {256};
    EXPECT_EQ(gen_pool_alloc_algo(pool, 16, gen_pool_first_fit_align, &align), kBase + 256);
    align.align = 1; // below the granule
    EXPECT_EQ(gen_pool_alloc_algo(pool, 16, gen_pool_first_fit_align, &align), base + 16);
    EXPECT_EQ(gen_pool_alloc_algo(pool, 33, gen_pool_first_fit_order_align, nullptr), base + 64);
    gen_pool_free(pool, base + 64, 48);
    gen_pool_free(pool, base + 16, 16);
    gen_pool_free(pool, kBase + 256, 16);
    for (unsigned long offset : {0, 10, 15})
        gen_pool_free(pool, base + offset * 16, 16);
    gen_pool_destroy(pool);
}

TEST(gen_pool, wrong_frees_are_reported_and_change_nothing) {
    auto ends_with = [](void (*body)(gen_pool *), const char *text) {
        child_end end = in_child([&] { body(make(4, 4096)); });
        EXPECT_EQ(end.signal(), SIGABRT);
        EXPECT_TRUE(end.said(text)) << end.errors;
    };
    ends_with([](gen_pool *p) { gen_pool_free(p, kBase, 16); }, "not allocated");
    ends_with([](gen_pool *p) { gen_pool_free(p, gen_pool_alloc(p, 16), 32); }, "not allocated");
    ends_with([](gen_pool *p) { gen_pool_free(p, kBase - 16, 16); }, "no chunk");
    ends_with([](gen_pool *p) { gen_pool_free(p, gen_pool_alloc(p, 4096), 4097); }, "no chunk");
    ends_with([](gen_pool *p) { gen_pool_free(p, gen_pool_alloc(p, 16), 0); }, "no chunk");
    ends_with(
        [](gen_pool *p) {
            EXPECT_NE(gen_pool_alloc(p, 100), 0u);
            gen_pool_destroy(p);
        },
        "112 bytes are still allocated");
}

TEST(gen_pool, that_cannot_be_had_is_null) {
    EXPECT_TRUE(succeeded(in_child([] {
        gen_pool *pool = make(0, 1);
        sys::inject_failures(0, 1 << 30);
        EXPECT_EQ(gen_pool_add(pool, kBase, size_t{1} << 33, NUMA_NO_NODE), -ENOMEM);
        sys::inject_failures(0, 0);
        EXPECT_EQ(gen_pool_size(pool), 1u);
        gen_pool_destroy(pool);
    })));
}

TEST(gen_pool, agrees_with_a_model) {
    random_numbers random(2);
    constexpr size_t kGranules = 1000;
    gen_pool *pool = make(5, kGranules * 32);
    std::vector<bool> used(kGranules);
    std::map<unsigned long, size_t> out; // address to granules
    for (uint64_t i = 0; i < operations() / 20; i++) {
        if (random.one_in(2)) {
            size_t count = 1 + random.below(12);
            size_t expected = 0; // first fit
            for (size_t run = 0; expected < kGranules && run < count; expected++)
                run = used[expected] ? 0 : run + 1;
            bool full = true;
            size_t first = expected - count;
            if (expected >= count) {
                full = false;
                for (size_t g = first; g < expected; g++)
                    full = full || used[g];
            }
            unsigned long at = gen_pool_alloc(pool, count * 32 - random.below(32));
            ASSERT_EQ(at, full ? 0 : kBase + first * 32);
            if (full)
                continue;
            out[at] = count;
            for (size_t g = first; g < first + count; g++)
                used[g] = true;
        } else if (!out.empty()) {
            auto it = out.lower_bound(kBase + random.below(kGranules) * 32);
            if (it == out.end())
                it = out.begin();
            gen_pool_free(pool, it->first, it->second * 32);
            for (size_t g = 0; g < it->second; g++)
                used[(it->first - kBase) / 32 + g] = false;
            out.erase(it);
        }
        size_t clear = 0;
        for (size_t g = 0; i % 64 == 0 && g < kGranules; g++)
            clear += !used[g];
        ASSERT_TRUE(i % 64 != 0 || gen_pool_avail(pool) == clear * 32);
    }
    for (auto [at, count] : out)
        gen_pool_free(pool, at, count * 32);
    gen_pool_destroy(pool);
}

TEST(gen_pool, threads_never_get_the_same_granule) {
    constexpr size_t kGranules = 512;
    gen_pool *pool = make(4, kGranules * 16);
    std::vector<std::atomic<int>> owners(kGranules);
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 4; seed++)
        threads.emplace_back([&, seed] {
            random_numbers random(seed);
            std::vector<std::pair<unsigned long, size_t>> mine;
            for (int i = 0; i < 50000; i++) {
                size_t count = 1 + random.below(70);
                genpool_algo_t algo = random.one_in(2) ? gen_pool_first_fit : gen_pool_best_fit;
                unsigned long at = gen_pool_alloc_algo(pool, count * 16, algo, nullptr);
                for (size_t g = 0; at != 0 && g < count; g++)
                    EXPECT_EQ(owners[(at - kBase) / 16 + g].exchange(static_cast<int>(seed)), 0);
                if (at != 0)
                    mine.emplace_back(at, count);
                while (mine.size() > random.below(3)) {
                    auto [back, granules] = mine.back();
                    mine.pop_back();
                    for (size_t g = 0; g < granules; g++)
                        EXPECT_EQ(owners[(back - kBase) / 16 + g].exchange(0),
                                  static_cast<int>(seed));
                    gen_pool_free(pool, back, granules * 16);
                }
            }
            for (auto [back, granules] : mine) {
                for (size_t g = 0; g < granules; g++)
                    owners[(back - kBase) / 16 + g] = 0;
                gen_pool_free(pool, back, granules * 16);
            }
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(gen_pool_avail(pool), kGranules * 16);
    gen_pool_destroy(pool);
}

} // namespace
} // namespace pagoda::test
