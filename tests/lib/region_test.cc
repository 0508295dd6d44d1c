#include "tests/unit.h"

#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/region.h"

#include <map>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

// Memory between guards that nobody may change.
class memory {
  public:
    explicit memory(size_t bytes) : bytes_(bytes), all_(bytes + 8192, '\xee') {}
    ~memory() {
        for (size_t i = 0; i < 4096; i++) {
            EXPECT_EQ(all_[i], '\xee');
            EXPECT_EQ(all_[4096 + bytes_ + i], '\xee');
        }
    }
    char *start() { return all_.data() + 4096; }

  private:
    size_t bytes_;
    std::vector<char> all_;
};

TEST(region, refuses_what_makes_no_sense) {
    char some[256];
    EXPECT_EQ(pagoda_region_create(nullptr, 4096, 0), nullptr);
    EXPECT_EQ(pagoda_region_create(some, 0, 0), nullptr);
    EXPECT_EQ(pagoda_region_create(some, 256, 48), nullptr);
    EXPECT_EQ(pagoda_region_create(some, 256, 8), nullptr);
    EXPECT_EQ(pagoda_region_create(some, 256, 4096), nullptr) << "no whole granule";
    EXPECT_EQ(pagoda_region_create(some, ~size_t{0}, 0), nullptr);
    pagoda_region_destroy(nullptr);
}

TEST(region, remembers_sizes) {
    memory m(4096);
    pagoda_region *r = pagoda_region_create(m.start(), 4096, 16);
    ASSERT_NE(r, nullptr);
    size_t all = pagoda_region_avail(r);
    EXPECT_GE(all, 4096u - 32);
    EXPECT_EQ(pagoda_region_largest(r), all);
    EXPECT_EQ(pagoda_region_alloc(r, 0, 1), nullptr);
    EXPECT_EQ(pagoda_region_alloc(r, all + 1, 1), nullptr);
    EXPECT_EQ(pagoda_region_alloc(r, 16, size_t{1} << 40), nullptr);
    void *a = pagoda_region_alloc(r, 100, 1);
    void *b = pagoda_region_alloc(r, 1000, 512);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b) % 512, 0u);
    EXPECT_EQ(pagoda_region_avail(r), all - 112 - 1008);
    pagoda_region_free(r, a);
    pagoda_region_free(r, nullptr);
    EXPECT_EQ(pagoda_region_avail(r), all - 1008);
    EXPECT_LT(pagoda_region_largest(r), all - 1008);
    pagoda_region_free(r, b);
    EXPECT_EQ(pagoda_region_largest(r), all);
    pagoda_region_destroy(r);
}

TEST(region, wrong_frees_are_reported) {
    auto ends_with = [](void (*body)(pagoda_region *, char *), const char *text) {
        child_end end = in_child([&] {
            alignas(64) static char bytes[4096];
            pagoda_region *r = pagoda_region_create(bytes, sizeof bytes, 0);
            char *p = static_cast<char *>(pagoda_region_alloc(r, 200, 1));
            body(r, p);
        });
        EXPECT_EQ(end.signal(), SIGABRT);
        EXPECT_TRUE(end.said(text)) << end.errors;
    };
    const char *text = "not the start of an allocation of this region";
    ends_with([](pagoda_region *r, char *p) { pagoda_region_free(r, p + 64); }, text);
    ends_with([](pagoda_region *r, char *p) { pagoda_region_free(r, p + 1); }, text);
    ends_with([](pagoda_region *r, char *p) { pagoda_region_free(r, p - 64); }, text);
    ends_with([](pagoda_region *r, char *p) { pagoda_region_free(r, p + 4096); }, text);
    ends_with(
        [](pagoda_region *r, char *p) {
            pagoda_region_free(r, p);
            pagoda_region_free(r, p);
        },
        text);
    ends_with([](pagoda_region *r, char *) { pagoda_region_destroy(r); },
              "256 bytes are still allocated");
}

TEST(region, that_cannot_be_had_is_null) {
    EXPECT_TRUE(succeeded(in_child([] {
        ASSERT_TRUE(heap_init());
        sys::inject_failures(0, 1 << 30);
        EXPECT_EQ(pagoda_region_create(reinterpret_cast<void *>(4096), size_t{1} << 38, 16),
                  nullptr);
        sys::inject_failures(0, 0);
    })));
}

// Row 86: inside the region, and never outside; what is written stays.
TEST(region, agrees_with_a_model_and_never_leaves_its_memory) {
    random_numbers random(3);
    constexpr size_t kBytes = 60001;
    memory m(kBytes);
    pagoda_region *r = pagoda_region_create(m.start() + 3, kBytes - 3, 32);
    size_t all = pagoda_region_avail(r);
    std::map<char *, size_t> out;
    size_t used = 0;
    for (uint64_t i = 0; i < operations() / 20; i++) {
        if (random.one_in(2)) {
            size_t bytes = 1 + random.skewed(10);
            size_t align = size_t{1} << random.below(9);
            size_t largest = pagoda_region_largest(r);
            auto *p = static_cast<char *>(pagoda_region_alloc(r, bytes, align));
            if (p == nullptr) {
                ASSERT_TRUE(align > 32 || bytes > largest);
                continue;
            }
            ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            ASSERT_TRUE(p >= m.start() && p + bytes <= m.start() + kBytes);
            auto next = out.lower_bound(p);
            ASSERT_TRUE(next == out.end() || p + bytes <= next->first);
            ASSERT_TRUE(next == out.begin() ||
                        std::prev(next)->first + std::prev(next)->second <= p);
            memset(p, static_cast<int>(bytes), bytes);
            out[p] = bytes;
            used += align_up(bytes, 32);
        } else if (!out.empty()) {
            auto it = out.lower_bound(m.start() + random.below(kBytes));
            if (it == out.end())
                it = out.begin();
            for (size_t n = 0; n < it->second; n++)
                ASSERT_EQ(it->first[n], static_cast<char>(it->second));
            pagoda_region_free(r, it->first);
            used -= align_up(it->second, 32);
            out.erase(it);
        }
        ASSERT_EQ(pagoda_region_avail(r), all - used);
    }
    for (auto [p, bytes] : out)
        pagoda_region_free(r, p);
    pagoda_region_destroy(r);
}

// Row 87: frame buffers come and go for hours without the area falling to pieces.
TEST(region, contiguous_frame_buffers_again_and_again) {
    constexpr size_t kMiB = 1 << 20;
    auto *fake = reinterpret_cast<char *>(size_t{1} << 40); // never touched
    pagoda_region *r = pagoda_region_create(fake, 256 * kMiB, 4096);
    ASSERT_NE(r, nullptr);
    random_numbers random(8);
    for (int i = 0; i < 20000; i++) {
        void *buffers[4];
        int got = 0;
        while (got < 4 && (buffers[got] = pagoda_region_alloc(r, 64 * kMiB, 4096)) != nullptr)
            got++;
        ASSERT_EQ(got, 4) << "in round " << i;
        for (int n = 3; n >= 0; n--) {
            std::swap(buffers[n], buffers[random.below(static_cast<uint64_t>(n) + 1)]);
            pagoda_region_free(r, buffers[n]);
        }
        ASSERT_EQ(pagoda_region_largest(r), 256 * kMiB);
    }
    pagoda_region_destroy(r);
}

TEST(region, serves_several_threads) {
    auto *fake = reinterpret_cast<char *>(size_t{1} << 40);
    pagoda_region *r = pagoda_region_create(fake, 1 << 16, 64);
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 4; seed++)
        threads.emplace_back([&, seed] {
            random_numbers random(seed);
            std::vector<void *> mine;
            for (int i = 0; i < 50000; i++) {
                if (void *p = pagoda_region_alloc(r, 1 + random.below(4000), 64))
                    mine.push_back(p);
                while (mine.size() > random.below(5)) {
                    pagoda_region_free(r, mine.back());
                    mine.pop_back();
                }
            }
            for (void *p : mine)
                pagoda_region_free(r, p);
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(pagoda_region_largest(r), size_t{1} << 16);
    pagoda_region_destroy(r);
}

} // namespace
} // namespace pagoda::test
