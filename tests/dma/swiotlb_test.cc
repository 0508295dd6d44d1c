#include "dma/swiotlb.h"

#include "tests/unit.h"

#include <atomic>
#include <map>
#include <memory>
#include <sys/mman.h>
#include <thread>
#include <vector>

namespace pagoda::dma {
namespace {

using test::random_numbers;

// Pools are plain memory here. `given` counts those that are out, `refuse` makes the next ones
// fail.
std::atomic<int> given, refuse;
std::atomic<uint64_t> asked_mask;

void *plain_pool(uint64_t mask) {
    asked_mask = mask;
    if (refuse > 0)
        return nullptr;
    char *at = static_cast<char *>(mmap(nullptr, 2 * kBouncePoolBytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (at == MAP_FAILED)
        return nullptr;
    auto *pool =
        reinterpret_cast<char *>(align_up(reinterpret_cast<uintptr_t>(at), kBouncePoolBytes));
    if (pool > at)
        munmap(at, static_cast<size_t>(pool - at));
    munmap(pool + kBouncePoolBytes, kBouncePoolBytes - static_cast<size_t>(pool - at));
    given++;
    return pool;
}
void free_plain_pool(void *p) {
    munmap(p, kBouncePoolBytes);
    given--;
}

class Swiotlb : public ::testing::Test {
  protected:
    void SetUp() override {
        given = 0;
        refuse = 0;
    }
    void TearDown() override {
        for (void *copy : open_) {
            bounced was;
            EXPECT_TRUE(buffers_.unmap(copy, false, &was));
        }
        EXPECT_EQ(buffers_.slots_in_use(), 0u);
    }
    void *map(void *original, size_t bytes, const bounce_limits &limits) {
        void *copy = buffers_.map(original, bytes, limits, false);
        if (copy != nullptr)
            open_.push_back(copy);
        return copy;
    }

    swiotlb buffers_{{plain_pool, free_plain_pool}};
    std::vector<void *> open_;
    bounce_limits wide_{~uint64_t{0}};
};

uintptr_t number(const void *p) { return reinterpret_cast<uintptr_t>(p); }

TEST_F(Swiotlb, CopiesInAtMapAndBackAtUnmap) {
    char original[3000], *copy;
    memset(original, 'a', sizeof original);
    copy = static_cast<char *>(buffers_.map(original, sizeof original, wide_, true));
    ASSERT_NE(copy, nullptr);
    EXPECT_TRUE(buffers_.owns(copy));
    EXPECT_FALSE(buffers_.owns(original));
    EXPECT_EQ(memcmp(copy, original, sizeof original), 0);
    EXPECT_EQ(buffers_.slots_in_use(), 2u);
    memset(copy + 5, 'b', 10);
    EXPECT_EQ(original[5], 'a');
    bounced was;
    ASSERT_TRUE(buffers_.unmap(copy, true, &was));
    EXPECT_EQ(was.original, original);
    EXPECT_EQ(was.bytes, sizeof original);
    EXPECT_TRUE(was.held);
    EXPECT_EQ(std::string(original, 20), "aaaaabbbbbbbbbbaaaaa");
}

TEST_F(Swiotlb, CopiesNothingBackWhenToldSo) {
    char original[100] = "as it was";
    char *copy = static_cast<char *>(buffers_.map(original, sizeof original, wide_, false));
    ASSERT_NE(copy, nullptr);
    strcpy(copy, "changed");
    bounced was;
    ASSERT_TRUE(buffers_.unmap(copy, false, &was));
    EXPECT_STREQ(original, "as it was");
    EXPECT_FALSE(was.held);
}

TEST_F(Swiotlb, SynchronisesParts) {
    std::vector<char> original(10000, 'a');
    char *copy = static_cast<char *>(map(original.data(), original.size(), wide_));
    ASSERT_NE(copy, nullptr);
    memset(copy, 'b', original.size());
    EXPECT_TRUE(buffers_.sync(copy + 4000, 100, false));
    for (size_t i = 0; i < original.size(); i++)
        ASSERT_EQ(original[i], i >= 4000 && i < 4100 ? 'b' : 'a') << i;
    memset(original.data(), 'c', original.size());
    EXPECT_TRUE(buffers_.sync(copy + 9999, 1, true));
    EXPECT_EQ(copy[9998], 'b');
    EXPECT_EQ(copy[9999], 'c');
    EXPECT_FALSE(buffers_.sync(copy + 9999, 2, true)) << "beyond the end";
}

TEST_F(Swiotlb, RefusesWhatIsNoMapping) {
    char original[5000] = {};
    bounced was;
    EXPECT_FALSE(buffers_.unmap(original, true, &was));
    EXPECT_FALSE(buffers_.sync(original, 1, true));
    char *copy = static_cast<char *>(map(original, sizeof original, wide_));
    ASSERT_NE(copy, nullptr);
    EXPECT_FALSE(buffers_.unmap(copy + 1, true, &was)) << "the middle of one";
    EXPECT_FALSE(buffers_.unmap(copy + kSlotBytes, true, &was));
    EXPECT_FALSE(buffers_.unmap(copy + 4 * kSlotBytes, true, &was)) << "a free slot";
    EXPECT_FALSE(buffers_.sync(copy + sizeof original, 1, true)) << "the rest of a slot";
    open_.clear();
    EXPECT_TRUE(buffers_.unmap(copy, true, &was));
    EXPECT_FALSE(buffers_.unmap(copy, true, &was)) << "twice";
}

TEST_F(Swiotlb, MapsUpTo256KiBLessTheAlignment) {
    std::vector<char> original(kSetBytes + 1);
    EXPECT_EQ(swiotlb::max_bytes(0), 256u << 10);
    EXPECT_EQ(swiotlb::max_bytes(1), (256u << 10) - 2048);
    EXPECT_EQ(swiotlb::max_bytes(4095), (256u << 10) - 4096);
    EXPECT_EQ(swiotlb::max_bytes(0x3ffff), 0u);
    EXPECT_EQ(swiotlb::max_bytes(~uint32_t{0}), 0u);
    EXPECT_NE(map(original.data(), kSetBytes, wide_), nullptr);
    EXPECT_EQ(map(original.data(), kSetBytes + 1, wide_), nullptr);
    EXPECT_EQ(map(original.data(), 0, wide_), nullptr);
    bounce_limits nvme{~uint64_t{0}, ~uint64_t{0}, 4095};
    EXPECT_NE(map(original.data(), kSetBytes - 4096, nvme), nullptr);
    EXPECT_EQ(map(original.data(), kSetBytes - 4095, nvme), nullptr);
}

TEST_F(Swiotlb, EveryOffsetFitsAtTheMaximum) {
    std::vector<char> original(kSetBytes + 8192);
    bounce_limits nvme{~uint64_t{0}, ~uint64_t{0}, 4095};
    for (size_t offset = 0; offset < 4096; offset += 511) {
        char *copy =
            static_cast<char *>(map(original.data() + offset, swiotlb::max_bytes(4095), nvme));
        ASSERT_NE(copy, nullptr) << offset;
        EXPECT_EQ((number(copy) ^ number(original.data() + offset)) & 4095, 0u);
    }
}

TEST_F(Swiotlb, PoolsAreOfTheMaskOrNarrower) {
    char original[64];
    bounce_limits narrow{0xffffff}, middle{0xfffffff};
    void *first = map(original, 64, narrow);
    EXPECT_EQ(asked_mask, 0xffffffu);
    void *second = map(original, 64, middle);
    EXPECT_EQ(number(first) / kBouncePoolBytes, number(second) / kBouncePoolBytes);
    EXPECT_EQ(given, 1);
    EXPECT_NE(map(original, 64, {0xfffff}), nullptr);
    EXPECT_EQ(asked_mask, 0xfffffu);
    EXPECT_EQ(given, 2);
}

TEST_F(Swiotlb, GrowsWhenFullAndGivesEmptyPoolsBack) {
    std::vector<char> original(kSetBytes);
    for (unsigned i = 0; i < 3 * kPoolSets; i++)
        ASSERT_NE(map(original.data(), kSetBytes, wide_), nullptr);
    EXPECT_EQ(buffers_.pools(), 3u);
    EXPECT_EQ(buffers_.slots_in_use(), 3u * kPoolSlots);
    bounced was;
    for (void *copy : open_)
        EXPECT_TRUE(buffers_.unmap(copy, false, &was));
    open_.clear();
    EXPECT_EQ(buffers_.pools(), 1u);
    EXPECT_EQ(given, 1);
    // And again: places of pools that went are used again.
    for (unsigned i = 0; i < 3 * kPoolSets; i++)
        ASSERT_NE(map(original.data(), kSetBytes, wide_), nullptr);
    EXPECT_EQ(buffers_.pools(), 3u);
}

TEST_F(Swiotlb, FailsWhenNoPoolCanBeHadAndRecovers) {
    std::vector<char> original(kSetBytes);
    refuse = 1;
    EXPECT_EQ(map(original.data(), 1, wide_), nullptr);
    refuse = 0;
    for (unsigned i = 0; i < kPoolSets; i++)
        ASSERT_NE(map(original.data(), kSetBytes, wide_), nullptr);
    refuse = 1;
    EXPECT_EQ(map(original.data(), 1, wide_), nullptr);
    bounced was;
    EXPECT_TRUE(buffers_.unmap(open_.back(), false, &was));
    open_.pop_back();
    EXPECT_NE(map(original.data(), kSetBytes, wide_), nullptr);
}

TEST_F(Swiotlb, HasAMaximum) {
    std::vector<char> original(kSetBytes);
    for (unsigned i = 0; i < kBouncePools * kPoolSets; i++)
        ASSERT_NE(map(original.data(), kSetBytes, wide_), nullptr) << i;
    EXPECT_EQ(map(original.data(), 1, wide_), nullptr);
    EXPECT_EQ(given, int{kBouncePools});
}

TEST_F(Swiotlb, AForkChildHasPoolsOfItsOwn) {
    char original[100] = {};
    void *parents = map(original, sizeof original, wide_);
    test::child_end end = test::in_child([&] {
        buffers_.forget();
        EXPECT_FALSE(buffers_.owns(parents));
        EXPECT_EQ(buffers_.pools(), 0u);
        void *own = buffers_.map(original, sizeof original, wide_, false);
        EXPECT_NE(own, nullptr);
        EXPECT_EQ(buffers_.slots_in_use(), 1u);
    });
    EXPECT_TRUE(test::succeeded(end));
}

// A model: what is mapped, at which copies, with which contents.
struct model_mapping {
    char *original, *copy;
    std::vector<char> as_program, as_device;
    bounce_limits limits;
    bool held;
};

TEST_F(Swiotlb, RandomOperationsAgainstAModel) {
    random_numbers random(17);
    std::vector<char> memory(16 << 20);
    for (char &c : memory)
        c = static_cast<char>(random.next());
    std::map<uintptr_t, model_mapping> live; // by copy
    std::map<uintptr_t, size_t> originals;   // originals do not overlap
    refuse = 0;
    unsigned refused = 0, exhausted = 0, wrong = 0;
    uint64_t count = test::operations();
    for (uint64_t op = 0; op < count && wrong == 0; op++) {
        if (random.one_in(5000))
            refuse = random.one_in(2) ? 1 : 0;
        unsigned most = op / 20000 % 2 == 0 ? 16 : 1500;
        if (live.size() < most && random.one_in(2)) {
            static const uint32_t kAligns[] = {0, 0, 511, 2047, 4095, 0xffff, 0x1fff};
            static const uint64_t kBoundaries[] = {~uint64_t{0}, 0xffff, 0xfff, 0x1ffff,
                                                   0xffffffff};
            bounce_limits limits{random.one_in(3) ? 0xffffff : ~uint64_t{0},
                                 kBoundaries[random.below(5)], kAligns[random.below(7)]};
            size_t bytes = random.one_in(300) ? 1 + random.below(kSetBytes)
                                              : 1 + random.skewed(random.one_in(4) ? 15 : 10);
            size_t at = random.below(memory.size() - bytes);
            uintptr_t from = number(memory.data()) + at;
            auto next = originals.lower_bound(from);
            if (next != originals.end() && next->first < from + bytes)
                continue;
            if (next != originals.begin() &&
                std::prev(next)->first + std::prev(next)->second > from)
                continue;
            char *original = memory.data() + at;
            bool held = random.one_in(2);
            uint64_t before = buffers_.slots_in_use();
            char *copy = static_cast<char *>(buffers_.map(original, bytes, limits, held));
            if (copy == nullptr) {
                refused++;
                exhausted += bytes <= swiotlb::max_bytes(limits.min_align_mask);
                if (bytes <= swiotlb::max_bytes(limits.min_align_mask) && refuse == 0) {
                    ADD_FAILURE() << "no slots for " << bytes << " beside " << before;
                    wrong++;
                }
                continue;
            }
            wrong += memcmp(copy, original, bytes) != 0;
            wrong += ((number(copy) ^ from) & limits.min_align_mask) != 0;
            wrong +=
                (from & limits.min_align_mask & limits.boundary) + bytes - 1 <= limits.boundary &&
                ((number(copy) ^ (number(copy) + bytes - 1)) & ~limits.boundary) != 0;
            wrong += number(copy) / kSetBytes != (number(copy) + bytes - 1) / kSetBytes;
            auto after = live.lower_bound(number(copy));
            wrong += after != live.end() && after->first < number(copy) + bytes;
            wrong +=
                after != live.begin() &&
                std::prev(after)->first + std::prev(after)->second.as_device.size() > number(copy);
            live[number(copy)] = {
                original, copy, {original, original + bytes}, {original, original + bytes},
                limits,   held};
            originals[from] = bytes;
            EXPECT_EQ(wrong, 0u) << "map of " << bytes;
            continue;
        }
        if (live.empty())
            continue;
        auto found = live.lower_bound(number(live.begin()->second.copy) +
                                      random.below(number(live.rbegin()->second.copy) -
                                                   number(live.begin()->second.copy) + 1));
        model_mapping &m = found->second;
        size_t bytes = m.as_device.size(), from = random.below(bytes);
        size_t n = 1 + random.below(min_of(bytes - from, size_t{256}));
        switch (random.below(6)) {
        case 0: // the device writes
            memset(m.copy + from, static_cast<int>(op & 0x7f), n);
            memset(m.as_device.data() + from, static_cast<int>(op & 0x7f), n);
            break;
        case 1: // the program writes
            memset(m.original + from, static_cast<int>(op & 0x7f), n);
            memset(m.as_program.data() + from, static_cast<int>(op & 0x7f), n);
            break;
        case 2:
            wrong += !buffers_.sync(m.copy + from, n, true);
            memcpy(m.as_device.data() + from, m.as_program.data() + from, n);
            break;
        case 3:
            wrong += !buffers_.sync(m.copy + from, n, false);
            memcpy(m.as_program.data() + from, m.as_device.data() + from, n);
            break;
        default: {
            wrong += memcmp(m.original, m.as_program.data(), bytes) != 0;
            wrong += memcmp(m.copy, m.as_device.data(), bytes) != 0;
            bool back = random.one_in(2);
            bounced was;
            wrong += !buffers_.unmap(m.copy, back, &was);
            wrong += was.original != m.original || was.bytes != bytes || was.held != m.held;
            wrong +=
                memcmp(m.original, back ? m.as_device.data() : m.as_program.data(), bytes) != 0;
            originals.erase(number(m.original));
            live.erase(found);
        }
        }
        EXPECT_EQ(wrong, 0u);
    }
    EXPECT_GT(exhausted, 0u);
    EXPECT_GT(refused, exhausted);
    for (auto &[at, m] : live) {
        bounced was;
        EXPECT_TRUE(buffers_.unmap(m.copy, false, &was));
    }
}

TEST_F(Swiotlb, ThreadsShareIt) {
    std::atomic<unsigned> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++)
        threads.emplace_back([this, t, &wrong] {
            random_numbers random(t + 1);
            std::vector<char> original(64 << 10);
            std::vector<std::pair<void *, char>> open;
            for (int i = 0; i < 20000; i++) {
                if (open.size() < 40 && random.one_in(2)) {
                    size_t bytes = 1 + random.below(original.size());
                    memset(original.data(), static_cast<char>(i), bytes);
                    void *copy = buffers_.map(original.data(), bytes, wide_, false);
                    wrong += copy == nullptr;
                    if (copy != nullptr)
                        open.emplace_back(copy, static_cast<char>(i));
                } else if (!open.empty()) {
                    auto [copy, letter] = open[random.below(open.size())];
                    std::erase(open, std::pair(copy, letter));
                    bounced was;
                    wrong += *static_cast<char *>(copy) != letter;
                    wrong += !buffers_.unmap(copy, false, &was);
                }
            }
            bounced was;
            for (auto [copy, letter] : open)
                wrong += !buffers_.unmap(copy, false, &was);
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(wrong, 0u);
}

// A handler that interrupts the making of a pool does not wait for it; one that finds room maps.
swiotlb *in_handler;
void *handlers_copy;
char handlers_buffer[100];
void map_in_handler(int) {
    handlers_copy = in_handler->map(handlers_buffer, sizeof handlers_buffer, {~uint64_t{0}}, false);
}
void *interrupted_pool(uint64_t mask) {
    raise(SIGUSR1);
    return plain_pool(mask);
}

TEST(SwiotlbInHandlers, NeverWaits) {
    test::child_end end = test::in_child([] {
        static swiotlb buffers{{interrupted_pool, free_plain_pool}};
        in_handler = &buffers;
        signal(SIGUSR1, map_in_handler);
        char original[100];
        handlers_copy = original;
        EXPECT_NE(buffers.map(original, sizeof original, {~uint64_t{0}}, false), nullptr);
        EXPECT_EQ(handlers_copy, nullptr);
        raise(SIGUSR1);
        EXPECT_NE(handlers_copy, nullptr);
    });
    EXPECT_TRUE(test::succeeded(end));
}

} // namespace
} // namespace pagoda::dma
