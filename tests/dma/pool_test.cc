#include "dma/pool.h"

#include "lib/heap.h"
#include "tests/dma/soft.h"

#include <errno.h>
#include <map>
#include <sys/wait.h>

namespace pagoda::dma {
namespace {

using test::in_child;
using test::random_numbers;
using test::soft_device;
using test::succeeded;

struct shape {
    size_t size, align, boundary;
};
constexpr shape kShapes[] = {{16, 16, 0},       {64, 64, 0},      {256, 256, 0},  {1024, 1024, 0},
                             {4096, 4096, 0},   {68, 32, 4096},   {1, 0, 0},      {100, 0, 128},
                             {600, 8, 1 << 20}, {5000, 0, 65536}, {40, 4096, 0},  {70'000, 0, 0},
                             {24, 8, 32},       {2048, 64, 2048}, {2 << 20, 0, 0}};

struct live_block {
    dma_addr_t handle;
    char mark;
};

// What a block must be, whatever else happened.
void expect_block(const soft_device &dev, const shape &s, void *block, dma_addr_t handle) {
    size_t align = s.align == 0 ? 1 : s.align;
    EXPECT_EQ(handle % align, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % align, 0u);
    size_t boundary = s.boundary != 0 ? s.boundary : s.size < kPageSize ? kPageSize : 4 << 20;
    EXPECT_EQ(handle / boundary, (handle + s.size - 1) / boundary);
    uint64_t is = 0;
    EXPECT_TRUE(dev.get()->state->space->find(block, s.size, UINT64_MAX, &is));
    EXPECT_EQ(is, handle);
}

// Random allocations and frees; no block overlaps another, and the device sees what is in it.
void use(const soft_device &dev, const shape &s, uint64_t operations, uint64_t mask) {
    dma_pool *pool = dma_pool_create("of a test", dev, s.size, s.align, s.boundary);
    ASSERT_NE(pool, nullptr) << pagoda_device_error();
    random_numbers random(s.size + 7);
    std::map<char *, live_block> live;
    size_t most = s.size > 65536 ? 5 : s.size > 1024 ? 300 : 3000;
    for (uint64_t i = 0; i < operations; i++) {
        if (live.size() < most && random.below(5) < 3) {
            live_block b = {0, static_cast<char>(random.below(255) + 1)};
            bool zero = random.one_in(4);
            auto *p = static_cast<char *>(zero ? dma_pool_zalloc(pool, GFP_KERNEL, &b.handle)
                                               : dma_pool_alloc(pool, GFP_KERNEL, &b.handle));
            ASSERT_NE(p, nullptr) << pagoda_device_error();
            if (zero) {
                EXPECT_TRUE(p[0] == 0 && p[s.size / 2] == 0 && p[s.size - 1] == 0);
            }
            expect_block(dev, s, p, b.handle);
            EXPECT_LE(b.handle + s.size - 1, mask);
            auto after = live.lower_bound(p);
            EXPECT_TRUE(after == live.end() || after->first >= p + s.size);
            EXPECT_TRUE(after == live.begin() || std::prev(after)->first + s.size <= p);
            p[0] = p[s.size - 1] = b.mark;
            live[p] = b;
        } else if (!live.empty()) {
            auto of = live.lower_bound(
                live.begin()->first +
                random.below(static_cast<uint64_t>(live.rbegin()->first - live.begin()->first) +
                             1));
            auto [p, b] = *of;
            EXPECT_EQ(p[0], b.mark);
            if (random.one_in(16)) {
                EXPECT_EQ(dev.reads(b.handle + s.size - 1, 1), std::string(1, b.mark));
            }
            live.erase(of);
            dma_pool_free(pool, p, b.handle);
        }
        ASSERT_FALSE(::testing::Test::HasFailure());
    }
    for (auto [p, b] : live)
        dma_pool_free(pool, p, b.handle);
    dma_pool_destroy(pool);
}

void use_all(uint64_t mask, pagoda_software_options options, uint64_t operations) {
    soft_device dev(mask, options);
    for (const shape &s : kShapes)
        if (mask > UINT32_MAX || s.size <= kPageSize) // low memory is little
            use(dev, s, operations, mask);
}

// Each in a child: a process has device zones of one kind.
#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(Pool, name) {                                                                             \
        test::child_end end = in_child(name);                                                      \
        EXPECT_TRUE(succeeded(end));                                                               \
        EXPECT_EQ(end.errors, "");                                                                 \
    }                                                                                              \
    void name()

TEST_IN_CHILD(HasBlocksOfAnyShape) {
    use_all(~uint64_t{0}, {}, test::operations() / (10 * std::size(kShapes)));
}

TEST_IN_CHILD(HasBlocksUnderMasks) {
    for (unsigned bits : {32, 28, 24})
        use_all(DMA_BIT_MASK(bits), {}, 3000);
}

TEST_IN_CHILD(HasBlocksWithoutIommu) {
    pagoda_software_options options = {};
    options.no_iommu = true;
    use_all(~uint64_t{0}, options, 3000);
}

TEST_IN_CHILD(HasBlocksWithChecks) {
    pagoda_dma_pool_set_checks(true);
    use_all(~uint64_t{0}, {}, 3000);
}

TEST(Pool, RefusesWhatItCannotKeep) {
    soft_device dev;
    const shape wrong[] = {{0, 0, 0},    {1ul << 31, 0, 0}, {(2 << 20) + 1, 0, 0}, {16, 3, 0},
                           {64, 0, 100}, {64, 0, 32},       {16, 4 << 20, 0},      {20, 64, 32}};
    for (const shape &s : wrong) {
        errno = 0;
        EXPECT_EQ(dma_pool_create("wrong", dev, s.size, s.align, s.boundary), nullptr) << s.size;
        EXPECT_EQ(errno, EINVAL);
        EXPECT_TRUE(test::error_says("power"));
    }
    EXPECT_EQ(dma_pool_create(nullptr, dev, 64, 0, 0), nullptr);
    EXPECT_EQ(dma_pool_create("wrong", nullptr, 64, 0, 0), nullptr);
    dma_pool_destroy(nullptr);
}

TEST_IN_CHILD(HasNoBlocksWhereTheIommuRefuses) {
    soft_device dev;
    dma_pool *pool = dma_pool_create_node("refused", dev, 64, 0, 0, 0);
    ASSERT_NE(pool, nullptr);
    pagoda_software_fail_maps(dev, 0, 1000, -ENOMEM);
    dma_addr_t at;
    EXPECT_EQ(dma_pool_alloc(pool, GFP_KERNEL | __GFP_NOWARN, &at), nullptr);
    EXPECT_EQ(dma_pool_alloc(pool, GFP_ATOMIC | __GFP_NOWARN, &at), nullptr);
    pagoda_software_fail_maps(dev, 0, 0, -ENOMEM);
    void *block = dma_pool_alloc(pool, GFP_KERNEL, &at);
    EXPECT_NE(block, nullptr);
    EXPECT_TRUE(dev.writes(at, "seen") == 0 && memcmp(block, "seen", 4) == 0);
    dma_pool_free(pool, block, at);
    dma_pool_destroy(pool);
}

// Keeps its pages, so that taking as much again makes no call to the IOMMU.
TEST_IN_CHILD(KeepsItsPages) {
    soft_device dev;
    dma_pool *pool = dma_pool_create("kept", dev, 4096, 0, 0);
    std::vector<std::pair<void *, dma_addr_t>> held(6000);
    uint64_t calls = 0;
    for (int round = 0; round < 3; round++) {
        for (auto &[block, at] : held)
            ASSERT_NE(block = dma_pool_alloc(pool, GFP_KERNEL, &at), nullptr);
        if (round != 0) {
            EXPECT_EQ(dev.counters().map_calls, calls);
        }
        calls = dev.counters().map_calls;
        for (auto &[block, at] : held)
            dma_pool_free(pool, block, at);
        heap_trim(0);
        EXPECT_EQ(dev.counters().unmap_calls, 0u);
    }
    dma_pool_destroy(pool);
    heap_trim(0);
    EXPECT_NE(dev.counters().unmap_calls, 0u);
}

TEST_IN_CHILD(EndsWithTheParent) {
    soft_device dev;
    for (bool checks : {false, true}) {
        pagoda_dma_pool_set_checks(checks);
        dma_pool *pool = dma_pool_create("parent's", dev, 64, 0, 0);
        dma_addr_t at, other;
        void *block = dma_pool_alloc(pool, GFP_KERNEL, &at);
        ASSERT_NE(block, nullptr);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            dma_pool_free(pool, block, at); // ignored
            for (gfp_t flags : {GFP_KERNEL, GFP_KERNEL | __GFP_ZERO})
                if (dma_pool_alloc(pool, flags, &other) != nullptr)
                    _exit(1);
            _exit(0);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
        dma_pool_free(pool, block, at);
        dma_pool_destroy(pool);
    }
}

TEST_IN_CHILD(GoesWithItsDeviceIfManaged) {
    soft_device dev;
    dma_addr_t at;
    dma_pool *early = dmam_pool_create("early", dev, 64, 0, 0);
    dma_pool *late = dmam_pool_create("late", dev, 64, 0, 0);
    ASSERT_TRUE(early != nullptr && late != nullptr);
    void *block = dma_pool_alloc(late, GFP_KERNEL, &at);
    EXPECT_NE(block, nullptr);
    dma_pool_free(late, block, at);
    dmam_pool_destroy(early);
    dmam_pool_destroy(nullptr);
    EXPECT_EQ(dmam_pool_create("wrong", dev, 0, 0, 0), nullptr);
}

// In a child; what it says is what is asked about.
template <class F> test::child_end with_pool(bool checks, F body) {
    return in_child([&] {
        pagoda_dma_pool_set_checks(checks);
        soft_device dev;
        dma_pool *pool = dma_pool_create("of descriptors", dev, 64, 0, 0);
        ASSERT_NE(pool, nullptr) << pagoda_device_error();
        dma_addr_t at;
        auto *block = static_cast<uint8_t *>(dma_pool_alloc(pool, GFP_KERNEL, &at));
        ASSERT_NE(block, nullptr);
        body(pool, block, at);
    });
}

TEST(PoolMisuse, OfTheWrongAddressIsReported) {
    for (bool checks : {false, true}) {
        test::child_end end = with_pool(checks, [](dma_pool *pool, uint8_t *block, dma_addr_t at) {
            dma_pool_free(pool, block, at + 64);
            dma_pool_free(pool, block, at);
            dma_pool_destroy(pool);
        });
        EXPECT_TRUE(succeeded(end));
        EXPECT_TRUE(end.said("dma_pool of descriptors: block 0x")) << end.errors;
        EXPECT_TRUE(end.said("not its own")) << end.errors;
        EXPECT_EQ(end.lines(), 1u) << end.errors;
    }
}

TEST(PoolMisuse, OfBlocksInUseAtTheEndIsReported) {
    for (bool checks : {false, true}) {
        test::child_end end = with_pool(
            checks, [](dma_pool *pool, uint8_t *, dma_addr_t) { dma_pool_destroy(pool); });
        EXPECT_TRUE(succeeded(end));
        EXPECT_TRUE(end.said("dma-pool-of_descriptors: 1 objects are still in use")) << end.errors;
        EXPECT_EQ(end.said("is still in use"), checks) << end.errors;
        EXPECT_EQ(end.lines(), checks ? 2u : 1u) << end.errors;
    }
}

TEST(PoolMisuse, OfADeviceThatIsClosedFirstIsReported) {
    for (bool checks : {false, true}) {
        test::child_end end = in_child([=] {
            pagoda_dma_pool_set_checks(checks);
            dma_addr_t at, other;
            dma_pool *pool;
            void *block;
            {
                soft_device dev;
                pool = dma_pool_create("left", dev, 64, 0, 0);
                block = dma_pool_alloc(pool, GFP_KERNEL, &at);
                ASSERT_NE(block, nullptr);
            }
            EXPECT_EQ(dma_pool_alloc(pool, GFP_KERNEL, &other), nullptr);
            dma_pool_free(pool, block, at);
            dma_pool_destroy(pool);
        });
        EXPECT_TRUE(succeeded(end));
        EXPECT_TRUE(end.said("software is closed and its dma_pool left is not destroyed"))
            << end.errors;
        EXPECT_EQ(end.lines(), 1u) << end.errors;
    }
}

TEST(PoolMisuse, OfBlocksTwiceIsReportedByChecks) {
    test::child_end end = with_pool(true, [](dma_pool *pool, uint8_t *block, dma_addr_t at) {
        dma_pool_free(pool, block, at);
        dma_pool_free(pool, block, at);
        dma_pool_free(pool, block + 1, at + 1);
        dmam_pool_destroy(pool); // it is not managed
        dma_pool_destroy(pool);
        dma_pool_destroy(pool);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("is free already")) << end.errors;
    EXPECT_TRUE(end.said("no block of the pool")) << end.errors;
    EXPECT_TRUE(end.said("is no managed dma_pool")) << end.errors;
    EXPECT_TRUE(end.said("is no dma_pool")) << end.errors;
    EXPECT_EQ(end.lines(), 4u) << end.errors;
}

TEST(PoolMisuse, OfFreeBlocksIsReportedByChecks) {
    test::child_end end = with_pool(true, [](dma_pool *pool, uint8_t *block, dma_addr_t at) {
        EXPECT_EQ(block[0], kPoisonAllocated);
        EXPECT_EQ(block[63], kPoisonAllocated);
        dma_pool_free(pool, block, at);
        EXPECT_EQ(block[0], kPoisonFreed);
        EXPECT_EQ(block[63], kPoisonFreed);
        block[13] = 0x55;
        dma_addr_t again;
        EXPECT_EQ(dma_pool_zalloc(pool, GFP_KERNEL, &again), block);
        EXPECT_EQ(again, at);
        EXPECT_EQ(block[13], 0);
        dma_pool_free(pool, block, at);
        EXPECT_EQ(dma_pool_alloc(pool, GFP_KERNEL, &again), block);
        dma_pool_free(pool, block, at);
        dma_pool_destroy(pool);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("written after it was freed: byte 13 is 0x55")) << end.errors;
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

} // namespace
} // namespace pagoda::dma
