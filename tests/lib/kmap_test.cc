#include "lib/kmap.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/highmem.h"
#include "lib/thread.h"
#include "tests/unit.h"

#include <pagoda/highmem.h>
#include <pagoda/share.h>

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::succeeded;

class KmapTest : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(heap_init());
        mutable_options().highmem_bytes = 16 << 20;
        for (int i = 0; i < LAST_PKMAP + 40; i++)
            pages_.push_back(public_page(highmem_alloc(GFP_HIGHUSER)));
        ASSERT_NE(pages_.back(), nullptr);
    }
    void TearDown() override {
        sys::inject_failures(0, 0);
        for (::page *p : pages_)
            highmem_free(record_of(p), GFP_KERNEL);
    }
    static int ends_at(const void *p) {
        return in_child([&] { *static_cast<const volatile char *>(p); }).signal();
    }
    std::vector<::page *> pages_;
};

TEST_F(KmapTest, MapsAPageUntilTheLastKunmap) {
    char *a = static_cast<char *>(kmap(pages_[0]));
    char *b = static_cast<char *>(kmap(pages_[1]));
    EXPECT_NE(a, b);
    strcpy(a, "first");
    strcpy(b, "second");
    EXPECT_EQ(kmap(pages_[0]), a);
    EXPECT_EQ(pagoda_highmem_address(pages_[0]), a);
    kunmap(pages_[0]);
    EXPECT_STREQ(a, "first");
    kunmap(pages_[0]);
    EXPECT_EQ(pagoda_highmem_address(pages_[0]), nullptr);
    EXPECT_EQ(ends_at(a), SIGSEGV); // no stray pointer reaches it
    EXPECT_EQ(ends_at(b + kPageSize), SIGSEGV);
    kunmap(pages_[1]);
    a = static_cast<char *>(kmap(pages_[0]));
    EXPECT_STREQ(a, "first");
    kunmap(pages_[0]);
}

TEST_F(KmapTest, PagesWithAnAddressKeepIt) {
    page_state state;
    uint32_t zone = zone_normal().alloc(1, 0, GFP_KERNEL, &state);
    ::page *low = public_page(&page_at(zone));
    char *shared = static_cast<char *>(pagoda_share_alloc(2 * kPageSize, GFP_KERNEL));
    ::page *second = pagoda_share_page(shared + kPageSize);
    EXPECT_FALSE(PageHighMem(low));
    EXPECT_FALSE(PageHighMem(second));
    for (auto [p, address] :
         {std::pair<::page *, void *>{low, page_address(zone)}, {second, shared + kPageSize}}) {
        EXPECT_EQ(kmap(p), address);
        EXPECT_EQ(kmap_local_page(p), address);
        EXPECT_EQ(pagoda_highmem_address(p), address);
        kunmap_local(address);
        kunmap(p);
        kunmap(p); // means nothing here
    }
    pagoda_share_free(shared);
    zone_normal().free(zone, 1, true, GFP_KERNEL);
}

TEST_F(KmapTest, WaitsForASlotWhenAllAreTaken) {
    for (int i = 0; i < LAST_PKMAP; i++)
        ASSERT_NE(kmap(pages_[static_cast<size_t>(i)]), nullptr);
    EXPECT_EQ(kmap(pages_[7]), pagoda_highmem_address(pages_[7])); // has one already
    kunmap(pages_[7]);
    std::atomic<int> got{0};
    std::vector<std::thread> waiters;
    for (size_t t = 0; t < 4; t++)
        waiters.emplace_back([&, t] {
            ::page *p = pages_[LAST_PKMAP + t];
            *static_cast<char *>(kmap(p)) = 1;
            got++;
            kunmap(p);
        });
    for (int i = 0; i < 20; i++) {
        std::this_thread::yield();
        EXPECT_EQ(got.load(), 0);
    }
    kunmap(pages_[3]);
    for (std::thread &t : waiters)
        t.join();
    EXPECT_EQ(got.load(), 4);
    for (int i = 0; i < LAST_PKMAP; i++)
        if (i != 3)
            kunmap(pages_[static_cast<size_t>(i)]);
}

TEST_F(KmapTest, UnmappedPagesAreReported) {
    auto end = in_child([this] { kunmap(pages_[0]); });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("kunmap of ")) << end.errors;
    EXPECT_TRUE(end.said("the page is not mapped")) << end.errors;
}

TEST_F(KmapTest, LocalMappingsNest) {
    std::vector<char *> open;
    for (size_t i = 0; i < KM_MAX_IDX; i++) {
        open.push_back(static_cast<char *>(kmap_local_page(pages_[i / 2])));
        ASSERT_NE(open.back(), nullptr);
        *open.back() = static_cast<char>(i);
    }
    EXPECT_EQ(*open[2], 3); // the same page twice
    EXPECT_EQ(pagoda_highmem_address(pages_[0]), nullptr);
    while (!open.empty()) {
        kunmap_local(open.back() + 100);
        EXPECT_EQ(open.size() > 14 ? ends_at(open.back()) : SIGSEGV, SIGSEGV);
        open.pop_back();
    }
    void *old = kmap_atomic(pages_[0]);
    EXPECT_EQ(*static_cast<char *>(old), 1);
    kunmap_atomic(old);
}

TEST_F(KmapTest, WrongOrderIsReportedAndChangesNothing) {
    auto end = in_child([this] {
        mutable_options().on_error = error_policy::report;
        char *a = static_cast<char *>(kmap_local_page(pages_[0]));
        char *b = static_cast<char *>(kmap_local_page(pages_[1]));
        kunmap_local(a); // b is newer
        *a = *b = 1;
        std::thread([&] { kunmap_local(b); }).join(); // another thread's
        *b = 2;
        kunmap_local(b);
        kunmap_local(b); // none any more
        kunmap_local(a);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("not this thread's newest mapping")) << end.errors;
    EXPECT_TRUE(end.said("nothing is mapped there")) << end.errors;
    EXPECT_EQ(end.lines(), 3u) << end.errors;
}

TEST_F(KmapTest, TooDeepIsReported) {
    auto end = in_child([this] {
        mutable_options().on_error = error_policy::report;
        for (size_t i = 0; i < KM_MAX_IDX; i++)
            EXPECT_NE(kmap_local_page(pages_[i]), nullptr);
        EXPECT_EQ(kmap_local_page(pages_[0]), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST_F(KmapTest, LocalMappingsOfAllThreadsWaitForEachOther) {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    constexpr int kThreads = LAST_PKMAP / KM_MAX_IDX;
    for (int t = 0; t < kThreads; t++)
        threads.emplace_back([&] {
            void *open[KM_MAX_IDX];
            for (size_t i = 0; i < KM_MAX_IDX; i++)
                open[i] = kmap_local_page(pages_[i]);
            ready++;
            go.wait(false);
            for (size_t i = KM_MAX_IDX; i-- > 0;)
                kunmap_local(open[i]);
        });
    while (ready.load() != kThreads)
        std::this_thread::yield();
    std::atomic<bool> got{false};
    std::thread last([&] {
        void *p = kmap_local_page(pages_[0]);
        got = p != nullptr;
        kunmap_local(p);
    });
    for (int i = 0; i < 20; i++) {
        std::this_thread::yield();
        EXPECT_FALSE(got.load());
    }
    go = true;
    go.notify_all();
    for (std::thread &t : threads)
        t.join();
    last.join();
    EXPECT_TRUE(got.load());
}

TEST_F(KmapTest, RefusalsGiveNullAndLeaveTheSlotFree) {
    kunmap((kmap(pages_[0]), pages_[0]));
    for (int i = 0; i < 2 * LAST_PKMAP; i++) {
        sys::inject_failures(0, 2);
        ASSERT_EQ(kmap(pages_[0]), nullptr);
        ASSERT_EQ(kmap_local_page(pages_[0]), nullptr);
    }
    sys::inject_failures(0, 0);
    void *p = kmap_local_page(pages_[0]);
    EXPECT_NE(p, nullptr);
    kunmap_local(p);
    slow_path interrupted;
    EXPECT_EQ(kmap(pages_[0]), nullptr);
}

TEST_F(KmapTest, ContentsOfPages) {
    ::page *a = pages_[0];
    ::page *b = pages_[1];
    char buffer[kPageSize];
    memset_page(a, 0, 'a', kPageSize);
    memset_page(b, 0, 'b', kPageSize);
    memcpy_page(b, 10, a, 5, 3);
    memcpy_from_page(buffer, b, 8, 8);
    EXPECT_EQ(memcmp(buffer, "bbaaabbb", 8), 0);
    memcpy_to_page(b, kPageSize - 3, "xyz", 3);
    zero_user_segments(b, 1, 3, 5, 4);
    zero_user_segment(b, 6, 7);
    zero_user(b, 12, 1);
    memzero_page(b, 14, 1);
    copy_highpage(a, b);
    memcpy_from_page(buffer, a, 0, kPageSize);
    // The three a's lie at 10; 1, 2, 6, 12 and 14 were zeroed, [5, 4) is empty.
    EXPECT_EQ(memcmp(buffer, "b\0\0bbb\0bbbaa\0b\0b", 16), 0);
    EXPECT_EQ(memcmp(buffer + kPageSize - 3, "xyz", 3), 0);
    clear_highpage(a);
    memcpy_from_page(buffer, a, 0, kPageSize);
    for (char c : buffer)
        ASSERT_EQ(c, 0);
}

} // namespace
} // namespace pagoda
