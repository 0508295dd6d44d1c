#include "tests/unit.h"

#include "lib/drain.h"
#include "lib/heap.h"

#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr unsigned kClass = 20;

class drain : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

std::vector<void *> take(unsigned cls, size_t n) {
    std::vector<void *> objects;
    for (size_t i = 0; i < n; i++)
        objects.push_back(cache_alloc(cls, GFP_KERNEL));
    return objects;
}

void give(unsigned cls, const std::vector<void *> &objects) {
    for (void *p : objects)
        cache_free(cls, p, GFP_KERNEL);
}

TEST_F(drain, takes_everything_out_of_the_sheaves) {
    give(kClass, take(kClass, 5000));
    EXPECT_GT(cache_cached(g_caches[kClass]), 0u);
    heap_trim(0);
    EXPECT_EQ(cache_cached(g_caches[kClass]), 0u);
    EXPECT_EQ(g_caches[kClass].in_use, 0u);
    EXPECT_EQ(g_caches[kClass].empty_slabs, 0u);
}

TEST_F(drain, leaves_objects_in_use_alone) {
    std::vector<void *> held = take(kClass, 300);
    for (size_t i = 0; i < held.size(); i++)
        memset(held[i], static_cast<int>(i), class_size(kClass));
    heap_trim(0);
    EXPECT_EQ(g_caches[kClass].in_use, held.size());
    for (size_t i = 0; i < held.size(); i++)
        EXPECT_EQ(static_cast<unsigned char *>(held[i])[class_size(kClass) - 1], i % 256);
    give(kClass, held);
}

TEST_F(drain, an_audit_of_sound_caches_finds_nothing) {
    give(kClass, take(kClass, 2000));
    EXPECT_EQ(caches_audit(), 0u);
}

TEST_F(drain, takes_what_other_threads_left_behind) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([] { give(kClass, take(kClass, 3000)); });
    for (std::thread &t : threads)
        t.join();
    EXPECT_TRUE(maybe_multithreaded());
    heap_trim(0);
    EXPECT_EQ(cache_cached(g_caches[kClass]), 0u);
    EXPECT_EQ(g_caches[kClass].in_use, 0u);
}

// Marks in the words and stacks of all CPUs.
size_t marks() {
    size_t n = 0;
    for (uint32_t cpu = 0; cpu < percpu::slots(); cpu++) {
        uintptr_t slot = g_percpu.base + (uintptr_t{cpu} << kSlotShift);
        for (unsigned cls = 1; cls <= kLastClass; cls++) {
            auto *word = reinterpret_cast<uint32_t *>(slot + kWordsAt + cls * 8);
            auto *stacks = reinterpret_cast<uint32_t *>(slot + kStacksAt + cls * 8);
            n += word[1] == percpu::kDrain;
            n += (stacks[0] == percpu::kStackDrain) + (stacks[1] == percpu::kStackDrain);
        }
    }
    return n;
}

// A word or a stack that ran empty between a drain's look and its mark carries the mark and nothing
// else.
TEST_F(drain, takes_a_mark_for_an_empty_word) {
    if (!percpu::has_rseq())
        GTEST_SKIP() << "nothing is drained from outside";
    uintptr_t slot = g_percpu.base + (uintptr_t{percpu::slots() - 1} << kSlotShift);
    *reinterpret_cast<uint64_t *>(slot + kWordsAt + kClass * 8) = uint64_t{percpu::kDrain} << 32;
    auto *stacks = reinterpret_cast<uint32_t *>(slot + kStacksAt + kClass * 8);
    stacks[0] = stacks[1] = percpu::kStackDrain;
    heap_trim(0);
    EXPECT_EQ(marks(), 0u);
}

} // namespace
} // namespace pagoda::test
