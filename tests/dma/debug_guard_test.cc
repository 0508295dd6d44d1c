#include "dma/debug_guard.h"

#include "tests/dma/debugged.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sys/mman.h>

namespace pagoda::dma {
namespace {

using test::map_well;

constexpr char kPoison = static_cast<char>(kDevicesByte);

template <class F> test::child_end guarded_by(F body, pagoda_dma_mode mode = PAGODA_DMA_GRANULES) {
    return test::debugged(body, PAGODA_DMA_DEBUG_GUARD, mode);
}

volatile char *seen(char *p) { return p; }
bool all(const char *p, size_t bytes, char c) {
    return std::string(p, bytes) == std::string(bytes, c);
}

TEST(Guard, AReadOfWhatTheDeviceWillWriteIsReportedAtOnce) {
    for (dma_data_direction dir : {DMA_FROM_DEVICE, DMA_BIDIRECTIONAL}) {
        test::child_end end = guarded_by([=](device *dev, char *p) {
            p[9000] = 'a';
            dma_addr_t at = map_well(dev, p, 32768, dir);
            EXPECT_EQ(seen(p)[9000], kPoison);
            EXPECT_EQ(seen(p)[9001], kPoison); // once is enough
            EXPECT_EQ(pagoda_software_dma_write(dev, at + 9000, "xyz", 3), 0);
            dma_unmap_single(dev, at, 32768, dir);
            EXPECT_EQ(std::string(p + 8999, 5), std::string("\0xyz\0", 5));
        });
        EXPECT_SAYS(end, "software: the processor reads 0x");
        EXPECT_TRUE(end.said(", byte 9000 of the 32768 at 0x")) << end.errors;
        EXPECT_TRUE(end.said("mapped from 0x")) << end.errors;
        EXPECT_TRUE(end.said("by the instruction at 0x")) << end.errors;
    }
}

TEST(Guard, AWriteIsReportedAtOnceAndReadsMayBe) {
    for (pagoda_dma_mode mode : {PAGODA_DMA_GRANULES, PAGODA_DMA_STRICT, PAGODA_DMA_BOUNCE}) {
        test::child_end end = guarded_by(
            [](device *dev, char *p) {
                strcpy(p + 9000, "for the device");
                dma_addr_t at = map_well(dev, p, 32768, DMA_TO_DEVICE);
                EXPECT_STREQ(p + 9000, "for the device");
                seen(p)[9000] = 'F';
                char found[15];
                EXPECT_EQ(pagoda_software_dma_read(dev, at + 9000, found, sizeof found), 0);
                EXPECT_STREQ(found, "for the device"); // it has a copy
                dma_unmap_single(dev, at, 32768, DMA_TO_DEVICE);
                EXPECT_STREQ(p + 9000, "For the device");
            },
            mode);
        EXPECT_SAYS(end, "the processor writes 0x");
    }
}

TEST(Guard, OnErrorAbortEndsTheProcessAtTheInstruction) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        (void)map_well(dev, p, 32768, DMA_FROM_DEVICE);
        parse_options("on_error=abort");
        seen(p)[9000] = 1;
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_EQ(end.lines(), 1u) << end.errors;
}

TEST(Guard, AShortBufferIsPoisonedAndItsNeighboursAreNot) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        memset(p, 'n', 4096);
        dma_addr_t at = map_well(dev, p + 100, 50, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p + 100, 50, kPoison));
        EXPECT_TRUE(all(p, 100, 'n') && all(p + 150, 100, 'n'));
        p[99] = p[150] = 'm';
        EXPECT_EQ(pagoda_software_dma_write(dev, at + 7, "abc", 3), 0);
        dma_unmap_single(dev, at, 50, DMA_FROM_DEVICE);
        EXPECT_EQ(std::string(p + 98, 54),
                  "nm" + std::string(7, 'n') + "abc" + std::string(40, 'n') + "mn");
    });
    EXPECT_SAYS_NOTHING(end);
    end = guarded_by([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p + 100, 50, DMA_BIDIRECTIONAL);
        p[107] = 'w';
        dma_unmap_single(dev, at, 50, DMA_BIDIRECTIONAL);
    });
    EXPECT_SAYS(end, "software: byte 7 of the 50 at 0x");
    EXPECT_TRUE(end.said("was written by the processor while they were the device's: found from"))
        << end.errors;
    end = guarded_by([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p + 100, 50, DMA_TO_DEVICE);
        p[107] = 'w';
        dma_unmap_single(dev, at, 50, DMA_TO_DEVICE);
    });
    EXPECT_SAYS(end, "software: the 50 bytes at 0x");
}

TEST(Guard, OwnershipGoesToAndFro) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 32768, DMA_BIDIRECTIONAL);
        for (int round = 0; round < 3; round++) {
            EXPECT_EQ(pagoda_software_dma_write(dev, at + 9000, "from", 5), 0);
            EXPECT_TRUE(dma_need_sync(dev, at));
            dma_sync_single_for_cpu(dev, at, 32768, DMA_BIDIRECTIONAL);
            EXPECT_STREQ(p + 9000, "from");
            strcpy(p + 20000, "to");
            dma_sync_single_for_device(dev, at, 32768, DMA_BIDIRECTIONAL);
            char found[3];
            EXPECT_EQ(pagoda_software_dma_read(dev, at + 20000, found, 3), 0);
            EXPECT_STREQ(found, "to");
        }
        EXPECT_EQ(seen(p)[9000], kPoison); // closed again
        dma_unmap_single(dev, at, 32768, DMA_BIDIRECTIONAL);
        EXPECT_STREQ(p + 9000, "from");
        EXPECT_STREQ(p + 20000, "to");
    });
    EXPECT_SAYS(end, "the processor reads");
}

TEST(Guard, PartsHaveOwners) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 300, DMA_FROM_DEVICE);
        EXPECT_EQ(pagoda_software_dma_write(dev, at, std::string(300, 'd').data(), 300), 0);
        dma_sync_single_range_for_cpu(dev, at, 100, 100, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p, 100, kPoison) && all(p + 100, 100, 'd') && all(p + 200, 100, kPoison));
        p[150] = 'p';
        dma_sync_single_range_for_device(dev, at, 150, 50, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p + 100, 50, 'd') && all(p + 150, 150, kPoison));
        dma_unmap_single_attrs(dev, at, 300, DMA_FROM_DEVICE, DMA_ATTR_SKIP_CPU_SYNC);
        EXPECT_TRUE(all(p, 300, 'd'));
    });
    EXPECT_SAYS_NOTHING(end);
}

TEST(Guard, SeveralPartsAreTheProcessorsAtOnce) {
    const std::string data(300, 'd');
    test::child_end end = guarded_by([&](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 300, DMA_FROM_DEVICE);
        EXPECT_EQ(pagoda_software_dma_write(dev, at, data.data(), 300), 0);
        dma_sync_single_range_for_cpu(dev, at, 0, 50, DMA_FROM_DEVICE);
        dma_sync_single_range_for_cpu(dev, at, 200, 50, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p, 50, 'd') && all(p + 50, 150, kPoison) && all(p + 200, 50, 'd'));
        dma_unmap_single(dev, at, 300, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p, 300, 'd'));
    });
    EXPECT_SAYS_NOTHING(end);
    end = guarded_by([&](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 300, DMA_FROM_DEVICE);
        EXPECT_EQ(pagoda_software_dma_write(dev, at, data.data(), 300), 0);
        dma_sync_single_for_cpu(dev, at, 300, DMA_FROM_DEVICE);
        dma_sync_single_range_for_device(dev, at, 100, 50, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p, 100, 'd') && all(p + 100, 50, kPoison) && all(p + 150, 150, 'd'));
        dma_unmap_single(dev, at, 300, DMA_FROM_DEVICE);
        EXPECT_TRUE(all(p, 300, 'd'));
    });
    EXPECT_SAYS_NOTHING(end);
    end = guarded_by([&](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 300, DMA_BIDIRECTIONAL);
        EXPECT_EQ(pagoda_software_dma_write(dev, at, data.data(), 300), 0);
        dma_sync_single_range_for_cpu(dev, at, 0, 50, DMA_BIDIRECTIONAL);
        dma_sync_single_range_for_cpu(dev, at, 200, 50, DMA_BIDIRECTIONAL);
        p[0] = p[249] = 'p';
        dma_sync_single_range_for_device(dev, at, 0, 250, DMA_BIDIRECTIONAL);
        std::string found(300, 0);
        EXPECT_EQ(pagoda_software_dma_read(dev, at, found.data(), 300), 0);
        EXPECT_EQ(found, "p" + std::string(248, 'd') + "p" + std::string(50, 'd'));
        dma_unmap_single(dev, at, 300, DMA_BIDIRECTIONAL);
        EXPECT_EQ(std::string(p, 300), found);
    });
    EXPECT_SAYS_NOTHING(end);
    // The rest is still the device's, and looked at.
    end = guarded_by([&](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 300, DMA_FROM_DEVICE);
        dma_sync_single_range_for_cpu(dev, at, 0, 50, DMA_FROM_DEVICE);
        dma_sync_single_range_for_cpu(dev, at, 200, 50, DMA_FROM_DEVICE);
        p[20] = p[100] = p[220] = 'p';
        dma_unmap_single(dev, at, 300, DMA_FROM_DEVICE);
    });
    EXPECT_SAYS(end, "byte 100 of the 300");
}

TEST(Guard, WhoOnlyReadsSeesWhatTheDeviceWritesNext) {
    for (dma_data_direction dir : {DMA_FROM_DEVICE, DMA_BIDIRECTIONAL})
        EXPECT_SAYS_NOTHING(guarded_by([dir](device *dev, char *p) {
            dma_addr_t at = map_well(dev, p, 300, dir);
            for (char c : {'1', '2'}) { // nothing is to be given back in between
                EXPECT_EQ(pagoda_software_dma_write(dev, at + 7, &c, 1), 0);
                dma_sync_single_for_cpu(dev, at, 300, dir);
                EXPECT_EQ(seen(p)[7], c);
            }
            dma_unmap_single(dev, at, 300, dir);
        }));
}

TEST(Guard, WhatIsFreedMeanwhileIsFreedAfterwards) {
    test::child_end end = guarded_by([](device *dev, char *) {
        void *p = kmalloc(32768, GFP_KERNEL);
        dma_addr_t at = map_well(dev, p, 32768, DMA_FROM_DEVICE);
        kfree(p);
        dma_unmap_single(dev, at, 32768, DMA_FROM_DEVICE);
        for (int i = 0; i < 100; i++) // its pages are open for whoever is next
            kfree(memset(kmalloc(32768, GFP_KERNEL), i, 32768));
    });
    EXPECT_EQ(end.lines(), 1u) << end.errors; // of the free
    EXPECT_FALSE(end.said("the processor")) << end.errors;
}

TEST(Guard, LongOnesAndThoseWithoutAnIommuAreGuarded) {
    test::child_end end = guarded_by([](device *dev, char *) {
        constexpr size_t kLong = 5 << 20;
        auto *p = static_cast<char *>(kvmalloc(kLong, GFP_KERNEL));
        dma_addr_t at = map_well(dev, p, kLong, DMA_FROM_DEVICE);
        EXPECT_EQ(seen(p)[3 << 20], kPoison);
        EXPECT_EQ(pagoda_software_dma_write(dev, at + (3 << 20), "x", 1), 0);
        dma_unmap_single(dev, at, kLong, DMA_FROM_DEVICE);
        EXPECT_EQ(p[3 << 20], 'x');
        kvfree(p);
        pagoda_software_options options = {};
        options.no_iommu = true;
        test::soft_device physical(~uint64_t{0}, options);
        EXPECT_EQ(pagoda_dma_debug(physical, PAGODA_DMA_DEBUG_GUARD), 0);
        p = static_cast<char *>(kmalloc(32768, GFP_KERNEL));
        at = map_well(physical, p, 32768, DMA_FROM_DEVICE);
        EXPECT_EQ(pagoda_software_dma_write(physical, at + 9000, "y", 1), 0);
        EXPECT_EQ(seen(p)[9000], kPoison);
        dma_unmap_single(physical, at, 32768, DMA_FROM_DEVICE);
        EXPECT_EQ(p[9000], 'y');
        kfree(p);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
}

TEST(Guard, ForeignMemoryIsPoisonedOnly) {
    test::child_end end = guarded_by([](device *dev, char *) {
        static char pages[32768];
        dma_addr_t at = map_well(dev, pages, sizeof pages, DMA_FROM_DEVICE);
        EXPECT_EQ(seen(pages)[9000], kPoison);
        EXPECT_EQ(pagoda_software_dma_write(dev, at + 9000, "x", 1), 0);
        dma_unmap_single(dev, at, sizeof pages, DMA_FROM_DEVICE);
        EXPECT_EQ(pages[9000], 'x');
    });
    EXPECT_SAYS_NOTHING(end);
}

TEST(Guard, AMappingThatFailsLeavesTheBufferAlone) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        memset(p, 'k', test::kDebugged);
        pagoda_software_fail_maps(dev, 0, 1000, -ENOSPC);
        EXPECT_EQ(pagoda_dma_set_mode(dev, PAGODA_DMA_STRICT), 0);
        EXPECT_EQ(dma_map_single(dev, p, 8192, DMA_NONE), DMA_MAPPING_ERROR);
        EXPECT_EQ(dma_map_single(dev, p, 1 << 30, DMA_FROM_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_EQ(dma_map_single(dev, nullptr, 1, DMA_FROM_DEVICE), DMA_MAPPING_ERROR);
        void *p2 = kvmalloc(1 << 20, GFP_KERNEL);
        EXPECT_EQ(dma_map_single(dev, p2, 1 << 20, DMA_FROM_DEVICE), DMA_MAPPING_ERROR);
        memset(p2, 'k', 1 << 20);
        kvfree(p2);
        EXPECT_TRUE(all(p, test::kDebugged, 'k'));
    });
    EXPECT_SAYS_NOTHING(end);
}

TEST(Guard, SystemCallsFailAndAChildOfForkMayTouch) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 32768, DMA_FROM_DEVICE);
        int zero = open("/dev/zero", O_RDONLY);
        EXPECT_EQ(read(zero, p + 9000, 1), -1);
        EXPECT_EQ(errno, EFAULT);
        close(zero);
        EXPECT_SAYS_NOTHING(test::in_child([&] { seen(p)[9000] = 1; }));
        dma_unmap_single(dev, at, 32768, DMA_FROM_DEVICE);
        EXPECT_EQ(p[9000], 0);
    });
    EXPECT_SAYS_NOTHING(end);
}

// The zone grows behind closed pages, and the new ones are open.
TEST(Guard, TheHeapGrowsAroundClosedPages) {
    test::child_end end = guarded_by([](device *dev, char *) {
        std::vector<std::pair<void *, dma_addr_t>> mapped;
        for (int i = 0; i < 200; i++) {
            void *p = memset(kmalloc(65536, GFP_KERNEL), 1, 65536);
            mapped.emplace_back(p, map_well(dev, p, 65536, DMA_FROM_DEVICE));
        }
        for (auto &[p, at] : mapped) {
            dma_unmap_single(dev, at, 65536, DMA_FROM_DEVICE);
            kfree(p);
        }
    });
    EXPECT_SAYS_NOTHING(end);
}

// A mapped buffer, what it would hold without a guard, and a letter for each byte's owner: the
// device, the processor, or the processor that has written to it.
struct shared_buffer {
    device *dev;
    char *p;
    dma_addr_t at;
    dma_data_direction dir;
    std::string model, owners;

    template <class F> void each_run(const char *of, size_t from, size_t bytes, F f) {
        for (size_t to, end = from + bytes; from < end; from = to) {
            to = from + 1;
            if (strchr(of, owners[from]) == nullptr)
                continue;
            while (to < end && strchr(of, owners[to]) != nullptr)
                to++;
            f(from, to - from);
        }
    }
    void write_by_device(size_t from, size_t bytes, char c) {
        each_run("d", from, bytes, [&](size_t i, size_t n) {
            EXPECT_EQ(pagoda_software_dma_write(dev, at + i, std::string(n, c).data(), n), 0);
            model.replace(i, n, n, c);
        });
    }
    void write_by_processor(size_t from, size_t bytes, char c) {
        each_run("pw", from, bytes, [&](size_t i, size_t n) {
            memset(p + i, c, n);
            model.replace(i, n, n, c);
            owners.replace(i, n, n, 'w');
        });
    }
    void give_to_processor(size_t from, size_t bytes) {
        if (owners.substr(from, bytes).find('w') != std::string::npos)
            give_to_device(from, bytes); // lest what was written is lost, as without an IOMMU
        dma_sync_single_range_for_cpu(dev, at, from, bytes, dir);
        owners.replace(from, bytes, bytes, 'p');
    }
    void give_to_device(size_t from, size_t bytes) {
        dma_sync_single_range_for_device(dev, at, from, bytes, dir);
        owners.replace(from, bytes, bytes, 'd');
    }
    void check() {
        size_t bytes = model.size();
        each_run("pw", 0, bytes,
                 [&](size_t i, size_t n) { ASSERT_EQ(std::string(p + i, n), model.substr(i, n)); });
        if (dir != DMA_TO_DEVICE && owners.find_first_not_of('d') != std::string::npos) // open
            each_run("d", 0, bytes,
                     [&](size_t i, size_t n) { ASSERT_TRUE(all(p + i, n, kPoison)); });
        if (dir == DMA_FROM_DEVICE)
            return;
        std::string found(bytes, 0);
        EXPECT_EQ(pagoda_software_dma_read(dev, at, found.data(), bytes), 0);
        each_run("dp", 0, bytes,
                 [&](size_t i, size_t n) { ASSERT_EQ(found.substr(i, n), model.substr(i, n)); });
    }
};

// The random life of a buffer, several parts of which are the processor's, seen from both sides.
TEST(Guard, DevicesAndProgramsSeeWhatTheyWouldWithoutIt) {
    test::child_end end = guarded_by([](device *dev, char *p) {
        test::random_numbers random(7);
        std::string model(test::kDebugged, 0);
        for (int round = 0; round < 1000; round++) {
            size_t from = random.below(test::kDebugged - 1);
            size_t bytes = 1 + random.below(min_of<size_t>(test::kDebugged - from, 20000));
            auto dir = static_cast<dma_data_direction>(random.below(3));
            shared_buffer b = {dev,
                               p + from,
                               map_well(dev, p + from, bytes, dir),
                               dir,
                               model.substr(from, bytes),
                               std::string(bytes, 'd')};
            for (uint64_t step = random.below(10); step > 0; step--) {
                size_t part = random.below(bytes), n = 1 + random.below(bytes - part);
                char c = static_cast<char>('a' + random.below(26));
                uint64_t what = random.below(5);
                if (what < 2)
                    b.give_to_processor(part, n);
                else if (what == 2)
                    b.give_to_device(part, n);
                else if (what == 3 && dir != DMA_FROM_DEVICE)
                    b.write_by_processor(part, n, c);
                else if (dir != DMA_TO_DEVICE)
                    b.write_by_device(part, n, c);
                ASSERT_NO_FATAL_FAILURE(b.check()) << "round " << round;
            }
            dma_unmap_single(dev, b.at, bytes, dir);
            model.replace(from, bytes, b.model);
            ASSERT_EQ(std::string(p, test::kDebugged), model) << "round " << round;
        }
    });
    EXPECT_SAYS_NOTHING(end);
}

} // namespace
} // namespace pagoda::dma
