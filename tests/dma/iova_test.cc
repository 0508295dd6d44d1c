#include "dma/iova.h"

#include "tests/unit.h"

#include <map>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

class domain {
  public:
    explicit domain(unsigned long start = 1, bool caches = false) {
        init_iova_domain(&d, 4096, start);
        EXPECT_EQ(caches ? iova_domain_init_rcaches(&d) : 0, 0);
    }
    ~domain() { put_iova_domain(&d); }
    domain(const domain &) = delete;
    domain &operator=(const domain &) = delete;

    unsigned long take(unsigned long size, unsigned long limit, bool aligned = false) {
        iova *i = alloc_iova(&d, size, limit, aligned);
        return i != nullptr ? i->pfn_lo : 0;
    }

    iova_domain d;
};

TEST(iova, is_given_out_from_the_limit_downwards) {
    domain d(16);
    EXPECT_EQ(d.take(1, 1000), 1000u);
    EXPECT_EQ(d.take(3, 1000), 997u);
    EXPECT_EQ(d.take(4, 1000, true), 992u);
    EXPECT_EQ(d.take(1, 1000), 996u) << "the gap that alignment left";
    EXPECT_EQ(d.take(5, 1000, true), 984u) << "5 pages are aligned to 8";
    EXPECT_EQ(d.take(4, 18), 0u) << "16 to 18 are three";
    EXPECT_EQ(d.take(3, 18), 16u);
    EXPECT_EQ(d.take(1, 15), 0u) << "below the start";
    EXPECT_EQ(d.take(0, 1000), 0u);
    EXPECT_EQ(d.take(~0ul, ~0ul), 0u);
    EXPECT_EQ(d.take(1, ~0ul), ~0ul - 1) << "the last page of all is nobody's";
}

TEST(iova, knows_which_pages_are_taken) {
    domain d;
    iova *i = alloc_iova(&d.d, 4, 100, false);
    ASSERT_NE(i, nullptr);
    EXPECT_EQ(iova_size(i), 4u);
    EXPECT_EQ(find_iova(&d.d, 96), nullptr);
    EXPECT_EQ(find_iova(&d.d, 97), i);
    EXPECT_EQ(find_iova(&d.d, 100), i);
    EXPECT_EQ(find_iova(&d.d, 101), nullptr);
    EXPECT_EQ(find_iova(&d.d, ~0ul), nullptr);
    EXPECT_TRUE(dma::iova_overlaps(&d.d, 0, 97));
    EXPECT_FALSE(dma::iova_overlaps(&d.d, 0, 96));
    free_iova(&d.d, 50);
    free_iova(&d.d, 98);
    EXPECT_EQ(find_iova(&d.d, 98), nullptr);
    i = alloc_iova(&d.d, 4, 100, false);
    __free_iova(&d.d, i);
    EXPECT_EQ(d.take(100, 100), 1u);
}

TEST(iova, reserved_windows_are_never_given_out) {
    domain d;
    EXPECT_NE(reserve_iova(&d.d, 50, 59), nullptr);
    EXPECT_NE(reserve_iova(&d.d, 55, 70), nullptr) << "what of it is free";
    EXPECT_FALSE(dma::iova_overlaps(&d.d, 0, 1000)) << "reserved is not in use";
    EXPECT_EQ(d.take(1, 70), 49u);
    EXPECT_EQ(d.take(31, 100), 18u) << "71 to 100 are thirty";
    EXPECT_EQ(d.take(30, 100), 71u);
    EXPECT_EQ(reserve_iova(&d.d, 9, 8), nullptr);
    EXPECT_EQ(reserve_iova(&d.d, 0, ~0ul), nullptr) << "no such pages";
    EXPECT_NE(reserve_iova(&d.d, 0, ~0ul >> 12), nullptr);
    EXPECT_EQ(d.take(1, ~0ul >> 12), 0u);
}

TEST(iova, converts_between_addresses_and_pages) {
    domain d;
    iova *i = alloc_iova(&d.d, 2, 9, true);
    EXPECT_EQ(iova_shift(&d.d), 12u);
    EXPECT_EQ(iova_dma_addr(&d.d, i), 0x8000u);
    EXPECT_EQ(iova_pfn(&d.d, 0x8fff), 8u);
    EXPECT_EQ(iova_offset(&d.d, 0x8123), 0x123u);
    EXPECT_EQ(iova_align(&d.d, 4097), 8192u);
    EXPECT_EQ(iova_align_down(&d.d, 8191), 4096u);
    EXPECT_EQ(iova_mask(&d.d), 4095u);
    EXPECT_EQ(iova_rcache_range(), 128u << 10);
}

// Every page in a vector: slow, and obviously right.
class model {
  public:
    explicit model(size_t pages) : taken_(pages) { taken_[0] = true; }

    bool free(size_t lo, size_t size) const {
        for (size_t i = lo; i < lo + size; i++)
            if (taken_[i])
                return false;
        return true;
    }
    void set(size_t lo, size_t size, bool value) {
        for (size_t i = lo; i < lo + size; i++)
            taken_[i] = value;
    }
    size_t highest(size_t size, size_t limit, size_t align) const {
        limit = limit < taken_.size() ? limit : taken_.size() - 1;
        size_t run = 0;
        for (size_t i = limit; i > 0; i--) {
            run = taken_[i] ? 0 : run + 1;
            if (run >= size && i % align == 0)
                return i;
        }
        return 0;
    }

  private:
    std::vector<bool> taken_;
};

// The highest room there is: every answer is compared with the model's.
TEST(iova, random_operations_agree_with_a_model) {
    constexpr size_t kPages = 400;
    random_numbers random(1);
    uint64_t left = kDebug ? operations() / 4 : operations();
    while (left > 0) {
        domain d;
        model m(kPages);
        std::map<size_t, size_t> live;
        EXPECT_NE(reserve_iova(&d.d, kPages, 1 << 20), nullptr);
        for (uint64_t holes = random.below(4); holes > 0; holes--) {
            size_t lo = 1 + random.below(kPages - 40);
            size_t size = 1 + random.below(40);
            EXPECT_NE(reserve_iova(&d.d, lo, lo + size - 1), nullptr);
            m.set(lo, size, true);
        }
        for (int i = 0; i < 2000 && left > 0; i++, left--) {
            if (random.below(live.size() + 8) < 8) {
                size_t size = 1 + random.skewed(5);
                size_t limit = random.one_in(2) ? kPages * 2 : random.below(kPages);
                bool aligned = random.one_in(2);
                size_t align = aligned ? size_t{1} << order_of(size) : 1;
                size_t expected = m.highest(size, limit, align);
                ASSERT_EQ(d.take(size, limit, aligned), expected)
                    << size << " below " << limit << " aligned " << align;
                if (expected != 0) {
                    m.set(expected, size, true);
                    live[expected] = size;
                }
            } else {
                auto one = live.begin();
                std::advance(one, random.below(live.size()));
                free_iova(&d.d, one->first + random.below(one->second));
                m.set(one->first, one->second, false);
                live.erase(one);
            }
        }
    }
}

// With the caches an answer is not the highest, but always free, aligned and within the limit.
TEST(iova, what_the_caches_give_is_free_aligned_and_in_the_windows) {
    constexpr size_t kPages = 1 << 16;
    random_numbers random(2);
    domain d(1, true);
    std::vector<bool> taken(kPages);
    std::vector<std::pair<size_t, size_t>> live;
    EXPECT_NE(reserve_iova(&d.d, kPages, 1 << 20), nullptr);
    EXPECT_NE(reserve_iova(&d.d, 0x4000, 0x47ff), nullptr);
    for (size_t i = 0x4000; i < 0x4800; i++)
        taken[i] = true;
    for (uint64_t i = operations(); i > 0; i--) {
        if (random.below(live.size() + 400) < 400) {
            size_t size = 1 + random.below(48);
            size_t align = size_t{1} << order_of(size);
            size_t span = size <= 32 ? align : size;
            size_t limit = random.one_in(4) ? 0x3000 + random.below(0x2000) : kPages - 1;
            size_t pfn = alloc_iova_fast(&d.d, size, limit, true);
            if (pfn == 0)
                continue;
            ASSERT_EQ(pfn % align, 0u);
            ASSERT_LE(pfn + span - 1, limit);
            for (size_t page = pfn; page < pfn + span; page++) {
                ASSERT_FALSE(taken[page]);
                taken[page] = true;
            }
            live.emplace_back(pfn, size);
        } else {
            size_t which = random.below(live.size());
            auto [pfn, size] = live[which];
            size_t span = size <= 32 ? size_t{1} << order_of(size) : size;
            for (size_t page = pfn; page < pfn + span; page++)
                taken[page] = false;
            free_iova_fast(&d.d, pfn, size);
            live[which] = live.back();
            live.pop_back();
        }
    }
}

TEST(iova, the_caches_are_flushed_before_an_allocation_fails) {
    domain d(1, true);
    std::vector<unsigned long> all;
    while (unsigned long pfn = alloc_iova_fast(&d.d, 1, 1000, false))
        all.push_back(pfn);
    EXPECT_EQ(all.size(), 1000u);
    for (unsigned long pfn : all)
        free_iova_fast(&d.d, pfn, 1);
    EXPECT_EQ(alloc_iova_fast(&d.d, 600, 1000, false), 0u) << "the caches have them";
    EXPECT_NE(alloc_iova_fast(&d.d, 488, 1000, true), 0u);
}

TEST(iova, threads_never_share_an_address) {
    domain d(1, true);
    constexpr size_t kPages = 4096;
    EXPECT_NE(reserve_iova(&d.d, kPages, 1 << 20), nullptr);
    std::vector<std::atomic<int>> owner(kPages);
    std::vector<std::thread> threads;
    std::atomic<int> shared{0};
    for (int t = 1; t <= 4; t++)
        threads.emplace_back([&, t] {
            random_numbers random(static_cast<uint64_t>(t));
            std::vector<std::pair<size_t, size_t>> live;
            for (int i = 0; i < 50'000; i++) {
                if (random.below(live.size() + 20) < 20) {
                    size_t size = size_t{1} << random.below(4);
                    size_t pfn = alloc_iova_fast(&d.d, size, kPages - 1, true);
                    for (size_t page = pfn; pfn != 0 && page < pfn + size; page++)
                        shared += owner[page].exchange(t) != 0;
                    if (pfn != 0)
                        live.emplace_back(pfn, size);
                } else {
                    auto [pfn, size] = live.back();
                    live.pop_back();
                    for (size_t page = pfn; page < pfn + size; page++)
                        shared += owner[page].exchange(0) != t;
                    free_iova_fast(&d.d, pfn, size);
                }
            }
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(shared, 0);
}

} // namespace
} // namespace pagoda::test
