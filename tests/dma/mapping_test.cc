#include "dma/mapping.h"

#include "dma/swiotlb.h"
#include "hugepage/options.h"
#include "lib/heap.h"
#include "tests/dma/soft.h"

#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <errno.h>
#include <fcntl.h>
#include <functional>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>

namespace pagoda::dma {
namespace {

using test::error_says;
using test::random_numbers;
using test::soft_device;

constexpr uint64_t kWide = ~uint64_t{0};

char static_memory[3 * 4096];

// Memory of one kind, for as long as it lives.
struct memory {
    const char *kind;
    size_t bytes;
    std::function<void *()> take;
    std::function<void(void *)> give;
};

void *map_file(size_t bytes) {
    char name[] = "/tmp/pagoda-dma-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    EXPECT_NE(p, MAP_FAILED);
    return p;
}
void *map_anonymous(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    return p;
}

std::vector<memory> all_kinds() {
    auto heap = [](size_t bytes) {
        return memory{"malloc", bytes, [=] { return heap_alloc(bytes, GFP_KERNEL); },
                      [](void *p) { heap_free(p, GFP_KERNEL); }};
    };
    auto slab = [](size_t bytes) {
        return memory{"kmalloc", bytes, [=] { return kmalloc(bytes, GFP_KERNEL); },
                      [](void *p) { kfree(p); }};
    };
    auto area = [](size_t bytes) {
        return memory{"vmalloc", bytes, [=] { return vmalloc(bytes); }, [](void *p) { vfree(p); }};
    };
    auto file = [](size_t bytes) {
        return memory{"file", bytes, [=] { return map_file(bytes); },
                      [=](void *p) { munmap(p, bytes); }};
    };
    auto anonymous = [](size_t bytes) {
        return memory{"anonymous", bytes, [=] { return map_anonymous(bytes); },
                      [=](void *p) { munmap(p, bytes); }};
    };
    return {heap(100),
            heap(3000),
            heap(70000),
            heap(300000),
            heap(5u << 20),
            slab(64),
            slab(8192),
            slab(1u << 20),
            area(3 * 4096),
            area(3u << 20),
            file(5 * 4096),
            file(1u << 20),
            anonymous(10000),
            anonymous(1u << 20),
            memory{"libc's malloc", 1000, [] { return malloc(1000); }, [](void *p) { free(p); }},
            memory{"static", sizeof static_memory, [] { return static_memory; }, [](void *) {}}};
}

std::string letters(size_t bytes, uint64_t seed) {
    std::string s(bytes, 0);
    for (size_t i = 0; i < bytes; i += 7)
        s[i] = static_cast<char>('a' + (seed + i / 7) % 26);
    return s;
}

// One buffer to the device and back: `bytes` at `offset` of memory that is `size` long.
void there_and_back(const soft_device &dev, char *p, size_t size, size_t offset, size_t bytes,
                    dma_data_direction dir) {
    std::string before = letters(size, bytes), sent = letters(bytes, bytes + 13);
    memcpy(p, before.data(), size);
    uint64_t live = dev.counters().live_mappings;
    dma_addr_t at = dma_map_single(dev, p + offset, bytes, dir);
    ASSERT_EQ(dma_mapping_error(dev, at), 0) << pagoda_device_error();
    ASSERT_LE(at + bytes - 1, dma_get_mask(dev));
    EXPECT_EQ(dev.counters().live_mappings, live + 1);
    if (dir != DMA_FROM_DEVICE) {
        EXPECT_TRUE(dev.reads(at, bytes) == before.substr(offset, bytes));
    }
    if (dir != DMA_TO_DEVICE) {
        EXPECT_EQ(dev.writes(at, sent), 0);
    }
    dma_unmap_single(dev, at, bytes, dir);
    EXPECT_EQ(dev.counters().live_mappings, live);
    std::string after = before;
    if (dir != DMA_TO_DEVICE)
        after.replace(offset, bytes, sent);
    EXPECT_TRUE(std::string(p, size) == after);
}

void every_way(const soft_device &dev, const memory &m, char *p) {
    if (m.bytes > 1u << 20) { // each page of it is slow
        SCOPED_TRACE(m.kind);
        there_and_back(dev, p, m.bytes, 1000, m.bytes - 2000, DMA_BIDIRECTIONAL);
        return;
    }
    for (dma_data_direction dir : {DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL}) {
        SCOPED_TRACE(std::string(m.kind) + " of " + std::to_string(m.bytes) + ", direction " +
                     std::to_string(dir));
        there_and_back(dev, p, m.bytes, 0, m.bytes, dir);
        there_and_back(dev, p, m.bytes, m.bytes / 3, m.bytes / 2, dir);
        there_and_back(dev, p, m.bytes, m.bytes - 1, 1, dir);
    }
}

// First, and in a child: the device zones hold what devices of both kinds reach, so that a process
// has one kind of them.
TEST(MappingWithoutIommu, AllIsBounced) {
    test::child_end end = test::in_child([] {
        pagoda_software_options options = {};
        options.no_iommu = true;
        soft_device dev(kWide, options);
        EXPECT_EQ(dma_max_mapping_size(dev), 256u << 10);
        uint64_t bounced = 0;
        for (const memory &m : all_kinds()) {
            if (m.bytes > 256u << 10)
                continue;
            auto *p = static_cast<char *>(m.take());
            every_way(dev, m, p);
            bounced += 9;
            EXPECT_EQ(dev.counters().bounced, bounced) << m.kind;
            m.give(p);
        }
        auto *p = static_cast<char *>(kmalloc(300000, GFP_KERNEL));
        EXPECT_EQ(dma_map_single(dev, p, 300000, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_TRUE(error_says("more than the 262144")) << pagoda_device_error();
        kfree(p);
        EXPECT_EQ(dma_map_resource(dev, 4096, 4096, DMA_TO_DEVICE, 0), DMA_MAPPING_ERROR);
    });
    EXPECT_TRUE(test::succeeded(end));
}

TEST(Mapping, EveryKindOfMemoryUnderEveryMask) {
    for (unsigned bits : {24u, 28u, 32u, 64u}) {
        SCOPED_TRACE(bits);
        soft_device dev(DMA_BIT_MASK(bits));
        char on_stack[3000];
        every_way(dev, {"stack", sizeof on_stack, {}, {}}, on_stack);
        for (const memory &m : all_kinds()) {
            if (bits == 24 && m.bytes > 1u << 20)
                continue; // such a device has 16 MiB of addresses, and some are taken
            auto *p = static_cast<char *>(m.take());
            ASSERT_NE(p, nullptr) << m.kind;
            every_way(dev, m, p);
            m.give(p);
        }
    }
}

TEST(Mapping, EveryKindOfMemoryInEveryMode) {
    for (pagoda_dma_mode mode : {PAGODA_DMA_STRICT, PAGODA_DMA_BOUNCE}) {
        SCOPED_TRACE(mode);
        soft_device dev;
        ASSERT_EQ(pagoda_dma_set_mode(dev, mode), 0);
        size_t most = dma_max_mapping_size(dev);
        EXPECT_EQ(most, mode == PAGODA_DMA_STRICT ? SIZE_MAX : 256u << 10);
        for (const memory &m : all_kinds()) {
            if (m.bytes > most)
                continue;
            auto *p = static_cast<char *>(m.take());
            ASSERT_NE(p, nullptr) << m.kind;
            every_way(dev, m, p);
            m.give(p);
        }
    }
    soft_device dev;
    EXPECT_EQ(pagoda_dma_set_mode(dev, static_cast<pagoda_dma_mode>(7)), -EINVAL);
}

TEST(Mapping, HeapMemoryIsMappedOncePerGranule) {
    soft_device dev;
    constexpr size_t kBuffers = 10000;
    std::vector<void *> buffer(kBuffers);
    for (void *&p : buffer)
        ASSERT_NE(p = heap_alloc(4096, GFP_KERNEL), nullptr);
    uint64_t before = dev.counters().map_calls;
    std::vector<dma_addr_t> at(kBuffers);
    for (size_t i = 0; i < kBuffers; i++)
        ASSERT_NE(at[i] = dma_map_single(dev, buffer[i], 4096, DMA_BIDIRECTIONAL),
                  DMA_MAPPING_ERROR);
    // 40 MB of objects lie on at most twice as many granules, whatever the heap looked like before.
    EXPECT_LE(dev.counters().map_calls - before, 40u);
    EXPECT_EQ(dev.counters().bounced, 0u);
    EXPECT_EQ(dev.counters().live_mappings, kBuffers);
    for (size_t i = 0; i < kBuffers; i++)
        dma_unmap_single(dev, at[i], 4096, DMA_BIDIRECTIONAL);
    before = dev.counters().map_calls;
    for (void *p : buffer) {
        dma_addr_t again = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
        ASSERT_NE(again, DMA_MAPPING_ERROR);
        dma_unmap_single(dev, again, 4096, DMA_TO_DEVICE);
    }
    EXPECT_EQ(dev.counters().map_calls, before);
    EXPECT_EQ(dev.counters().live_mappings, 0u);
    for (void *p : buffer)
        heap_free(p, GFP_KERNEL);
}

TEST(Mapping, ReachMapsAheadOfTime) {
    soft_device dev;
    char *p = static_cast<char *>(vmalloc(5u << 20));
    ASSERT_EQ(pagoda_dma_reach(dev, p, 5u << 20), 0) << pagoda_device_error();
    uint64_t before = dev.counters().map_calls;
    dma_addr_t at = dma_map_single(dev, p, 5u << 20, DMA_TO_DEVICE);
    ASSERT_NE(at, DMA_MAPPING_ERROR);
    EXPECT_EQ(dev.counters().map_calls, before);
    dma_unmap_single(dev, at, 5u << 20, DMA_TO_DEVICE);
    vfree(p);
    char on_stack[10];
    EXPECT_EQ(pagoda_dma_reach(dev, on_stack, sizeof on_stack), -EFAULT);
    EXPECT_TRUE(error_says("not memory")) << pagoda_device_error();
    soft_device narrow(DMA_BIT_MASK(28));
    void *object = kmalloc(64, GFP_KERNEL);
    EXPECT_EQ(pagoda_dma_reach(narrow, object, 64), -ERANGE);
    kfree(object);
}

TEST(Mapping, PartsOfABouncedBufferAreSynchronised) {
    soft_device dev;
    char p[4000];
    memset(p, 'a', sizeof p);
    dma_addr_t at = dma_map_single(dev, p, sizeof p, DMA_BIDIRECTIONAL);
    ASSERT_NE(at, DMA_MAPPING_ERROR);
    EXPECT_TRUE(dma_need_sync(dev, at));
    EXPECT_TRUE(dma_need_unmap(dev));
    EXPECT_EQ(dev.counters().bounced, 1u);
    EXPECT_EQ(dev.counters().bounce_bytes, 4096u);
    ASSERT_EQ(dev.writes(at, std::string(4000, 'b')), 0);
    EXPECT_EQ(p[0], 'a');
    dma_sync_single_for_cpu(dev, at, 10, DMA_FROM_DEVICE);
    EXPECT_EQ(std::string(p, 12), "bbbbbbbbbbaa");
    dma_sync_single_range_for_cpu(dev, at, 3000, 10, DMA_BIDIRECTIONAL);
    EXPECT_EQ(p[2999], 'a');
    EXPECT_EQ(std::string(p + 3000, 11), "bbbbbbbbbba");
    p[0] = 'c';
    p[1999] = p[2000] = 'c';
    dma_sync_single_for_device(dev, at, 10, DMA_FROM_DEVICE); // nothing of the program's
    EXPECT_EQ(dev.reads(at, 1), "b");
    dma_sync_single_range_for_device(dev, at, 2000, 1, DMA_TO_DEVICE);
    EXPECT_EQ(dev.reads(at + 1999, 3), "bcb");
    dma_sync_single_for_cpu(dev, at, 4000, DMA_TO_DEVICE); // nothing of the device's
    EXPECT_EQ(p[1999], 'c');
    dma_unmap_single_attrs(dev, at, sizeof p, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
    EXPECT_EQ(p[3500], 'a');
    EXPECT_EQ(dev.counters().bounce_bytes, 0u);
    EXPECT_EQ(dev.counters().bounced, 1u);
}

TEST(Mapping, HeapMemoryNeedsNoSynchronisation) {
    soft_device dev;
    auto *p = static_cast<char *>(kmalloc(256, GFP_KERNEL));
    dma_addr_t at = dma_map_single(dev, p, 256, DMA_BIDIRECTIONAL);
    ASSERT_NE(at, DMA_MAPPING_ERROR);
    EXPECT_FALSE(dma_need_sync(dev, at));
    ASSERT_EQ(dev.writes(at, "written"), 0);
    dma_sync_single_for_cpu(dev, at, 256, DMA_BIDIRECTIONAL);
    EXPECT_EQ(std::string(p, 7), "written");
    dma_unmap_single(dev, at, 256, DMA_BIDIRECTIONAL);
    kfree(p);
}

TEST(Mapping, ABounceKeepsTheBitsOfTheAddress) {
    soft_device dev;
    dma_set_min_align_mask(dev, 4095);
    char p[8192];
    for (size_t offset : {0u, 1u, 100u, 2047u, 2048u, 4000u}) {
        dma_addr_t at = dma_map_single(dev, p + offset, 3000, DMA_TO_DEVICE);
        ASSERT_NE(at, DMA_MAPPING_ERROR);
        EXPECT_EQ((at ^ reinterpret_cast<uintptr_t>(p + offset)) & 4095, 0u);
        dma_unmap_single(dev, at, 3000, DMA_TO_DEVICE);
    }
}

TEST(Mapping, StrictModeEnforcesDirections) {
    soft_device dev;
    ASSERT_EQ(pagoda_dma_set_mode(dev, PAGODA_DMA_STRICT), 0);
    for (size_t bytes : {4096u, 8192u, 100u, 5000u}) {
        auto *p = static_cast<char *>(kmalloc(8192, GFP_KERNEL)); // begins on a page
        memset(p, 'a', 8192);
        dma_addr_t at = dma_map_single(dev, p, bytes, DMA_TO_DEVICE);
        ASSERT_NE(at, DMA_MAPPING_ERROR);
        EXPECT_EQ(dev.reads(at, bytes), std::string(bytes, 'a'));
        EXPECT_EQ(dev.writes(at, "x"), bytes % 4096 == 0 ? -EFAULT : 0);
        dma_unmap_single(dev, at, bytes, DMA_TO_DEVICE);
        EXPECT_EQ(std::string(p, 8192), std::string(8192, 'a'));
        EXPECT_EQ(dev.reads(at, 1), bytes % 4096 == 0 ? "" : dev.reads(at, 1));
        kfree(p);
    }
    auto *p = static_cast<char *>(kmalloc(4096, GFP_KERNEL));
    dma_addr_t at = dma_map_single(dev, p, 4096, DMA_FROM_DEVICE);
    EXPECT_EQ(dev.reads(at, 1), "") << "it may only write";
    EXPECT_EQ(dev.writes(at, "x"), 0);
    EXPECT_EQ(*p, 'x');
    dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
    EXPECT_NE(dev.writes(at, "y"), 0) << "unmapped";
    EXPECT_EQ(*p, 'x');
    kfree(p);
}

TEST(Mapping, PagesAndPhysicalAddresses) {
    soft_device dev;
    struct page *page = alloc_pages(GFP_KERNEL, 1);
    auto *p = static_cast<char *>(page_address(page));
    strcpy(p + 5000, "on the second page");
    dma_addr_t at = dma_map_page(dev, page, 5000, 19, DMA_TO_DEVICE);
    EXPECT_STREQ(dev.reads(at, 19).c_str(), "on the second page");
    dma_unmap_page(dev, at, 19, DMA_TO_DEVICE);
    at = dma_map_phys(dev, reinterpret_cast<uintptr_t>(p + 5000), 19, DMA_TO_DEVICE, 0);
    EXPECT_STREQ(dev.reads(at, 19).c_str(), "on the second page");
    dma_unmap_phys(dev, at, 19, DMA_TO_DEVICE, 0);
    __free_pages(page, 1);
}

TEST(Mapping, ResourcesAreMappedAsTheyAre) {
    soft_device dev;
    auto *bar = static_cast<char *>(map_anonymous(8192)); // stands for a device's memory
    auto at_bar = reinterpret_cast<uintptr_t>(bar);
    dma_addr_t at = dma_map_resource(dev, at_bar + 16, 64, DMA_BIDIRECTIONAL, 0);
    ASSERT_NE(at, DMA_MAPPING_ERROR) << pagoda_device_error();
    EXPECT_FALSE(dma_need_sync(dev, at));
    EXPECT_EQ(dev.writes(at, "to a register"), 0);
    EXPECT_STREQ(bar + 16, "to a register");
    dma_unmap_resource(dev, at, 64, DMA_BIDIRECTIONAL, 0);
    at = dma_map_phys(dev, at_bar, 8192, DMA_TO_DEVICE, DMA_ATTR_MMIO);
    EXPECT_EQ(dev.writes(at, "x"), -EFAULT);
    dma_unmap_phys(dev, at, 8192, DMA_TO_DEVICE, DMA_ATTR_MMIO);
    munmap(bar, 8192);
    void *object = kmalloc(100, GFP_KERNEL);
    EXPECT_EQ(dma_map_resource(dev, reinterpret_cast<uintptr_t>(object), 100, DMA_TO_DEVICE, 0),
              DMA_MAPPING_ERROR)
        << "memory is no resource";
    kfree(object);
    EXPECT_EQ(dma_map_resource(dev, 0, 100, DMA_TO_DEVICE, 0), DMA_MAPPING_ERROR);
    EXPECT_EQ(dev.counters().live_mappings, 0u);
}

TEST(Mapping, RefusesWhatIsNoBuffer) {
    soft_device dev;
    char p[10];
    EXPECT_EQ(dma_map_single(dev, nullptr, 10, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
    EXPECT_EQ(dma_map_single(dev, p, 0, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
    EXPECT_EQ(dma_map_single(dev, p, 10, DMA_NONE), DMA_MAPPING_ERROR);
    EXPECT_EQ(dma_map_single(dev, p, SIZE_MAX, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
    EXPECT_TRUE(error_says("no memory, no bytes or no direction")) << pagoda_device_error();
    EXPECT_EQ(dma_mapping_error(dev, DMA_MAPPING_ERROR), -ENOMEM);
    EXPECT_EQ(dma_mapping_error(dev, 0), 0);
    void *object = kmalloc(64, GFP_KERNEL);
    EXPECT_EQ(dma_map_single(dev, object, 4096, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
    EXPECT_TRUE(error_says("ends before")) << pagoda_device_error();
    EXPECT_EQ(errno, ERANGE);
    kfree(object);
    EXPECT_EQ(dev.counters().live_mappings, 0u);
}

TEST(Mapping, AFailureOfTheIommuLeavesNothingBehind) {
    soft_device dev;
    char *area = static_cast<char *>(vmalloc(4u << 20));
    char *other = static_cast<char *>(map_anonymous(1u << 20));
    for (int error : {-ENOMEM, -ENOSPC, -EINVAL}) {
        pagoda_dma_counters before = dev.counters();
        pagoda_software_fail_maps(dev, 0, 1000, error);
        errno = 0;
        EXPECT_EQ(dma_map_single(dev, area, 4u << 20, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_EQ(errno, -error);
        EXPECT_STRNE(pagoda_device_error(), "");
        EXPECT_EQ(dma_map_single(dev, other, 1u << 20, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_EQ(dma_map_resource(dev, reinterpret_cast<uintptr_t>(other), 4096, DMA_TO_DEVICE, 0),
                  DMA_MAPPING_ERROR);
        pagoda_software_fail_maps(dev, 0, 0, 0);
        EXPECT_EQ(dev.counters().mapped_bytes, before.mapped_bytes);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        EXPECT_EQ(dev.counters().bounce_bytes, 0u);
    }
    there_and_back(dev, area, 4u << 20, 0, 4u << 20, DMA_BIDIRECTIONAL);
    there_and_back(dev, other, 1u << 20, 0, 1u << 20, DMA_BIDIRECTIONAL);
    vfree(area);
    munmap(other, 1u << 20);
}

// A device that still reaches memory writes to nobody else's.
TEST(Mapping, WhatTheIommuDoesNotLetGoOfIsNotHandedOutAgain) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        ASSERT_EQ(pagoda_dma_set_mode(dev, PAGODA_DMA_STRICT), 0);
        void *p = kmalloc(4096, GFP_KERNEL);
        dma_addr_t at = dma_map_single(dev, p, 4096, DMA_FROM_DEVICE);
        pagoda_software_fail_unmaps(dev, 0, 1, -EIO);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
        EXPECT_EQ(dev.writes(at, "late"), 0);
        EXPECT_EQ(dev.counters().live_mappings, 1u);
        kfree(p);
        for (int i = 0; i < 1000; i++)
            EXPECT_NE(kmalloc(4096, GFP_KERNEL), p);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE); // now it does
        EXPECT_EQ(dev.writes(at, "too late"), -EFAULT);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        EXPECT_EQ(dev.counters().mapped_bytes, 0u);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors; // and the free
    EXPECT_TRUE(end.said("(4096 bytes) stays mapped")) << end.errors;
}

// A failure that another way made good is not the reason of the next one.
TEST(Mapping, ExplainsTheFailureAtHand) {
    soft_device dev;
    ASSERT_EQ(pagoda_dma_set_mode(dev, PAGODA_DMA_STRICT), 0);
    void *p = kmalloc(512 << 10, GFP_KERNEL); // longer than a copy may be
    fail(ENOMEM, "of long ago");
    keep_sentence(ENOMEM);
    pagoda_software_fail_maps(dev, 0, 1, -ENOMEM);
    EXPECT_EQ(dma_map_single(dev, p, 512 << 10, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
    EXPECT_TRUE(error_says("524288 bytes cannot be mapped")) << pagoda_device_error();
    kfree(p);
}

TEST(Mapping, WithoutADirectionNothingIsDone) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        char foreign[100] = "foreign";
        void *p = kmalloc(100, GFP_KERNEL);
        for (void *at : {p, static_cast<void *>(foreign)}) {
            dma_addr_t address = dma_map_single(dev, at, 100, DMA_BIDIRECTIONAL);
            dma_sync_single_for_cpu(dev, address, 100, DMA_NONE);
            dma_sync_single_for_device(dev, address, 100, DMA_NONE);
            dma_unmap_single(dev, address, 100, DMA_NONE);
            EXPECT_EQ(dev.counters().live_mappings, 1u);
            dma_unmap_single(dev, address, 100, DMA_BIDIRECTIONAL);
        }
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        kfree(p);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 6u) << end.errors;
    EXPECT_TRUE(end.said("without a direction")) << end.errors;
}

TEST(Mapping, SaysWhatIsUnmappedWrongly) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        char small[100] = "contents";
        auto *big = static_cast<char *>(map_anonymous(1u << 20));
        dma_addr_t at = dma_map_single(dev, small, sizeof small, DMA_TO_DEVICE);
        dma_unmap_single(dev, at + 1, 99, DMA_TO_DEVICE);
        dma_unmap_single(dev, at, 99, DMA_TO_DEVICE);
        dma_unmap_single(dev, at, 100, DMA_TO_DEVICE);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        at = dma_map_single(dev, big, 1u << 20, DMA_FROM_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
        dma_unmap_single(dev, at, 1u << 20, DMA_FROM_DEVICE);
        dma_sync_single_for_cpu(dev, at, 4096, DMA_FROM_DEVICE);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 6u) << end.errors;
    EXPECT_TRUE(end.said("is not the beginning of a mapping")) << end.errors;
    EXPECT_TRUE(end.said("with 99 bytes and was mapped with 100")) << end.errors;
    EXPECT_TRUE(end.said("with 4096 bytes and was mapped with 1048576")) << end.errors;
    EXPECT_TRUE(end.said("was not mapped")) << end.errors;
    EXPECT_TRUE(end.said("is synchronised and is not mapped")) << end.errors;
}

// The heap's memory has no record: what tells is the object's counter.
TEST(Mapping, SaysWhatOfTheHeapIsUnmappedTwice) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        for (const memory &m : all_kinds()) {
            auto *p = static_cast<char *>(m.take());
            dma_addr_t at = dma_map_single(dev, p, m.bytes, DMA_TO_DEVICE);
            ASSERT_FALSE(dma_mapping_error(dev, at)) << m.kind;
            dma_unmap_single(dev, at, m.bytes, DMA_TO_DEVICE);
            dma_unmap_single(dev, at, m.bytes, DMA_TO_DEVICE);
            EXPECT_EQ(dev.counters().live_mappings, 0u) << m.kind;
            m.give(p);
        }
    });
    EXPECT_TRUE(test::succeeded(end)) << end.errors;
    EXPECT_EQ(end.lines(), all_kinds().size()) << end.errors;
}

TEST(Mapping, RefusesWhatWasFreed) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        auto refused = [&](void *p, size_t bytes) {
            EXPECT_TRUE(dma_mapping_error(dev, dma_map_single(dev, p, bytes, DMA_FROM_DEVICE)));
            EXPECT_TRUE(error_says("freed")) << pagoda_device_error();
        };
        for (size_t bytes : {64u, 4096u, 70'000u, 3u << 20}) {
            void *p = kvmalloc(bytes, GFP_KERNEL);
            dma_addr_t at = dma_map_single(dev, p, bytes, DMA_FROM_DEVICE);
            kvfree(p); // put off, and reported
            refused(p, bytes);
            dma_unmap_single(dev, at, bytes, DMA_FROM_DEVICE);
        }
        void *area = vmalloc(3u << 20);
        vfree(area);
        refused(area, 3u << 20);
        void *run = kvmalloc(70'000, GFP_KERNEL);
        kvfree(run);
        heap_trim(0); // or a CPU's cache has it, as if it were in use
        refused(run, 70'000);
        unsigned long low = __get_free_page(GFP_KERNEL | GFP_DMA32);
        free_page(low);
        refused(reinterpret_cast<void *>(low), 4096);
        EXPECT_EQ(dev.counters().bounced, 0u);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
    });
    EXPECT_TRUE(test::succeeded(end)) << end.errors;
    EXPECT_EQ(end.lines(), 4u) << end.errors;
}

TEST(Mapping, SaysWhatWasNotUndone) {
    test::child_end end = test::in_child([] {
        auto *object = kmalloc(64, GFP_KERNEL);
        auto *big = static_cast<char *>(map_anonymous(1u << 20));
        {
            soft_device dev;
            EXPECT_NE(dma_map_single(dev, object, 64, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
            EXPECT_NE(dma_map_single(dev, big, 1u << 20, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        }
        soft_device next; // may have its address space at the same place
        dma_addr_t at = dma_map_single(next, big, 1u << 20, DMA_TO_DEVICE);
        EXPECT_NE(at, DMA_MAPPING_ERROR);
        dma_unmap_single(next, at, 1u << 20, DMA_TO_DEVICE);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("closed with 2 streaming mappings")) << end.errors;
    EXPECT_TRUE(end.said("closed with 1 pieces of memory")) << end.errors;
}

TEST(Mapping, AForkChildIsRefusedAndHurtsNobody) {
    soft_device dev;
    char p[100] = "the parent's";
    dma_addr_t at = dma_map_single(dev, p, sizeof p, DMA_BIDIRECTIONAL);
    test::child_end end = test::in_child([&] {
        char q[10];
        EXPECT_EQ(dma_map_single(dev, q, sizeof q, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_EQ(errno, ENODEV);
        EXPECT_TRUE(error_says("fork")) << pagoda_device_error();
        EXPECT_EQ(pagoda_dma_reach(dev, q, sizeof q), -ENODEV);
        dma_sync_single_for_cpu(dev, at, sizeof p, DMA_BIDIRECTIONAL);
        dma_unmap_single(dev, at, sizeof p, DMA_BIDIRECTIONAL);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
    EXPECT_STREQ(dev.reads(at, sizeof p).c_str(), "the parent's");
    dma_unmap_single(dev, at, sizeof p, DMA_BIDIRECTIONAL);
}

// The device goes on writing into an object that the program has freed or reallocated.
TEST(Mapping, FreedMemoryStaysTheDevicesUntilItIsUnmapped) {
    test::child_end end = test::in_child([] {
        mutable_options().on_error = error_policy::report;
        for (size_t bytes : {64u, 3000u, 100000u, 3u << 20}) {
            soft_device dev;
            auto *p = static_cast<char *>(heap_alloc(bytes, GFP_KERNEL));
            dma_addr_t at = dma_map_single(dev, p, bytes, DMA_FROM_DEVICE);
            ASSERT_NE(at, DMA_MAPPING_ERROR) << pagoda_device_error();
            heap_free(p, GFP_KERNEL);
            std::vector<char *> others;
            for (int i = 0; i < 100; i++) {
                others.push_back(static_cast<char *>(heap_alloc(bytes, GFP_KERNEL)));
                EXPECT_NE(others.back(), p);
                memset(others.back(), 'a', min_of(bytes, size_t{8192}));
            }
            heap_trim(0);
            EXPECT_EQ(dev.writes(at, std::string(bytes, 'x')), 0);
            for (char *other : others)
                EXPECT_EQ(std::string(other, 64), std::string(64, 'a'));
            dma_unmap_single(dev, at, bytes, DMA_FROM_DEVICE);
            for (char *other : others)
                heap_free(other, GFP_KERNEL);

            p = static_cast<char *>(heap_alloc(bytes, GFP_KERNEL));
            at = dma_map_single(dev, p, bytes, DMA_FROM_DEVICE);
            auto *moved = static_cast<char *>(heap_realloc(p, 4 * bytes, GFP_KERNEL));
            ASSERT_NE(moved, nullptr);
            if (moved != p) {
                memset(moved, 'b', 4 * bytes);
                EXPECT_EQ(dev.writes(at, std::string(bytes, 'x')), 0);
                EXPECT_EQ(std::string(moved, 64), std::string(64, 'b'));
            }
            dma_unmap_single(dev, at, bytes, DMA_FROM_DEVICE);
            heap_free(moved, GFP_KERNEL);
        }
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_GE(end.lines(), 4u) << end.errors;
}

// Of memory that is mapped already.
TEST(Mapping, MakesNoSystemCall) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        auto *p = static_cast<char *>(kmalloc(4096, GFP_KERNEL));
        dma_addr_t at = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
        sock_filter all_but_exit[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        sock_fprog program = {4, all_but_exit};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
            _exit(3);
        bool good = true;
        for (int i = 0; i < 100000; i++) {
            at = dma_map_single(dev, p, 4096, DMA_TO_DEVICE);
            good &= at != DMA_MAPPING_ERROR;
            dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
        }
        _exit(good ? 0 : 1);
    });
    EXPECT_TRUE(test::succeeded(end));
}

TEST(Mapping, ThreadsMapAndUnmapAtOnce) {
    soft_device dev(DMA_BIT_MASK(64));
    std::atomic<unsigned> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++)
        threads.emplace_back([&, t] {
            random_numbers random(t + 1);
            char on_stack[500];
            for (int i = 0; i < 3000; i++) {
                size_t bytes = 1 + random.skewed(13);
                bool mine = bytes <= sizeof on_stack && random.one_in(3);
                auto *p = mine ? on_stack : static_cast<char *>(heap_alloc(bytes, GFP_KERNEL));
                memset(p, 'a', bytes);
                dma_addr_t at = dma_map_single(dev, p, bytes, DMA_BIDIRECTIONAL);
                wrong += at == DMA_MAPPING_ERROR;
                wrong += dev.reads(at, bytes) != std::string(bytes, 'a');
                wrong += dev.writes(at, std::string(bytes, 'b')) != 0;
                dma_unmap_single(dev, at, bytes, DMA_BIDIRECTIONAL);
                wrong += std::string(p, bytes) != std::string(bytes, 'b');
                if (!mine)
                    heap_free(p, GFP_KERNEL);
            }
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(dev.counters().live_mappings, 0u);
}

} // namespace
} // namespace pagoda::dma
