#include "tests/provider.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "lib/device_pages.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/reclaim.h"
#include "lib/thread.h"

#include <pagoda/highmem.h>
#include <pagoda/mm.h>
#include <pagoda/slab.h>

#include <atomic>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMask24 = (uint64_t{1} << 24) - 1;
constexpr uint64_t kMask32 = (uint64_t{1} << 32) - 1;
constexpr uint64_t kAny = ~uint64_t{0};

#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(device_pages, name) { EXPECT_TRUE(succeeded(in_child(name))); }                           \
    void name()

void attach() { ASSERT_EQ(pagoda_dma_register(&kFakeProvider), 0); }

char *get(uint32_t pages, unsigned order, uint64_t mask, gfp_t gfp = GFP_KERNEL | __GFP_NOWARN) {
    return static_cast<char *>(pagoda_device_pages_alloc(pages, order, mask, gfp));
}
void put(void *p, uint32_t pages) { pagoda_device_pages_free(p, pages); }

device_pages_stats all() { return device_pages_get_stats(0, kAny); }

TEST(device_pages, are_none_without_a_device) {
    child_end end = in_child([] {
        EXPECT_EQ(get(1, 0, kAny, GFP_KERNEL), nullptr);
        EXPECT_EQ(get(1, 0, kAny, GFP_KERNEL), nullptr);
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("no device is attached")) << end.errors;
}

TEST(device_pages, say_why_there_are_none) {
    child_end end = in_child([] {
        attach();
        EXPECT_EQ(pagoda_dma_register(&kFakeProvider), -EBUSY);
        devices.answer = -ENODEV;
        devices.answers_left = 1000;
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA), nullptr);
        EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA32), nullptr);
        EXPECT_EQ(all().chunks, 0u);
        EXPECT_EQ(zone_normal().stats().set_aside, 0u);
    });
    EXPECT_TRUE(succeeded(end));
    size_t first = end.errors.find("the fake one was unplugged");
    ASSERT_NE(first, std::string::npos) << end.errors;
    EXPECT_EQ(end.errors.find("the fake one was unplugged", first + 1), std::string::npos)
        << "once is enough: " << end.errors;
}

TEST_IN_CHILD(are_aligned_here_and_there_and_below_the_mask) {
    attach();
    for (unsigned bits : {24u, 25u, 28u, 30u, 32u, 33u, 40u, 48u, 64u}) {
        uint64_t mask = bits == 64 ? kAny : (uint64_t{1} << bits) - 1;
        for (unsigned order = 0; order <= kMaxPageOrder; order++) {
            uint32_t pages = 1u << order;
            char *p = get(pages, order, mask);
            ASSERT_NE(p, nullptr) << bits << " bits, order " << order;
            size_t bytes = size_t{pages} << kPageShift;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % bytes, 0u) << bits << ' ' << order;
            EXPECT_EQ(devices.address_of(p) % bytes, 0u) << bits << ' ' << order;
            EXPECT_TRUE(devices.reached(p, bytes, mask)) << bits << ' ' << order;
            memset(p, 0x31, bytes);
            put(p, pages);
        }
    }
    EXPECT_EQ(all().free, all().present);
}

TEST_IN_CHILD(end_at_masks_that_are_no_power_of_two) {
    attach();
    char *any = get(1, 0, kMask32);
    ASSERT_NE(any, nullptr);
    const provided &c = devices.chunks.begin()->second;
    uint64_t mask = c.address + 3 * kPageSize + 100; // three whole pages are below
    std::vector<char *> got;
    for (char *p; (p = get(1, 0, mask, GFP_NOWAIT)) != nullptr;)
        got.push_back(p);
    EXPECT_GE(got.size(), 2u);
    EXPECT_LE(got.size(), 3u);
    for (char *p : got)
        EXPECT_TRUE(devices.reached(p, kPageSize, mask));
    EXPECT_EQ(get(1, 0, 100), nullptr);
    EXPECT_EQ(get(0, 0, kAny), nullptr);
    EXPECT_EQ(get(1, 40, kAny), nullptr);
    EXPECT_EQ(get(~0u, 0, kAny), nullptr);
}

TEST_IN_CHILD(are_the_highest_that_serve) {
    attach();
    char *low = get(1, 0, kMask24);
    char *high = get(1, 0, kMask32);
    char *higher = get(1, 0, kAny);
    ASSERT_TRUE(low != nullptr && high != nullptr && higher != nullptr);
    EXPECT_LE(devices.address_of(low), kMask24);
    // Where there is room above, nothing takes the low ones.
    EXPECT_GT(devices.address_of(high), kMask24);
    EXPECT_GE(devices.address_of(higher), devices.address_of(high));
    put(low, 1);
    uint64_t before = device_pages_get_stats(0, kMask24 + 1).free;
    for (int i = 0; i < 100; i++)
        ASSERT_NE(get(1, 0, kMask32), nullptr);
    EXPECT_EQ(device_pages_get_stats(0, kMask24 + 1).free, before);
    // But rather they than nothing.
    devices.answer = -ERANGE;
    devices.answers_left = 1 << 30;
    while (get(512, 9, kMask32) != nullptr)
        ;
    EXPECT_EQ(device_pages_get_stats(0, kMask24 + 1).free, 0u);
}

TEST_IN_CHILD(grow_by_chunks_that_suit_the_mask) {
    attach();
    ASSERT_NE(get(1, 0, kMask24), nullptr);
    EXPECT_EQ(devices.bytes(), 2 * kMiB);
    ASSERT_NE(get(1, 0, kMask32), nullptr);
    EXPECT_EQ(devices.bytes(), 18 * kMiB);
    ASSERT_NE(get(20 * 256, 0, kMask32), nullptr); // 20 MiB
    EXPECT_EQ(devices.bytes(), 18 * kMiB + 32 * kMiB);
    EXPECT_EQ(devices.calls, 3);
}

TEST_IN_CHILD(run_out_of_low_addresses) {
    attach();
    std::vector<char *> held;
    for (char *p; (p = get(256, 8, kMask24)) != nullptr;) {
        EXPECT_TRUE(devices.reached(p, kMiB, kMask24));
        held.push_back(p);
    }
    EXPECT_EQ(held.size(), 16u);
    EXPECT_EQ(get(1, 0, kMask24), nullptr);
    put(held.back(), 256);
    char *again = get(256, 8, kMask24);
    EXPECT_EQ(again, held.back());
    // What was provided elsewhere, in vain, is not kept for ever.
    device_pages_trim(0);
    EXPECT_EQ(devices.bytes(), 16 * kMiB);
    // The page allocator's own names.
    EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
    EXPECT_NE(alloc_page(GFP_KERNEL | GFP_DMA32), nullptr);
}

// Only for what others can free, and not for what never was.
TEST_IN_CHILD(are_waited_for_with_nofail) {
    attach();
    constexpr gfp_t kNofail = GFP_KERNEL | GFP_DMA | __GFP_NOFAIL;
    std::vector<char *> held;
    for (char *p; (p = get(256, 8, kMask24)) != nullptr;)
        held.push_back(p);
    EXPECT_EQ(get(4096, 0, kMask24, GFP_KERNEL | __GFP_NOFAIL | __GFP_NOWARN), nullptr)
        << "no chunk is that large";
    ASSERT_GT(held.size(), 1u);
    uint64_t waits = reclaim_get_stats().waits;
    ::page *page = nullptr;
    void *object = nullptr;
    std::thread one([&] { page = alloc_page(kNofail); });
    std::thread other([&] { object = kmalloc(100, kNofail); });
    while (reclaim_get_stats().waits < waits + 4)
        sys::nap(1000);
    put(held.back(), 256);
    one.join();
    other.join();
    ASSERT_NE(page, nullptr);
    EXPECT_TRUE(devices.reached(page_address(page), 4096, kMask24));
    ASSERT_NE(object, nullptr);
    EXPECT_TRUE(devices.reached(object, 100, kMask24));
}

// Every answer, at the first call and at later ones, and memory that is short at every step.
TEST_IN_CHILD(that_cannot_be_had_leave_nothing_behind) {
    attach();
    ASSERT_TRUE(kernel_api_init());
    put(get(1, 0, kAny), 1);
    device_pages_trim(0);
    for (int answer : {-ENODEV, -ERANGE, -ENOSPC, -ENOMEM}) {
        for (uint64_t mask : {kMask24, kMask32, kAny}) {
            devices.answer = answer;
            devices.answers_left = 1000;
            EXPECT_EQ(get(1, 0, mask), nullptr);
            EXPECT_EQ(get(3000, 0, mask), nullptr);
            devices.answers_left = 0;
            EXPECT_EQ(all().chunks, 0u) << answer;
            EXPECT_EQ(devices.bytes(), 0u) << answer;
            EXPECT_EQ(zone_normal().stats().set_aside, 0u) << answer;
        }
    }
    for (int works = 0; works < 30; works++) {
        sys::inject_failures(works, 1);
        char *p = get(1, 0, kMask32);
        sys::inject_failures(0, 0);
        if (p != nullptr)
            put(p, 1);
        device_pages_trim(0);
        EXPECT_EQ(all().chunks, 0u);
        EXPECT_EQ(devices.bytes(), 0u);
        EXPECT_EQ(zone_normal().stats().set_aside, 0u) << works;
    }
    for (int works = 0; works < 30; works++) {
        sys::inject_failures(works, 1 << 30);
        char *p = get(1, 0, kMask32);
        sys::inject_failures(0, 0);
        put(p, 1);
        device_pages_trim(0);
        EXPECT_EQ(devices.bytes(), 0u);
    }
    EXPECT_TRUE(zone_normal().consistent());
}

TEST_IN_CHILD(fall_back_to_smaller_chunks) {
    attach();
    devices.answer = -ENOMEM; // a limit on locked memory, say
    devices.answers_left = 1;
    char *p = get(4, 2, kAny);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(devices.bytes(), 2 * kMiB);
}

// Provided where they were not asked for.
TEST_IN_CHILD(out_of_the_masks_reach_are_refused) {
    static const pagoda_dma_provider wrong = {
        [](void *at, size_t bytes, unsigned bits, uint64_t *address) {
            int r = devices.provide(reinterpret_cast<uintptr_t>(at), bytes, bits, address);
            *address += bytes / 2;
            return r;
        },
        kFakeProvider.withdraw, kFakeProvider.release, kFakeProvider.reason};
    ASSERT_EQ(pagoda_dma_register(&wrong), 0);
    EXPECT_EQ(get(1, 0, kMask32), nullptr);
    EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
    EXPECT_LE(devices.bytes(), kDeviceBytesKept);
}

// No other memory comes to be where a device may still write.
TEST_IN_CHILD(that_a_device_still_reaches_are_nobodys) {
    attach();
    char *p = get(1, 0, kAny);
    ASSERT_NE(p, nullptr);
    put(p, 1);
    devices.stubborn = true;
    device_pages_trim(0);
    EXPECT_EQ(devices.withdrawn, 1);
    EXPECT_TRUE(resident(p)) << "as it was";
    EXPECT_NE(get(1, 0, kAny), nullptr);
    EXPECT_EQ(devices.chunks.count(align_down(reinterpret_cast<uintptr_t>(p), kPageblockSize)), 0u);
}

// Without an IOMMU: what turns out to be too high serves wider masks.
TEST_IN_CHILD(have_the_addresses_that_they_have) {
    attach();
    devices.physical = 3;
    char *low = get(1, 0, kMask32);
    ASSERT_NE(low, nullptr);
    EXPECT_TRUE(devices.reached(low, kPageSize, kMask32));
    int calls = devices.calls;
    for (uint64_t i = device_pages_get_stats(kMask32 + 1, kAny).free; i > 0; i--)
        ASSERT_NE(get(1, 0, kAny), nullptr);
    EXPECT_EQ(devices.calls, calls);
    EXPECT_EQ(get(kPageblockPages * 2, 0, kAny), nullptr) << "no two pageblocks are in a row";
    devices.physical = 1 << 30; // none is low
    uint64_t before = devices.bytes();
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(get(512, 9, kMask24), nullptr);
    EXPECT_LE(devices.bytes(), before + 2 * kDeviceBytesKept) << "the tries are bounded";
}

TEST_IN_CHILD(wholly_free_go_back_beyond_a_few) {
    attach();
    std::vector<char *> held;
    for (int i = 0; i < 5 * 4; i++) {
        held.push_back(get(1024, 10, kMask32));
        ASSERT_NE(held.back(), nullptr);
        memset(held.back(), 0x44, 4 * kMiB);
    }
    EXPECT_EQ(devices.bytes(), 80 * kMiB);
    EXPECT_GE(heap_get_stats().committed, 80 * kMiB);
    zone_stats before = zone_normal().stats();
    EXPECT_EQ(before.set_aside << kPageShift, 80 * kMiB);
    for (char *p : held)
        put(p, 1024);
    EXPECT_EQ(devices.bytes(), kDeviceBytesKept);
    EXPECT_EQ(all().free << kPageShift, kDeviceBytesKept);
    zone_stats after = zone_normal().stats();
    EXPECT_EQ(after.set_aside << kPageShift, kDeviceBytesKept);
    EXPECT_EQ(after.present, before.present);
    heap_trim(0);
    EXPECT_EQ(devices.bytes(), 0u);
    EXPECT_EQ(zone_normal().stats().set_aside, 0u);
    EXPECT_TRUE(zone_normal().consistent());
    page_state state;
    uint32_t first = zone_normal().alloc(16 * 512, 9, GFP_KERNEL, &state);
    ASSERT_NE(first, kNoPage);
    if (state.zeroed) {
        const char *bytes = static_cast<char *>(page_address(first));
        for (size_t i = 0; i < 32 * kMiB; i += 64)
            ASSERT_EQ(bytes[i], 0);
    }
}

TEST_IN_CHILD(without_blocking_are_those_that_there_are) {
    attach();
    ASSERT_TRUE(kernel_api_init());
    for (gfp_t gfp : {GFP_ATOMIC | __GFP_NOWARN, GFP_NOWAIT})
        EXPECT_EQ(get(1, 0, kMask32, gfp), nullptr);
    EXPECT_EQ(devices.calls, 0);
    char *p = get(1, 0, kMask32);
    ASSERT_NE(p, nullptr);
    int calls = devices.calls;
    char *q = get(1, 0, kMask32, GFP_ATOMIC);
    EXPECT_NE(q, nullptr);
    {
        lock_guard held(device_lock()); // as by another thread
        EXPECT_EQ(get(1, 0, kMask32, GFP_ATOMIC | __GFP_NOWARN), nullptr);
        put(q, 1); // waits for nobody either
        EXPECT_EQ(class_of_pointer(q), kClassNone);
    }
    EXPECT_EQ(get(1, 0, kMask32, GFP_ATOMIC), q) << "the next holder took it off the list";
    EXPECT_EQ(devices.calls, calls);
    put(p, 1);
    put(q, 1);
    // A handler that interrupted the allocator is served so too.
    slow_path scope;
    EXPECT_NE(get(1, 0, kMask32), nullptr);
    EXPECT_EQ(get(5000, 0, kMask32), nullptr);
    EXPECT_EQ(devices.calls, calls);
}

// While devices are asked for memory, the library above may allocate; but not such memory.
TEST_IN_CHILD(are_not_waited_for_by_who_makes_them) {
    static int depth = 0;
    static void *plain = nullptr;
    static const pagoda_dma_provider curious = {
        [](void *at, size_t bytes, unsigned bits, uint64_t *address) {
            if (depth++ == 0) {
                EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | __GFP_NOWARN), nullptr);
                plain = kmalloc(100'000, GFP_KERNEL);
            }
            return devices.provide(reinterpret_cast<uintptr_t>(at), bytes, bits, address);
        },
        kFakeProvider.withdraw, kFakeProvider.release, kFakeProvider.reason};
    ASSERT_EQ(pagoda_dma_register(&curious), 0);
    EXPECT_NE(alloc_page(GFP_KERNEL | GFP_DMA), nullptr);
    EXPECT_NE(plain, nullptr);
    EXPECT_EQ(depth, 1);
}

TEST(device_pages, are_freed_once_and_as_what_they_are) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        attach();
        char *p = get(2, 0, kAny);
        put(nullptr, 1);
        put(p + 1, 1);
        put(p, 2);
        put(p, 2);
        void *plain = kmalloc(4096, GFP_KERNEL);
        put(plain, 1);
        kfree(plain);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("pagoda_device_pages_free")) << end.errors;
}

TEST(device_pages, that_a_device_uses_are_freed_later) {
    child_end end = in_child([] {
        mutable_options().on_error = error_policy::report;
        attach();
        char *p = get(3, 0, kAny);
        ASSERT_NE(p, nullptr);
        uint64_t live = heap_get_stats().live_objects;
        ASSERT_EQ(pagoda_object_hold(p + kPageSize + 10, kPageSize), 0); // in two of them
        put(p, 3);
        EXPECT_EQ(all().free, all().present - 2);
        EXPECT_EQ(heap_get_stats().live_objects, live - 1);
        pagoda_object_release(p + kPageSize + 10);
        EXPECT_EQ(all().free, all().present);
        EXPECT_EQ(heap_get_stats().live_objects, live - 3);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
}

// Rows 27, 28 and 58: the page allocator's names.
TEST_IN_CHILD(are_pages_like_any_others) {
    attach();
    for (gfp_t zone : {GFP_DMA, GFP_DMA32}) {
        uint64_t mask = zone == GFP_DMA ? kMask24 : kMask32;
        for (unsigned order = 0; order <= MAX_PAGE_ORDER; order++) {
            ::page *block = alloc_pages(GFP_KERNEL | zone | __GFP_ZERO, order);
            ASSERT_NE(block, nullptr) << order;
            auto *at = static_cast<char *>(page_to_virt(block));
            size_t bytes = size_t{kPageSize} << order;
            EXPECT_TRUE(devices.reached(at, bytes, mask));
            for (size_t i = 0; i < bytes; i += 64)
                ASSERT_EQ(at[i], 0);
            memset(at, 0x66, bytes);
            EXPECT_EQ(page_ref_count(block), 1);
            get_page(block);
            __free_pages(block, order); // splits: the first page stays
            EXPECT_EQ(page_ref_count(block), 1);
            put_page(block);
        }
        ::page *block = alloc_pages(GFP_KERNEL | zone, 3);
        ASSERT_NE(block, nullptr);
        split_page(block, 3);
        for (int i = 0; i < 8; i++)
            __free_page(nth_page(block, i));
        void *exact = alloc_pages_exact(5 * kPageSize, GFP_KERNEL | zone);
        ASSERT_NE(exact, nullptr);
        EXPECT_TRUE(devices.reached(exact, 5 * kPageSize, mask));
        free_pages_exact(exact, 5 * kPageSize);
        ::page *compound = alloc_pages(GFP_KERNEL | zone | __GFP_COMP, 2);
        ASSERT_NE(compound, nullptr);
        EXPECT_EQ(compound_head(nth_page(compound, 3)), compound);
        put_page(nth_page(compound, 1));
    }
    unsigned long dma = __get_dma_pages(GFP_KERNEL, 2);
    ASSERT_NE(dma, 0u);
    EXPECT_TRUE(devices.reached(reinterpret_cast<void *>(dma), 4 * kPageSize, kMask24));
    free_pages(dma, 2);
    dma = __get_dma_pages(GFP_ATOMIC, 0);
    EXPECT_NE(dma, 0u);
    free_page(dma);
    EXPECT_EQ(all().free, all().present);
    // Two zones at once are refused as before.
    EXPECT_EQ(alloc_page(GFP_KERNEL | GFP_DMA | GFP_DMA32 | __GFP_NOWARN), nullptr);
}

TEST_IN_CHILD(show_as_zones) {
    attach();
    pagoda_zone_info dma;
    pagoda_zone_info dma32;
    pagoda_zone_info normal;
    ASSERT_TRUE(pagoda_zoneinfo(0, &dma) && pagoda_zoneinfo(1, &dma32));
    EXPECT_EQ(dma.present + dma32.present, 0u);
    char *p = get(5, 0, kMask24);
    ASSERT_NE(p, nullptr);
    ASSERT_NE(get(7, 0, kMask32), nullptr);
    ASSERT_TRUE(pagoda_zoneinfo(0, &dma) && pagoda_zoneinfo(1, &dma32) &&
                pagoda_zoneinfo(2, &normal));
    EXPECT_EQ(dma.present, kPageblockPages);
    EXPECT_EQ(dma.free, kPageblockPages - 5u);
    EXPECT_EQ(dma32.present, 8u * kPageblockPages);
    EXPECT_EQ(dma32.free, 8u * kPageblockPages - 7u);
    EXPECT_EQ(normal.present + dma.present + dma32.present, zone_normal().stats().present);
    EXPECT_EQ(pagoda_totalram_pages(), zone_normal().stats().present);
    put(p, 5);
    ASSERT_TRUE(pagoda_zoneinfo(0, &dma));
    EXPECT_EQ(dma.free, kPageblockPages);
}

TEST_IN_CHILD(count_against_the_limit) {
    ASSERT_EQ(parse_options("limit=100M"), 0);
    attach();
    uint64_t got = 0;
    while (get(512, 9, kAny) != nullptr)
        got += 2 * kMiB;
    EXPECT_GE(got, 64 * kMiB);
    EXPECT_LE(got, 100 * kMiB);
    EXPECT_LE(zone_normal().committed(), 100 * kMiB);
}

TEST_IN_CHILD(are_not_there_in_a_child) {
    attach();
    char *p = get(2, 0, kMask32);
    ::page *page = alloc_page(GFP_KERNEL | GFP_DMA);
    ASSERT_TRUE(p != nullptr && page != nullptr);
    memset(p, 0x55, 2 * kPageSize);
    uint64_t chunks = all().chunks;
    heap_before_fork();
    pid_t pid = fork();
    heap_after_fork(pid == 0);
    if (pid == 0) {
        alarm(60);
        devices = {}; // those of the parent are dead
        unsigned char in = 0;
        bool gone = mincore(p, kPageSize, &in) != 0;
        put(p, 2); // ignored
        __free_page(page);
        bool forgotten = all().chunks == 0;
        char *mine = get(2, 0, kMask32);
        bool fresh = mine != nullptr && devices.reached(mine, 2 * kPageSize, kMask32) && mine != p;
        if (fresh)
            memset(mine, 0x56, 2 * kPageSize);
        put(mine, 2);
        __free_page(alloc_page(GFP_KERNEL | GFP_DMA));
        device_pages_trim(0);
        _exit(!gone + !forgotten * 2 + !fresh * 4 + !zone_normal().consistent() * 8 +
              (devices.bytes() != 0) * 16);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(all().chunks, chunks);
    for (size_t i = 0; i < 2 * kPageSize; i++)
        ASSERT_EQ(p[i], 0x55);
    put(p, 2);
    __free_page(page);
    EXPECT_EQ(all().free, all().present);
}

TEST_IN_CHILD(serve_threads_and_forks_at_once) {
    attach();
    // The fake one is asked by one thread at a time: growth is.
    static std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++)
        threads.emplace_back([t] {
            random_numbers random(t + 1);
            std::vector<std::pair<char *, uint32_t>> held;
            for (int i = 0; i < 20'000 && !stop; i++) {
                uint32_t pages = static_cast<uint32_t>(1 + random.below(40));
                gfp_t gfp = random.one_in(2) ? GFP_KERNEL : GFP_ATOMIC | __GFP_NOWARN;
                char *p = get(pages, 0, kMask32, gfp);
                if (p != nullptr) {
                    p[0] = p[pages * kPageSize - 1] = static_cast<char>(t);
                    held.push_back({p, pages});
                }
                while (held.size() > 20 || (i == 19'999 && !held.empty())) {
                    auto [q, n] = held.back();
                    held.pop_back();
                    EXPECT_EQ(q[0], static_cast<char>(t));
                    EXPECT_EQ(q[n * kPageSize - 1], static_cast<char>(t));
                    put(q, n);
                }
            }
            for (auto [q, n] : held)
                put(q, n);
        });
    for (int i = 0; i < 20; i++) {
        heap_before_fork();
        pid_t pid = fork();
        heap_after_fork(pid == 0);
        if (pid == 0) {
            alarm(60);
            _exit(all().chunks != 0);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
    }
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(all().free, all().present);
    device_pages_trim(0);
    EXPECT_EQ(devices.bytes(), 0u);
    EXPECT_EQ(zone_normal().stats().set_aside, 0u);
    EXPECT_TRUE(zone_normal().consistent());
}

// Random pages, slabs and kmalloc(GFP_DMA) against a model: below their masks, aligned, disjoint
// here and there, with their contents; and all of it comes back.
struct held_memory {
    char *at;
    size_t bytes;
    int kind;
    char mark;
};

struct memory_model {
    std::map<uint64_t, uint64_t> used; // first device address -> behind the last

    void add(const void *p, size_t bytes) {
        uint64_t first = devices.address_of(p);
        auto next = used.lower_bound(first);
        ASSERT_TRUE(next == used.end() || next->first >= first + bytes);
        ASSERT_TRUE(next == used.begin() || std::prev(next)->second <= first);
        used[first] = first + bytes;
    }
    void remove(const void *p) { ASSERT_EQ(used.erase(devices.address_of(p)), 1u); }
};

TEST_IN_CHILD(agree_with_a_model) {
    attach();
    random_numbers random(31);
    struct kmem_cache *low = kmem_cache_create("model-dma", 200, nullptr, SLAB_CACHE_DMA);
    struct kmem_cache *low32 = kmem_cache_create("model-dma32", 3000, nullptr, SLAB_CACHE_DMA32);
    ASSERT_TRUE(low != nullptr && low32 != nullptr);
    memory_model model;
    std::vector<held_memory> held;
    uint64_t failed = 0;
    uint64_t wanted = min_of<uint64_t>(operations() / 5, 400'000);
    for (uint64_t i = 0; i < wanted; i++) {
        bool grows = i / 2000 % 2 == 0; // fills and empties
        if (held.empty() || random.below(10) < (grows ? 6 : 4)) {
            held_memory m = {nullptr, 0, static_cast<int>(random.below(5)),
                             static_cast<char>(random.next())};
            uint64_t mask = kMask24;
            size_t align = 1;
            if (m.kind == 0) {
                unsigned order = static_cast<unsigned>(random.below(6));
                unsigned bits = static_cast<unsigned>(24 + random.below(41));
                mask = bits == 64 ? kAny : (uint64_t{1} << bits) - 1;
                uint32_t pages = static_cast<uint32_t>(1 + random.below(1u << order));
                m.bytes = size_t{pages} << kPageShift;
                align = size_t{kPageSize} << order;
                m.at = get(pages, order, mask);
            } else if (m.kind == 1) {
                unsigned order = static_cast<unsigned>(random.below(4));
                m.bytes = align = size_t{kPageSize} << order;
                mask = kMask32;
                m.at = reinterpret_cast<char *>(
                    __get_free_pages(GFP_KERNEL | GFP_DMA32 | __GFP_NOWARN, order));
            } else if (m.kind == 2) {
                m.bytes = 200;
                m.at = static_cast<char *>(kmem_cache_alloc(low, GFP_KERNEL | __GFP_NOWARN));
            } else if (m.kind == 3) {
                m.bytes = 3000;
                mask = kMask32;
                m.at = static_cast<char *>(kmem_cache_alloc(low32, GFP_KERNEL | __GFP_NOWARN));
            } else {
                m.bytes = 1 + random.skewed(15);
                align = m.bytes & -m.bytes;
                m.at = static_cast<char *>(kmalloc(m.bytes, GFP_KERNEL | GFP_DMA | __GFP_NOWARN));
                if (m.at != nullptr) {
                    ASSERT_GE(ksize(m.at), m.bytes);
                    m.bytes = ksize(m.at);
                }
            }
            if (m.at == nullptr) {
                ASSERT_LE(mask, kMask24) << "only such addresses are so few";
                failed++;
                continue;
            }
            ASSERT_TRUE(devices.reached(m.at, m.bytes, mask)) << m.kind;
            ASSERT_EQ(reinterpret_cast<uintptr_t>(m.at) % align, 0u);
            ASSERT_EQ(devices.address_of(m.at) % align, 0u);
            model.add(m.at, m.bytes);
            m.at[0] = m.at[m.bytes - 1] = m.mark;
            held.push_back(m);
        } else {
            size_t n = random.below(held.size());
            held_memory m = held[n];
            held[n] = held.back();
            held.pop_back();
            ASSERT_EQ(m.at[0], m.mark);
            ASSERT_EQ(m.at[m.bytes - 1], m.mark);
            model.remove(m.at);
            if (m.kind == 0)
                put(m.at, static_cast<uint32_t>(m.bytes >> kPageShift));
            else if (m.kind == 1)
                free_pages(reinterpret_cast<unsigned long>(m.at), order_of(m.bytes >> kPageShift));
            else if (m.kind == 4)
                kfree(m.at);
            else
                kmem_cache_free(m.kind == 2 ? low : low32, m.at);
        }
    }
    for (const held_memory &m : held) {
        if (m.kind == 0)
            put(m.at, static_cast<uint32_t>(m.bytes >> kPageShift));
        else if (m.kind == 1)
            free_pages(reinterpret_cast<unsigned long>(m.at), order_of(m.bytes >> kPageShift));
        else
            kfree(m.at);
    }
    kmem_cache_destroy(low);
    kmem_cache_destroy(low32);
    heap_trim(0);
    EXPECT_EQ(all().free, all().present);
    device_pages_trim(0);
    EXPECT_EQ(devices.bytes(), 0u);
    EXPECT_TRUE(zone_normal().consistent());
    EXPECT_LT(failed, wanted / 2);
}

} // namespace
} // namespace pagoda::test
