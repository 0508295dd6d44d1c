#include "dma/io.h"

#include "tests/unit.h"

#include <atomic>
#include <string.h>
#include <thread>

using namespace pagoda::test;

namespace {

alignas(64) unsigned char g_device[256];

} // namespace

TEST(io, widths_and_orders_of_bytes) {
    memset(g_device, 0, sizeof g_device);
    writeq(0x1122334455667788, g_device);
    EXPECT_EQ(readq(g_device), 0x1122334455667788u);
    EXPECT_EQ(readl(g_device), 0x55667788u);
    EXPECT_EQ(readw(g_device + 2), 0x5566u);
    EXPECT_EQ(readb(g_device + 7), 0x11u);
    writeb(0xaa, g_device);
    writew(0xbbcc, g_device + 2);
    writel(0xddeeff00, g_device + 4);
    EXPECT_EQ(readq_relaxed(g_device), 0xddeeff00bbcc77aau);
    writeb_relaxed(1, g_device + 9);
    writew_relaxed(2, g_device + 10);
    writel_relaxed(3, g_device + 12);
    writeq_relaxed(4, g_device + 16);
    EXPECT_EQ(readb_relaxed(g_device + 9), 1u);
    EXPECT_EQ(readw_relaxed(g_device + 10), 2u);
    EXPECT_EQ(readl_relaxed(g_device + 12), 3u);
    EXPECT_EQ(readq_relaxed(g_device + 16), 4u);
}

TEST(io, the_other_family_and_big_endian) {
    iowrite8(0x12, g_device);
    EXPECT_EQ(ioread8(g_device), 0x12u);
    iowrite16(0x1234, g_device);
    EXPECT_EQ(ioread16(g_device), 0x1234u);
    EXPECT_EQ(ioread16be(g_device), 0x3412u);
    iowrite32be(0x12345678, g_device);
    EXPECT_EQ(ioread32(g_device), 0x78563412u);
    EXPECT_EQ(ioread32be(g_device), 0x12345678u);
    iowrite64be(0x1122334455667788, g_device);
    EXPECT_EQ(g_device[0], 0x11);
    EXPECT_EQ(ioread64be(g_device), 0x1122334455667788u);
    iowrite64(5, g_device);
    EXPECT_EQ(ioread64(g_device), 5u);
    iowrite16be(0x1234, g_device);
    EXPECT_EQ(g_device[0], 0x12);
    iowrite32(6, g_device);
    EXPECT_EQ(g_device[0], 6);
}

TEST(io, one_register_again_and_again) {
    uint32_t from[4] = {1, 2, 3, 4}, to[4] = {};
    iowrite32_rep(g_device, from, 4);
    EXPECT_EQ(readl(g_device), 4u) << "the last of them";
    ioread32_rep(g_device, to, 4);
    EXPECT_EQ(to[0], 4u);
    EXPECT_EQ(to[3], 4u);
    writesb(g_device, "abc", 3);
    char bytes[3];
    readsb(g_device, bytes, 3);
    EXPECT_EQ(bytes[0], 'c');
    uint16_t words[2] = {7, 8};
    writesw(g_device, words, 2);
    readsw(g_device, words, 2);
    EXPECT_EQ(words[0], 8u);
    uint64_t longs[2] = {9, 10};
    iowrite64_rep(g_device, longs, 2);
    ioread64_rep(g_device, longs, 2);
    EXPECT_EQ(longs[0], 10u);
}

// Two threads that each write one flag and read the other's: with mb() between, one of them sees
// the other's. And what comes before dma_wmb() is there for who reads behind dma_rmb().
TEST(io, barriers_order) {
    constexpr int kRounds = 100'000;
    struct alignas(64) line {
        std::atomic<int> value;
    } flag[2], data, ready, arrived;
    int seen[2] = {};
    int turns[2] = {};
    // Spins: the two have to go on at the same moment.
    auto meet = [&](int me) {
        int all = 2 * ++turns[me];
        arrived.value.fetch_add(1);
        for (int i = 1; arrived.value.load() < all; i++)
            if (i % 1000 == 0)
                std::this_thread::yield();
    };
    auto side = [&](int me) {
        for (int i = 0; i < kRounds; i++) {
            flag[me].value.store(0, std::memory_order_relaxed);
            data.value.store(0, std::memory_order_relaxed);
            ready.value.store(0, std::memory_order_relaxed);
            meet(me);
            flag[me].value.store(1, std::memory_order_relaxed);
            mb();
            seen[me] = flag[1 - me].value.load(std::memory_order_relaxed);
            if (me == 0) {
                data.value.store(i + 1, std::memory_order_relaxed);
                dma_wmb();
                ready.value.store(1, std::memory_order_relaxed);
            } else if (ready.value.load(std::memory_order_relaxed) == 1) {
                dma_rmb();
                EXPECT_EQ(data.value.load(std::memory_order_relaxed), i + 1);
            }
            meet(me);
            EXPECT_TRUE(me == 1 || seen[0] == 1 || seen[1] == 1) << i;
            meet(me);
        }
    };
    std::thread other(side, 1);
    side(0);
    other.join();
    rmb();
    wmb();
    dma_mb();
    mmiowb();
}

// Every start, length and alignment of the other side: the bytes of memcpy and memset, and not one
// more.
TEST(io, copies_are_exact) {
    random_numbers random(7);
    unsigned char memory[128], wanted[256];
    for (int i = 0; i < 20'000; i++) {
        size_t at = random.below(100), count = random.below(100), from = random.below(28);
        for (auto &byte : g_device)
            byte = static_cast<unsigned char>(random.next());
        for (auto &byte : memory)
            byte = static_cast<unsigned char>(random.next());
        memcpy(wanted, g_device, sizeof wanted);
        if (i % 3 == 0) {
            memcpy(wanted + at, memory + from, count);
            memcpy_toio(g_device + at, memory + from, count);
        } else if (i % 3 == 1) {
            int value = static_cast<int>(random.next());
            memset(wanted + at, value, count);
            memset_io(g_device + at, value, count);
        } else {
            unsigned char copy[128];
            memcpy(copy, memory, sizeof copy);
            memcpy(copy + from, g_device + at, count);
            memcpy_fromio(memory + from, g_device + at, count);
            ASSERT_EQ(memcmp(copy, memory, sizeof copy), 0) << at << " " << count << " " << from;
        }
        ASSERT_EQ(memcmp(wanted, g_device, sizeof wanted), 0) << at << " " << count << " " << from;
    }
}
