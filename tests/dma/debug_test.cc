#include "dma/debug.h"

#include "dma/debug_table.h"
#include "tests/dma/debugged.h"

#include <pagoda/pagoda.h>

#include <errno.h>
#include <regex>
#include <sys/mman.h>

namespace pagoda::dma {
namespace {

using test::debugged;
using test::map_well;

constexpr pagoda_dma_mode kModes[] = {PAGODA_DMA_GRANULES, PAGODA_DMA_STRICT, PAGODA_DMA_BOUNCE};
constexpr pagoda_dma_debug_level kLevels[] = {PAGODA_DMA_DEBUG_ON, PAGODA_DMA_DEBUG_GUARD};

// `line` has as many different places in the program.
void expect_sites(const std::string &line, size_t sites) {
    std::regex site(test::kSite);
    std::vector<std::string> all;
    for (std::sregex_iterator at(line.begin(), line.end(), site), end; at != end; ++at)
        if (std::find(all.begin(), all.end(), at->str()) == all.end())
            all.push_back(at->str());
    EXPECT_EQ(all.size(), sites) << line;
}

void use_cleanly(device *dev, char *p) {
    for (int round = 0; round < 100; round++) {
        dma_addr_t out = map_well(dev, p, 4096, DMA_TO_DEVICE);
        dma_addr_t again = map_well(dev, p + 64, 64, DMA_TO_DEVICE);
        dma_addr_t in = map_well(dev, p + 4096, 4096, DMA_FROM_DEVICE);
        dma_sync_single_range_for_cpu(dev, out, 16, 32, DMA_TO_DEVICE);
        p[20] = static_cast<char>(round);
        dma_sync_single_range_for_device(dev, out, 16, 32, DMA_TO_DEVICE);
        dma_sync_single_for_cpu(dev, in, 4096, DMA_FROM_DEVICE);
        p[5000]++;
        dma_unmap_single(dev, again, 64, DMA_TO_DEVICE);
        dma_unmap_single(dev, out, 4096, DMA_TO_DEVICE);
        dma_unmap_single(dev, in, 4096, DMA_FROM_DEVICE);
        in = dma_map_page(dev, virt_to_page(p), 8, 100, DMA_FROM_DEVICE);
        EXPECT_EQ(dma_mapping_error(dev, in), 0);
        dma_unmap_page(dev, in, 100, DMA_FROM_DEVICE);
        in = dma_map_phys(dev, reinterpret_cast<uintptr_t>(p), 100, DMA_BIDIRECTIONAL, 0);
        EXPECT_EQ(dma_mapping_error(dev, in), 0);
        dma_unmap_phys(dev, in, 100, DMA_BIDIRECTIONAL, 0);
        scatterlist list[2];
        sg_init_table(list, 2);
        sg_set_buf(&list[0], p, 100);
        sg_set_buf(&list[1], p + 4096, 100);
        EXPECT_NE(dma_map_sg(dev, list, 2, DMA_BIDIRECTIONAL), 0u);
        dma_unmap_sg(dev, list, 2, DMA_BIDIRECTIONAL);
    }
    dma_addr_t at;
    void *coherent = dma_alloc_coherent(dev, 5000, &at, GFP_KERNEL);
    dma_free_coherent(dev, 5000, coherent, at);
    struct page *pages = dma_alloc_pages(dev, 5000, &at, DMA_FROM_DEVICE, GFP_KERNEL);
    dma_sync_single_for_cpu(dev, at, 5000, DMA_FROM_DEVICE);
    dma_free_pages(dev, 5000, pages, at, DMA_FROM_DEVICE);
    sg_table *table = dma_alloc_noncontiguous(dev, 5000, DMA_TO_DEVICE, GFP_KERNEL, 0);
    dma_free_noncontiguous(dev, 5000, table, DMA_TO_DEVICE);
}

TEST(Debug, CleanUseSaysNothing) {
    for (pagoda_dma_debug_level level : kLevels)
        for (pagoda_dma_mode mode : kModes)
            EXPECT_SAYS_NOTHING(debugged(use_cleanly, level, mode)) << level << mode;
}

// Whole pages of no heap get addresses in a row.
TEST(Debug, ListsOfForeignPagesAreRecordedToo) {
    test::child_end end = debugged([](device *dev, char *) {
        void *p =
            mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        scatterlist list[2];
        sg_init_table(list, 2);
        sg_set_buf(&list[0], static_cast<char *>(p) + 65536, 65536);
        sg_set_buf(&list[1], p, 65536);
        EXPECT_EQ(dma_map_sg(dev, list, 2, DMA_TO_DEVICE), 2u);
        dma_unmap_sg(dev, list, 2, DMA_TO_DEVICE);
        EXPECT_NE(dma_map_sg(dev, list, 2, DMA_TO_DEVICE), 0u);
        dma_unmap_sg(dev, list, 1, DMA_TO_DEVICE);
        munmap(p, 1 << 20);
    });
    EXPECT_SAYS(end, "a list of 2 pieces");
}

TEST(Debug, ListsOfForeignPagesAreSynchronised) {
    for (pagoda_dma_debug_level level : kLevels) {
        auto write = [level](bool well) {
            return debugged(
                [well](device *dev, char *) {
                    auto *p = static_cast<char *>(mmap(nullptr, 131072, PROT_READ | PROT_WRITE,
                                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
                    scatterlist list[2];
                    sg_init_table(list, 2);
                    sg_set_buf(&list[0], p + 65536, 65536);
                    sg_set_buf(&list[1], p, 65536);
                    EXPECT_NE(dma_map_sg(dev, list, 2, DMA_TO_DEVICE), 0u);
                    if (well)
                        dma_sync_sg_for_cpu(dev, list, 2, DMA_TO_DEVICE);
                    p[100] = 'x';
                    if (well)
                        dma_sync_sg_for_device(dev, list, 2, DMA_TO_DEVICE);
                    // The first segment has the end of the memory, if pieces are merged or not.
                    char found = 0;
                    dma_addr_t at = sg_dma_address(&list[0]) + 65536 + 100;
                    if (sg_dma_len(&list[0]) == 65536)
                        at = sg_dma_address(&list[1]) + 100;
                    EXPECT_EQ(pagoda_software_dma_read(dev, at, &found, 1), 0);
                    EXPECT_EQ(found == 'x', well || !pagoda_dma_need_sync(dev, at));
                    dma_unmap_sg(dev, list, 2, DMA_TO_DEVICE);
                    munmap(p, 131072);
                },
                level);
        };
        EXPECT_SAYS_NOTHING(write(true));
        EXPECT_SAYS(write(false), "were written by the processor while they were the device's");
    }
}

// A mapping that has no record could not be undone.
TEST(Debug, WithoutMemoryForRecordsNothingIsMade) {
    for (pagoda_dma_debug_level level : kLevels) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                constexpr gfp_t kQuietly = GFP_KERNEL | __GFP_NOWARN;
                auto *pages = static_cast<char *>(mmap(nullptr, 131072, PROT_READ | PROT_WRITE,
                                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
                scatterlist list[2];
                sg_init_table(list, 2);
                sg_set_buf(&list[0], pages, 65536);
                sg_set_buf(&list[1], pages + 65536, 65536);
                void *resource = mmap(nullptr, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
                dma_addr_t at;
                static int made;
                pagoda_set_failure_hook(
                    [](size_t bytes, gfp_t, void *) { return bytes == sizeof(debug_record); },
                    nullptr);
                EXPECT_EQ(dma_map_single(dev, p, 64, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
                EXPECT_TRUE(test::error_says("record of 64 bytes"));
                EXPECT_EQ(dma_map_resource(dev, reinterpret_cast<uintptr_t>(resource), 4096,
                                           DMA_TO_DEVICE, 0),
                          DMA_MAPPING_ERROR);
                EXPECT_TRUE(test::error_says("record of 4096 bytes"));
                EXPECT_EQ(dma_alloc_coherent(dev, 96, &at, kQuietly), nullptr);
                EXPECT_TRUE(test::error_says("record of 96 bytes"));
                EXPECT_EQ(at, DMA_MAPPING_ERROR);
                EXPECT_EQ(dma_alloc_pages(dev, 4096, &at, DMA_TO_DEVICE, kQuietly), nullptr);
                EXPECT_TRUE(test::error_says("record of 4096 bytes"));
                EXPECT_EQ(dma_alloc_noncontiguous(dev, 64, DMA_TO_DEVICE, kQuietly, 0), nullptr);
                EXPECT_TRUE(test::error_says("record of 64 bytes"));
                // The second of a list has none, whether the list is a run or not.
                made = 0;
                pagoda_set_failure_hook(
                    [](size_t bytes, gfp_t, void *) {
                        return bytes == sizeof(debug_record) && made++ != 0;
                    },
                    nullptr);
                sg_table table = {list, 2, 2};
                EXPECT_EQ(dma_map_sgtable(dev, &table, DMA_TO_DEVICE, 0), -ENOMEM);
                pagoda_set_failure_hook(nullptr, nullptr);
                EXPECT_EQ(dma_map_sgtable(dev, &table, DMA_TO_DEVICE, 0), 0);
                dma_unmap_sgtable(dev, &table, DMA_TO_DEVICE, 0);
                pagoda_dma_counters c;
                pagoda_dma_get_counters(dev, &c);
                EXPECT_EQ(c.live_mappings, 0u);
                munmap(pages, 131072);
                munmap(resource, 4096);
            },
            level);
        EXPECT_SAYS_NOTHING(end);
    }
}

TEST(Debug, BeginsAndEndsWithNothingMapped) {
    test::child_end end = debugged([](device *dev, char *p) {
        EXPECT_EQ(pagoda_dma_debug(dev, PAGODA_DMA_DEBUG_ON), 0);
        EXPECT_EQ(pagoda_dma_debug(dev, static_cast<pagoda_dma_debug_level>(3)), -EINVAL);
        dma_addr_t at = map_well(dev, p, 64, DMA_TO_DEVICE);
        EXPECT_EQ(pagoda_dma_debug(dev, PAGODA_DMA_DEBUG_OFF), -EBUSY);
        EXPECT_EQ(pagoda_dma_debug(dev, PAGODA_DMA_DEBUG_GUARD), -EBUSY);
        dma_unmap_single(dev, at, 64, DMA_TO_DEVICE);
        EXPECT_EQ(pagoda_dma_debug(dev, PAGODA_DMA_DEBUG_GUARD), 0);
        EXPECT_EQ(pagoda_dma_debug(dev, PAGODA_DMA_DEBUG_OFF), 0);
        EXPECT_EQ(pagoda_dma_debugged, 0);
        at = dma_map_single(dev, p, 64, DMA_TO_DEVICE);
        p[0]++; // nobody looks
        dma_unmap_single(dev, at, 64, DMA_TO_DEVICE);
    });
    EXPECT_SAYS_NOTHING(end);
}

TEST(Debug, BeginsAsTheOptionSays) {
    const std::pair<const char *, bool> levels[] = {
        {"dma_debug=off", false}, {"dma_debug=on", false}, {"dma_debug=guard", true}};
    for (auto &[option, guards] : levels) {
        test::child_end end = test::in_child([&, o = option, g = guards] {
            parse_options("on_error=report");
            parse_options(o);
            auto *p = static_cast<char *>(kzalloc(8192, GFP_KERNEL));
            test::soft_device dev;
            EXPECT_EQ(pagoda_dma_need_sync(dev, map_well(dev, p, 64, DMA_TO_DEVICE)), g);
        });
        EXPECT_TRUE(test::succeeded(end));
        EXPECT_EQ(end.said("are still mapped"), strcmp(option, "dma_debug=off") != 0) << end.errors;
    }
}

TEST(Debug, ObeysOnError) {
    test::child_end end = debugged([](device *dev, char *p) {
        parse_options("on_error=abort");
        dma_unmap_single(dev, dma_map_single(dev, p, 64, DMA_TO_DEVICE), 64, DMA_TO_DEVICE);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("dma_mapping_error() was never asked")) << end.errors;
}

TEST(Debug, NamesWhatIsUndoneTwice) {
    for (pagoda_dma_debug_level level : kLevels)
        for (pagoda_dma_mode mode : kModes) {
            test::child_end end = debugged(
                [](device *dev, char *p) {
                    dma_addr_t at = map_well(dev, p, 4096, DMA_TO_DEVICE);
                    dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
                    dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
                },
                level, mode);
            EXPECT_SAYS(end, "is not mapped any more: it was from ");
            expect_sites(end.errors, 3);
        }
    test::child_end end =
        debugged([](device *dev, char *) { dma_unmap_single(dev, 0x1000, 4096, DMA_TO_DEVICE); });
    EXPECT_SAYS(end, "0x1000 (4096 bytes) is undone by dma_unmap_single from ");
    expect_sites(end.errors, 1);
}

TEST(Debug, NamesAnotherSize) {
    for (pagoda_dma_debug_level level : kLevels)
        for (pagoda_dma_mode mode : kModes) {
            test::child_end end = debugged(
                [](device *dev, char *p) {
                    dma_addr_t at = map_well(dev, p, 4096, DMA_TO_DEVICE);
                    dma_unmap_single(dev, at, 100, DMA_TO_DEVICE);
                },
                level, mode);
            EXPECT_SAYS(end, "(100 bytes, DMA_TO_DEVICE)");
            EXPECT_TRUE(end.said(": another size\n")) << end.errors;
            expect_sites(end.errors, 2);
        }
}

TEST(Debug, NamesAnotherDirection) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 4096, DMA_FROM_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_BIDIRECTIONAL);
    });
    EXPECT_SAYS(end, ": another direction\n");
    expect_sites(end.errors, 2);
    end = debugged([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 4096, DMA_FROM_DEVICE);
        dma_sync_single_for_cpu(dev, at, 4096, DMA_TO_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
    });
    EXPECT_SAYS(end, "is synchronised DMA_TO_DEVICE from ");
    expect_sites(end.errors, 2);
}

TEST(Debug, NamesAnotherFunction) {
    void (*const undo[])(device *, dma_addr_t) = {
        [](device *dev, dma_addr_t at) { dma_unmap_page(dev, at, 4096, DMA_TO_DEVICE); },
        [](device *dev, dma_addr_t at) { dma_unmap_phys(dev, at, 4096, DMA_TO_DEVICE, 0); },
        [](device *dev, dma_addr_t at) { dma_unmap_resource(dev, at, 4096, DMA_TO_DEVICE, 0); },
        [](device *dev, dma_addr_t at) {
            scatterlist one;
            sg_init_table(&one, 1);
            one.length = 4096;
            one.dma_address = at;
            one.dma_length = 4096;
            dma_unmap_sg(dev, &one, 1, DMA_TO_DEVICE);
        },
    };
    const char *const names[] = {"dma_unmap_page", "dma_unmap_phys", "dma_unmap_resource",
                                 "dma_unmap_sg"};
    for (size_t i = 0; i < std::size(undo); i++) {
        test::child_end end = debugged(
            [&](device *dev, char *p) { undo[i](dev, map_well(dev, p, 4096, DMA_TO_DEVICE)); });
        EXPECT_SAYS(end, "was made by dma_map_single (4096 bytes, DMA_TO_DEVICE) from ");
        EXPECT_TRUE(end.said(names[i])) << end.errors;
        EXPECT_TRUE(end.said(": another function\n")) << end.errors;
        expect_sites(end.errors, 2);
    }
}

TEST(Debug, KnowsCoherentMemoryFromMappings) {
    test::child_end end = debugged([](device *dev, char *) {
        dma_addr_t at;
        void *p = dma_alloc_coherent(dev, 4096, &at, GFP_KERNEL);
        dma_unmap_single(dev, at, 4096, DMA_BIDIRECTIONAL);
        dma_free_coherent(dev, 4096, p, at);
    });
    EXPECT_SAYS(end, "was made by dma_alloc_coherent");
    expect_sites(end.errors, 2);
    end = debugged([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 4096, DMA_BIDIRECTIONAL);
        dma_free_coherent(dev, 4096, p, at);
        dma_unmap_single(dev, at, 4096, DMA_BIDIRECTIONAL);
    });
    EXPECT_SAYS(end, "is undone by dma_free_coherent");
    expect_sites(end.errors, 2);
    end = debugged([](device *dev, char *) {
        dma_addr_t at;
        void *p = dma_alloc_coherent(dev, 4096, &at, GFP_KERNEL);
        dma_free_coherent(dev, 8192, p, at);
        dma_free_coherent(dev, 4096, p, at);
    });
    EXPECT_SAYS(end, ": another size");
    end = debugged([](device *dev, char *) {
        dma_addr_t at;
        void *p = dma_alloc_coherent(dev, 4096, &at, GFP_KERNEL);
        dma_free_coherent(dev, 4096, p, at);
        dma_free_coherent(dev, 4096, p, at);
    });
    EXPECT_SAYS(end, "is not mapped any more");
    expect_sites(end.errors, 3);
}

struct list_of_three {
    explicit list_of_three(char *p) {
        sg_init_table(sg, 3);
        for (unsigned i = 0; i < 3; i++)
            sg_set_buf(&sg[i], p + 8192 * i, 512);
    }
    scatterlist sg[3];
};

TEST(Debug, NamesListsThatAreUndoneInPart) {
    test::child_end end = debugged([](device *dev, char *p) {
        list_of_three list(p);
        EXPECT_EQ(dma_map_sg(dev, list.sg, 3, DMA_TO_DEVICE), 3u);
        dma_unmap_sg(dev, list.sg, 2, DMA_TO_DEVICE);
        test::soft_device other; // the third was undone as well
    });
    EXPECT_SAYS(end, "a list of 3 pieces at ");
    EXPECT_TRUE(end.said("is undone with 2 from ")) << end.errors;
    expect_sites(end.errors, 2);
    end = debugged([](device *dev, char *p) {
        list_of_three list(p);
        EXPECT_EQ(dma_map_sg(dev, list.sg, 3, DMA_TO_DEVICE), 3u);
        for (scatterlist &sg : list.sg)
            dma_unmap_single(dev, sg_dma_address(&sg), sg_dma_len(&sg), DMA_TO_DEVICE);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("was made by dma_map_sg (512 bytes")) << end.errors;
    end = debugged([](device *dev, char *p) {
        list_of_three list(p);
        EXPECT_EQ(dma_map_sg(dev, list.sg, 3, DMA_TO_DEVICE), 3u);
        dma_unmap_sg(dev, list.sg, 3, DMA_TO_DEVICE);
        dma_unmap_sg(dev, list.sg, 3, DMA_TO_DEVICE);
    });
    EXPECT_SAYS(end, "is undone by dma_unmap_sg from ");
    expect_sites(end.errors, 3);
}

TEST(Debug, KnowsListsThatBeginWithTheSameBuffer) {
    for (bool long_one_first : {true, false})
        for (pagoda_dma_debug_level level : kLevels) {
            test::child_end end = debugged(
                [=](device *dev, char *p) {
                    list_of_three a(p);
                    scatterlist b;
                    sg_init_one(&b, p, 512);
                    EXPECT_EQ(dma_map_sg(dev, a.sg, 3, DMA_TO_DEVICE), 3u);
                    EXPECT_EQ(dma_map_sg(dev, &b, 1, DMA_TO_DEVICE), 1u);
                    if (long_one_first)
                        dma_unmap_sg(dev, a.sg, 3, DMA_TO_DEVICE);
                    dma_unmap_sg(dev, &b, 1, DMA_TO_DEVICE);
                    if (!long_one_first)
                        dma_unmap_sg(dev, a.sg, 3, DMA_TO_DEVICE);
                    pagoda_dma_counters c;
                    pagoda_dma_get_counters(dev, &c);
                    EXPECT_EQ(c.live_mappings, 0u);
                },
                level);
            EXPECT_SAYS_NOTHING(end);
        }
}

TEST(Debug, NamesMappingsThatNobodyAskedOf) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t one = dma_map_single(dev, p, 64, DMA_TO_DEVICE);
        dma_addr_t two = dma_map_single(dev, p, 64, DMA_TO_DEVICE);
        EXPECT_EQ(one, two);
        EXPECT_EQ(dma_mapping_error(dev, one), 0);
        EXPECT_EQ(dma_mapping_error(dev, DMA_MAPPING_ERROR), -ENOMEM);
        dma_unmap_single(dev, one, 64, DMA_TO_DEVICE);
        dma_unmap_single(dev, two, 64, DMA_TO_DEVICE);
    });
    EXPECT_SAYS(end, "dma_mapping_error() was never asked of ");
    expect_sites(end.errors, 2);
}

TEST(Debug, NotesBuffersOnTheStackOnce) {
    test::child_end end = debugged([](device *dev, char *) {
        char local[64] = {};
        for (int i = 0; i < 2; i++) {
            dma_addr_t at = map_well(dev, local, sizeof local, DMA_FROM_DEVICE);
            dma_unmap_single(dev, at, sizeof local, DMA_FROM_DEVICE);
        }
    });
    EXPECT_SAYS(end, "are on the stack");
}

TEST(Debug, NamesWhatIsSynchronisedBeyondItsMapping) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 4096, DMA_FROM_DEVICE);
        dma_sync_single_range_for_cpu(dev, at, 4000, 200, DMA_FROM_DEVICE);
        dma_unmap_single(dev, at, 4096, DMA_FROM_DEVICE);
    });
    EXPECT_SAYS(end, "beyond the mapping of 4096");
    expect_sites(end.errors, 2);
}

TEST(Debug, NamesBuffersThatOverlap) {
    for (pagoda_dma_debug_level level : kLevels) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                dma_addr_t in = map_well(dev, p, 16384, DMA_FROM_DEVICE);
                dma_addr_t out = map_well(dev, p + 16000, 1000, DMA_TO_DEVICE);
                dma_unmap_single(dev, out, 1000, DMA_TO_DEVICE);
                dma_unmap_single(dev, in, 16384, DMA_FROM_DEVICE);
            },
            level);
        EXPECT_SAYS(end, "are already, DMA_FROM_DEVICE");
        expect_sites(end.errors, 2);
    }
}

TEST(Debug, NamesBuffersThatTheProcessorWroteTo) {
    for (pagoda_dma_mode mode : kModes) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                dma_addr_t at = map_well(dev, p, 4096, DMA_TO_DEVICE);
                p[4095]++;
                dma_unmap_single(dev, at, 4096, DMA_TO_DEVICE);
            },
            PAGODA_DMA_DEBUG_ON, mode);
        EXPECT_SAYS(end, "were written by the processor while they were the device's");
        expect_sites(end.errors, 2);
    }
}

TEST(Debug, PartsAreGivenAndTakenBackInAnyOrder) {
    for (pagoda_dma_debug_level level : kLevels) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                dma_addr_t at = map_well(dev, p, 256, DMA_TO_DEVICE);
                dma_sync_single_range_for_cpu(dev, at, 0, 64, DMA_TO_DEVICE);
                dma_sync_single_range_for_cpu(dev, at, 64, 64, DMA_TO_DEVICE);
                p[0]++;
                dma_sync_single_range_for_device(dev, at, 0, 64, DMA_TO_DEVICE);
                p[64]++;
                dma_sync_single_range_for_cpu(dev, at, 128, 64, DMA_TO_DEVICE);
                p[128]++;
                dma_unmap_single(dev, at, 256, DMA_TO_DEVICE);
            },
            level);
        EXPECT_SAYS_NOTHING(end);
        end = debugged(
            [](device *dev, char *p) {
                dma_addr_t at = map_well(dev, p, 256, DMA_TO_DEVICE);
                dma_sync_single_range_for_cpu(dev, at, 64, 64, DMA_TO_DEVICE);
                p[64]++;
                p[200]++; // the device's
                dma_unmap_single(dev, at, 256, DMA_TO_DEVICE);
            },
            level);
        EXPECT_SAYS(end, "were written by the processor while they were the device's");
    }
}

TEST(Debug, NamesWhatIsLeftWhenTheDeviceIsClosed) {
    for (pagoda_dma_debug_level level : kLevels) {
        test::child_end end = debugged(
            [](device *dev, char *p) {
                (void)map_well(dev, p, 4096, DMA_BIDIRECTIONAL);
                dma_addr_t at;
                EXPECT_NE(dma_alloc_coherent(dev, 100, &at, GFP_KERNEL), nullptr);
            },
            level);
        EXPECT_TRUE(end.said("DMA_BIDIRECTIONAL, mapped by dma_map_single from 0x")) << end.errors;
        EXPECT_TRUE(end.said("dma_alloc_coherent from 0x")) << end.errors;
        EXPECT_TRUE(end.said("closed with 1 streaming mappings")) << end.errors;
    }
}

TEST(Debug, NamesWhatIsLeftWhenTheProcessExits) {
    for (const char *policy : {"on_error=report", "on_error=abort"}) {
        test::child_end end = test::in_child([=] {
            parse_options("dma_debug=on");
            parse_options(policy);
            void *p = kzalloc(8192, GFP_KERNEL);
            for (const char *name : {"first", "second"}) {
                pagoda_software_options options = {};
                options.name = name;
                (void)map_well(pagoda_software_device(&options), p, 100, DMA_TO_DEVICE);
            }
            (void)pagoda_software_device(nullptr); // with nothing to say of
            exit(0);
        });
        EXPECT_EQ(end.signal(), strcmp(policy, "on_error=abort") == 0 ? SIGABRT : 0);
        EXPECT_TRUE(end.said("first: the 100 bytes at ")) << end.errors;
        EXPECT_TRUE(end.said("second: the 100 bytes at ")) << end.errors;
        EXPECT_EQ(end.lines(), 2u) << end.errors;
    }
}

TEST(Debug, AChildOfForkHasNothingOfIt) {
    test::child_end end = debugged([](device *dev, char *p) {
        dma_addr_t at = map_well(dev, p, 100, DMA_TO_DEVICE);
        test::child_end child = test::in_child([&] {
            EXPECT_EQ(pagoda_dma_debugged, 0);
            dma_unmap_single(dev, at, 100, DMA_TO_DEVICE);
            pagoda_device_close(dev);
            exit(0);
        });
        EXPECT_SAYS_NOTHING(child);
        dma_unmap_single(dev, at, 100, DMA_TO_DEVICE);
    });
    EXPECT_SAYS_NOTHING(end);
}

// Whoever walked all of them for each would not end within the child's time.
TEST(Debug, ManyMappingsAreFound) {
    for (pagoda_dma_debug_level level : kLevels) {
        test::child_end end = debugged(
            [](device *dev, char *) {
                constexpr size_t kMany = 10000;
                std::vector<void *> p;
                std::vector<dma_addr_t> at;
                for (size_t i = 0; i < kMany; i++) {
                    p.push_back(kmalloc(64, GFP_KERNEL));
                    at.push_back(map_well(dev, p[i], 64, DMA_FROM_DEVICE));
                }
                for (size_t i = 0; i < kMany; i++) {
                    size_t which = i * 7919 % kMany;
                    dma_sync_single_for_cpu(dev, at[which], 64, DMA_FROM_DEVICE);
                    dma_unmap_single(dev, at[which], 64, DMA_FROM_DEVICE);
                    kfree(p[which]);
                }
            },
            level);
        EXPECT_SAYS_NOTHING(end);
    }
}

} // namespace
} // namespace pagoda::dma
