#include "hugepage/meta.h"

#include "hugepage/address_space.h"
#include "hugepage/sys.h"
#include "tests/unit.h"

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::succeeded;

// Each test in a process of its own: pieces are never given back.
template <class F> void in_fresh_space(F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        ASSERT_TRUE(address_space_init(kPageSize));
        body();
    })));
}

bool is_zero(const void *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (static_cast<const char *>(p)[i] != 0)
            return false;
    return true;
}

TEST(MetaTest, PiecesAreZeroedAlignedAndApart) {
    in_fresh_space([] {
        uintptr_t end = 0;
        for (size_t bytes = 1; bytes <= kMetaMax; bytes += 61) {
            void *p = meta_alloc(bytes, GFP_KERNEL);
            ASSERT_NE(p, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
            EXPECT_GE(reinterpret_cast<uintptr_t>(p), end);
            EXPECT_TRUE(is_zero(p, bytes));
            memset(p, 0xa5, bytes);
            end = reinterpret_cast<uintptr_t>(p) + bytes;
        }
        EXPECT_LE(end, g_space.meta.base() + g_space.meta.bytes());
    });
}

TEST(MetaTest, ReusesBySizeAndZeroesAgain) {
    in_fresh_space([] {
        void *small = meta_alloc(64, GFP_KERNEL);
        void *large = meta_alloc(kMetaMax, GFP_KERNEL);
        memset(small, 0xff, 64);
        memset(large, 0xff, kMetaMax);
        meta_free(large, kMetaMax);
        meta_free(small, 64);
        EXPECT_EQ(meta_alloc(kMetaMax, GFP_KERNEL), large);
        EXPECT_EQ(meta_alloc(1, GFP_KERNEL), small); // the same 64 bytes
        EXPECT_TRUE(is_zero(small, 64));
        EXPECT_TRUE(is_zero(large, kMetaMax));
        EXPECT_NE(meta_alloc(64, GFP_KERNEL), small);
    });
}

TEST(MetaTest, AtomicDoesNotGrowTheWindow) {
    in_fresh_space([] {
        size_t before = g_space.meta.bytes();
        size_t pieces = 0;
        while (meta_alloc(kMetaMax, GFP_ATOMIC) != nullptr)
            pieces++;
        EXPECT_EQ(pieces, before / kMetaMax);
        EXPECT_EQ(g_space.meta.bytes(), before);
        EXPECT_EQ(meta_alloc(64, GFP_NOWAIT), nullptr);
        EXPECT_NE(meta_alloc(kMetaMax, GFP_KERNEL), nullptr);
        EXPECT_GT(g_space.meta.bytes(), before);
        EXPECT_NE(meta_alloc(64, GFP_ATOMIC), nullptr);
    });
}

TEST(MetaTest, BlockingCallersKeepTheStock) {
    in_fresh_space([] {
        constexpr size_t kStock = 256 << 10;
        meta_keep_stock(kStock);
        for (int round = 0; round < 3; round++) {
            size_t bytes = 0;
            while (char *piece = static_cast<char *>(meta_alloc(kMetaMax, GFP_ATOMIC))) {
                ASSERT_TRUE(test::resident(piece));
                bytes += kMetaMax;
            }
            EXPECT_GE(bytes, kStock / 2);
            EXPECT_NE(meta_alloc(64, GFP_KERNEL), nullptr);
        }
    });
}

TEST(MetaTest, AtomicDoesNotWaitForTheLock) {
    in_fresh_space([] {
        meta_lock().lock();
        EXPECT_EQ(meta_alloc(64, GFP_ATOMIC), nullptr);
        meta_lock().unlock();
        EXPECT_NE(meta_alloc(64, GFP_ATOMIC), nullptr);
    });
}

TEST(MetaTest, FreeingNeverWaits) {
    in_fresh_space([] {
        void *small = meta_alloc(64, GFP_KERNEL);
        void *large = meta_alloc(640, GFP_KERNEL);
        meta_lock().lock();
        meta_free(small, 64); // as in a handler that interrupted the holder
        meta_free(large, 640);
        meta_lock().unlock();
        EXPECT_EQ(meta_alloc(640, GFP_KERNEL), large);
        EXPECT_EQ(meta_alloc(64, GFP_KERNEL), small);
    });
}

TEST(MetaTest, OthersWaitForTheLock) {
    in_fresh_space([] {
        std::atomic<void *> got{nullptr};
        meta_lock().lock();
        std::thread waiter([&] { got = meta_alloc(64, GFP_KERNEL); });
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        EXPECT_EQ(got.load(), nullptr);
        meta_lock().unlock();
        waiter.join();
        EXPECT_NE(got.load(), nullptr);
    });
}

TEST(MetaTest, NoMemoryIsNull) {
    in_fresh_space([] {
        while (meta_alloc(kMetaMax, GFP_ATOMIC) != nullptr)
            continue;
        sys::inject_failures(0, 1000);
        EXPECT_EQ(meta_alloc(64, GFP_KERNEL), nullptr);
        EXPECT_FALSE(meta_lock().is_locked());
        sys::inject_failures(0, 0);
        EXPECT_NE(meta_alloc(64, GFP_KERNEL), nullptr);
    });
}

TEST(MetaTest, ThreadsGetPiecesOfTheirOwn) {
    in_fresh_space([] {
        constexpr int kThreads = 4;
        std::vector<void *> kept[kThreads];
        std::vector<std::thread> threads;
        for (int t = 0; t < kThreads; t++)
            threads.emplace_back([&kept, t] {
                for (int i = 0; i < 2000; i++) {
                    void *p = meta_alloc(128, GFP_KERNEL);
                    if (i % 2 == 0)
                        meta_free(p, 128);
                    else
                        kept[t].push_back(p);
                }
            });
        for (auto &t : threads)
            t.join();
        std::set<void *> all;
        for (auto &pieces : kept)
            all.insert(pieces.begin(), pieces.end());
        EXPECT_EQ(all.size(), size_t{kThreads} * 1000);
        EXPECT_EQ(all.count(nullptr), 0u);
    });
}

} // namespace
} // namespace pagoda
