#include "dma/sg_mapping.h"

#include "tests/dma/devices.h"
#include "tests/dma/soft.h"

#include <pagoda/dmapool.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <memory>

namespace pagoda::dma {
namespace {

using test::foreign_pages;
using test::in_child;
using test::random_numbers;
using test::soft_device;
using test::succeeded;

// Memory for pieces: of the heap in objects, and foreign in pages.
class memory {
  public:
    memory() {
        for (void *&object : objects_)
            object = kmalloc(kObject, GFP_KERNEL);
    }
    ~memory() {
        for (void *object : objects_)
            kfree(object);
    }
    memory(const memory &) = delete;
    memory &operator=(const memory &) = delete;

    // A piece at most `most` long, of which the kinds are as different as can be; pieces do not
    // overlap (`i` is its number), and foreign ones may be neighbours.
    std::pair<char *, unsigned> piece(random_numbers &random, unsigned i, unsigned most) {
        switch (random.below(4)) {
        case 0: { // whole pages
            unsigned pages = 1 + static_cast<unsigned>(random.below(kSlot / kPageSize));
            return {foreign_.at + i * kSlot, min_of<unsigned>(pages * kPageSize, most)};
        }
        case 1: // all of it, so that the next one follows
            return {foreign_.at + i * kSlot, min_of<unsigned>(kSlot, most)};
        default: {
            auto length =
                static_cast<unsigned>(1 + random.skewed(14) % min_of<unsigned>(kSlot, most));
            auto offset = static_cast<unsigned>(random.below(kSlot - length + 1));
            char *at = random.one_in(3) ? foreign_.at : static_cast<char *>(objects_[i / 4]);
            return {at + (at == foreign_.at ? i : i % 4) * kSlot + offset, length};
        }
        }
    }

    static constexpr unsigned kPieces = 16;

  private:
    static constexpr unsigned kSlot = 4 * kPageSize;
    static constexpr unsigned kObject = 4 * kSlot;
    void *objects_[kPieces / 4];
    foreign_pages foreign_{kPieces * kSlot / kPageSize};
};

struct limits {
    unsigned segment;
    uint64_t boundary;
};

constexpr uint64_t kLess = kDebug ? 10 : 1; // it is slow enough

// One list: mapped, read and written by the device, synchronised, undone. Returns how many
// operations on pieces that was.
unsigned check_list(const soft_device &dev, memory &from, random_numbers &random, limits l) {
    unsigned n = 1 + static_cast<unsigned>(random.below(memory::kPieces));
    scatterlist list[memory::kPieces + 3];
    sg_init_table(list, n);
    // Some are in two arrays.
    bool chained = n > 2 && random.one_in(4);
    if (chained) {
        sg_init_table(list, 3);
        sg_init_table(list + 4, n - 2);
        sg_chain(list, 3, list + 4);
    }
    std::string model, written;
    scatterlist *sg = list;
    unsigned most = min_of<unsigned>(
        l.segment, static_cast<unsigned>(min_of<uint64_t>(l.boundary, 1u << 20)) + 1);
    for (unsigned i = 0; i < n; i++, sg = sg_next(sg)) {
        auto [at, length] = from.piece(random, i, most);
        sg_set_buf(sg, at, length);
        memset(at, static_cast<int>(random.next()), length);
        at[random.below(length)] = static_cast<char>(random.next());
        model.append(at, length);
    }
    const auto dir = static_cast<dma_data_direction>(random.below(3));
    unsigned segments = dma_map_sg(dev, list, static_cast<int>(n), dir);
    EXPECT_TRUE(segments >= 1 && segments <= n) << pagoda_device_error();
    if (::testing::Test::HasFailure())
        return 0;

    std::string seen;
    unsigned i;
    for_each_sg(list, sg, segments, i) {
        uint64_t length = sg_dma_len(sg);
        EXPECT_LE(length, l.segment);
        EXPECT_FALSE(crosses(sg_dma_address(sg), length, l.boundary))
            << std::hex << sg_dma_address(sg) << " " << length << " " << l.boundary;
        EXPECT_LE(sg_dma_address(sg) + length - 1, dma_get_mask(dev));
        seen +=
            dir == DMA_FROM_DEVICE ? std::string(length, 0) : dev.reads(sg_dma_address(sg), length);
    }
    EXPECT_EQ(seen.size(), model.size());
    if (dir != DMA_FROM_DEVICE) {
        EXPECT_TRUE(seen == model);
    }
    // What the processor writes while it has the list is what the device sees then.
    if (dir != DMA_FROM_DEVICE && random.one_in(2)) {
        dma_sync_sg_for_cpu(dev, list, static_cast<int>(n), dir);
        auto *first = static_cast<char *>(sg_virt(list));
        first[0] = model[0] = static_cast<char>(model[0] + 1);
        dma_sync_sg_for_device(dev, list, static_cast<int>(n), dir);
        EXPECT_EQ(dev.reads(sg_dma_address(list), 1), model.substr(0, 1));
    }
    if (dir != DMA_TO_DEVICE) {
        for_each_sg(list, sg, segments, i) {
            std::string data(sg_dma_len(sg), static_cast<char>(random.next()));
            data[random.below(data.size())] = static_cast<char>(random.next());
            EXPECT_EQ(dev.writes(sg_dma_address(sg), data), 0);
            written += data;
        }
        if (random.one_in(2))
            dma_sync_sg_for_cpu(dev, list, static_cast<int>(n), dir);
    }
    dma_unmap_sg(dev, list, static_cast<int>(n), dir);
    std::string left;
    for_each_sg(list, sg, n, i) left.append(static_cast<char *>(sg_virt(sg)), sg->length);
    EXPECT_TRUE(left == (dir != DMA_TO_DEVICE ? written : model));
    EXPECT_EQ(dev.counters().live_mappings, 0u);
    return 2 * n;
}

// Lists until that many operations were done.
void check_lists(uint64_t mask, pagoda_software_options options, pagoda_dma_mode mode,
                 uint64_t operations) {
    soft_device dev(mask, options);
    EXPECT_EQ(pagoda_dma_set_mode(dev, mode), 0);
    memory from;
    random_numbers random(mask + mode);
    const limits all[] = {{65536, ~uint64_t{0}}, {65536, 65535},       {16384, 0xffffffff},
                          {1u << 31, 32767},     {4096, ~uint64_t{0}}, {1u << 31, ~uint64_t{0}}};
    uint64_t done = 0;
    while (done < operations) {
        limits l = all[random.below(std::size(all))];
        dma_set_max_seg_size(dev, l.segment);
        dma_set_seg_boundary(dev, l.boundary);
        for (int i = 0; i < 50 && !::testing::Test::HasFailure(); i++)
            done += check_list(dev, from, random, l);
        ASSERT_FALSE(::testing::Test::HasFailure());
    }
    auto c = dev.counters();
    EXPECT_EQ(c.bounce_bytes, 0u);
}

// Each in a child: a process has device zones of one kind.
#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(SgMapping, name) {                                                                        \
        test::child_end end = in_child(name);                                                      \
        EXPECT_TRUE(succeeded(end));                                                               \
        EXPECT_EQ(end.errors, "");                                                                 \
    }                                                                                              \
    void name()

TEST_IN_CHILD(ListsAreWhatTheDeviceSees) {
    check_lists(~uint64_t{0}, {}, PAGODA_DMA_GRANULES, test::operations() / kLess);
}
TEST_IN_CHILD(ListsUnderAMaskAreWhatTheDeviceSees) {
    check_lists(DMA_BIT_MASK(28), {}, PAGODA_DMA_GRANULES, test::operations() / (20 * kLess));
}
TEST_IN_CHILD(ListsOfStrictModeAreWhatTheDeviceSees) {
    check_lists(~uint64_t{0}, {}, PAGODA_DMA_STRICT, test::operations() / (20 * kLess));
}
TEST_IN_CHILD(ListsOfCopiesAreWhatTheDeviceSees) {
    check_lists(~uint64_t{0}, {}, PAGODA_DMA_BOUNCE, test::operations() / (20 * kLess));
}
TEST_IN_CHILD(ListsWithoutIommuAreWhatTheDeviceSees) {
    pagoda_software_options options = {};
    options.no_iommu = true;
    check_lists(~uint64_t{0}, options, PAGODA_DMA_GRANULES, test::operations() / (20 * kLess));
}

// Heap memory in a row is one segment, up to the limits.
TEST_IN_CHILD(NeighboursAreMerged) {
    soft_device dev;
    auto *p = static_cast<char *>(kmalloc(16 * 4096, GFP_KERNEL));
    sg_table table;
    ASSERT_EQ(sg_alloc_table(&table, 16, GFP_KERNEL), 0);
    scatterlist *sg;
    unsigned i;
    for_each_sgtable_sg(&table, sg, i) sg_set_buf(sg, p + i * 4096, 4096);
    for (unsigned most : {65536u, 16384u, 6000u}) {
        dma_set_max_seg_size(dev, most);
        ASSERT_EQ(dma_map_sgtable(dev, &table, DMA_BIDIRECTIONAL, 0), 0);
        EXPECT_EQ(table.nents, 65536 / (most / 4096 * 4096));
        EXPECT_EQ(table.orig_nents, 16u);
        EXPECT_EQ(dev.counters().live_mappings, 16u);
        dma_sync_sgtable_for_cpu(dev, &table, DMA_BIDIRECTIONAL);
        dma_sync_sgtable_for_device(dev, &table, DMA_BIDIRECTIONAL);
        dma_unmap_sgtable(dev, &table, DMA_BIDIRECTIONAL, 0);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        for_each_sgtable_sg(&table, sg, i) EXPECT_EQ(sg_virt(sg), p + i * 4096);
    }
    sg_free_table(&table);
    kfree(p);
}

// Foreign pages from here and there have one address, and cost no copy.
TEST_IN_CHILD(ForeignPagesGetARange) {
    soft_device dev;
    foreign_pages pages(64);
    scatterlist list[20];
    sg_init_table(list, 20);
    for (int i = 0; i < 20; i++) // every third page
        sg_set_buf(&list[i], pages.at + static_cast<size_t>(i) * 3 * kPageSize, kPageSize);
    dma_set_max_seg_size(dev, 1u << 20);
    ASSERT_EQ(dma_map_sg(dev, list, 20, DMA_TO_DEVICE), 1u);
    EXPECT_EQ(sg_dma_len(list), 20 * kPageSize);
    EXPECT_EQ(dev.counters().bounced, 0u);
    EXPECT_EQ(dev.reads(sg_dma_address(list), 20 * kPageSize), std::string(20 * kPageSize, 'm'));
    EXPECT_EQ(dev.writes(sg_dma_address(list), "not this way"), -EFAULT);
    dma_unmap_sg(dev, list, 20, DMA_TO_DEVICE);
    EXPECT_EQ(dev.reads(sg_dma_address(list), 1), "");
    EXPECT_EQ(dev.counters().mapped_bytes, 0u);
}

// 20 pieces of 5 pages, which a boundary of 32 KiB sets apart.
class spread_list {
  public:
    spread_list() {
        sg_init_table(list, kPieces);
        for (int i = 0; i < kPieces; i++)
            sg_set_buf(&list[i], pages_.at + static_cast<size_t>(i) * 6 * kPageSize, kLength);
    }
    static constexpr int kPieces = 20;
    static constexpr unsigned kLength = 5 * kPageSize;
    scatterlist list[kPieces];

  private:
    foreign_pages pages_{kPieces * 6};
};

// The limits of the device may be others by then.
TEST_IN_CHILD(AListIsUndoneAsItWasMapped) {
    soft_device dev;
    spread_list pieces;
    scatterlist *list = pieces.list;
    uint64_t boundaries[] = {~uint64_t{0}, 0x7fff};
    for (int i = 0; i < 4; i++) {
        dma_set_seg_boundary(dev, boundaries[i % 2]);
        unsigned segments = dma_map_sg(dev, list, spread_list::kPieces, DMA_BIDIRECTIONAL);
        ASSERT_NE(segments, 0u);
        EXPECT_EQ(dev.counters().live_mappings, 1u);
        dma_addr_t at = sg_dma_address(list);
        dma_set_seg_boundary(dev, boundaries[1 - i % 2]);
        dma_unmap_sg(dev, list, spread_list::kPieces, DMA_BIDIRECTIONAL);
        EXPECT_EQ(dev.counters().mapped_bytes, 0u);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        EXPECT_EQ(dev.reads(at, 1), "");
    }
}

TEST(SgMappingOfAStubbornIommu, PiecesAndAddressesStay) {
    test::child_end end = in_child([] {
        soft_device dev;
        spread_list pieces;
        scatterlist *list = pieces.list;
        ASSERT_NE(dma_map_sg(dev, list, spread_list::kPieces, DMA_BIDIRECTIONAL), 0u);
        dma_addr_t at = sg_dma_address(list);
        pagoda_software_fail_unmaps(dev, 2, 1, -EIO);
        dma_unmap_sg(dev, list, spread_list::kPieces, DMA_BIDIRECTIONAL);
        EXPECT_EQ(dev.counters().mapped_bytes, spread_list::kLength);
        EXPECT_EQ(dev.reads(at + 2 * spread_list::kLength, 1).size(), 1u);
        for (int i = 0; i < 3; i++) {
            ASSERT_NE(dma_map_sg(dev, list, spread_list::kPieces, DMA_BIDIRECTIONAL), 0u);
            EXPECT_NE(sg_dma_address(list), at);
            dma_unmap_sg(dev, list, spread_list::kPieces, DMA_BIDIRECTIONAL);
        }
        dma_unmap_sg(dev, list, spread_list::kPieces, DMA_NONE); // nothing, and a line
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("(20480 bytes) stays mapped")) << end.errors;
    EXPECT_TRUE(end.said("unmapped without a direction")) << end.errors;
}

// What cannot be mapped as one goes piece by piece, and is not tried as one again for each.
TEST_IN_CHILD(ARunThatFailsIsTriedOnce) {
    soft_device dev;
    foreign_pages pages(200);
    scatterlist list[200];
    sg_init_table(list, 200);
    sg_set_buf(&list[0], pages.at, kPageSize);
    ASSERT_EQ(dma_map_sg(dev, list, 1, DMA_TO_DEVICE), 1u); // bounced: there is a pool
    dma_unmap_sg(dev, list, 1, DMA_TO_DEVICE);
    for (unsigned i = 0; i < 200; i++)
        sg_set_buf(&list[i], pages.at + size_t{i} * kPageSize, kPageSize);
    uint64_t before = dev.counters().map_calls;
    pagoda_software_fail_maps(dev, 0, 1000, -ENOSPC);
    EXPECT_GT(dma_map_sg(dev, list, 200, DMA_TO_DEVICE), 0u) << pagoda_device_error();
    EXPECT_EQ(dev.counters().map_calls, before + 1);
    pagoda_software_fail_maps(dev, 0, 0, 0);
    dma_unmap_sg(dev, list, 200, DMA_TO_DEVICE);
    EXPECT_EQ(dev.counters().live_mappings, 0u);
}

TEST_IN_CHILD(NothingStaysMappedWhereOnePieceFails) {
    pagoda_software_options options = {};
    soft_device dev(~uint64_t{0}, options);
    foreign_pages pages(64);
    auto *object = static_cast<char *>(kmalloc(4096, GFP_KERNEL));
    scatterlist list[20];
    for (unsigned failing = 0; failing < 18; failing += 4) {
        sg_init_table(list, 20);
        sg_set_buf(list, object, 4096);
        for (unsigned i = 1; i < 20; i++)
            sg_set_buf(&list[i], pages.at + size_t{i} * 2 * kPageSize, kPageSize);
        auto before = dev.counters();
        pagoda_software_fail_maps(dev, failing, 1000, -ENOSPC);
        sg_table table = {list, 0, 20};
        // The run cannot be had, nor bounce buffers.
        EXPECT_EQ(dma_map_sgtable(dev, &table, DMA_FROM_DEVICE, 0), -ENOMEM);
        EXPECT_EQ(dma_map_sg(dev, list, 20, DMA_FROM_DEVICE), 0u);
        pagoda_software_fail_maps(dev, 0, 0, -ENOSPC);
        EXPECT_EQ(dev.counters().live_mappings, 0u);
        EXPECT_EQ(dev.counters().bounce_bytes, 0u);
        EXPECT_LE(dev.counters().mapped_bytes, before.mapped_bytes + kPageblockSize);
    }
    kfree(object);
}

TEST_IN_CHILD(MistakesHaveTheirErrors) {
    soft_device dev;
    auto *object = static_cast<char *>(kmalloc(64, GFP_KERNEL));
    scatterlist sg;
    sg_init_one(&sg, object, 64);
    sg_table table = {&sg, 0, 1};
    EXPECT_EQ(dma_map_sgtable(dev, &table, DMA_NONE, 0), -EINVAL);
    EXPECT_EQ(dma_map_sg(dev, &sg, 0, DMA_TO_DEVICE), 0u);
    EXPECT_EQ(pagoda_dma_map_sg(dev, &sg, 2, DMA_TO_DEVICE, 0), -EINVAL); // there is one
    EXPECT_TRUE(test::error_says("ends before"));
    spread_list pieces; // a run to the end
    EXPECT_EQ(pagoda_dma_map_sg(dev, pieces.list, spread_list::kPieces + 1, DMA_TO_DEVICE, 0),
              -EINVAL);
    EXPECT_TRUE(test::error_says("ends before"));
    sg_init_one(&sg, object, 0);
    EXPECT_EQ(dma_map_sgtable(dev, &table, DMA_TO_DEVICE, 0), -EINVAL);
    sg_init_one(&sg, object, 1 << 20); // the object ends before
    EXPECT_EQ(dma_map_sgtable(dev, &table, DMA_TO_DEVICE, 0), -EINVAL);
    EXPECT_EQ(dev.counters().live_mappings, 0u);
    kfree(object);
}

TEST(SgMappingMisuse, IsReported) {
    test::child_end end = in_child([] {
        soft_device dev;
        auto *object = static_cast<char *>(kmalloc(8192, GFP_KERNEL));
        scatterlist list[2];
        sg_init_table(list, 2);
        sg_set_buf(&list[0], object, 64);
        sg_set_buf(&list[1], object + 4096, 64);
        ASSERT_EQ(dma_map_sg(dev, list, 2, DMA_TO_DEVICE), 2u);
        dma_unmap_sg(dev, list, 2, DMA_TO_DEVICE);
        dma_unmap_sg(dev, list, 2, DMA_TO_DEVICE);        // again
        dma_sync_sg_for_cpu(dev, list, 2, DMA_TO_DEVICE); // too late
        kfree(object);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("list of 2 pieces is unmapped and is not mapped so")) << end.errors;
    EXPECT_TRUE(end.said("list of 2 pieces is synchronised and is not mapped so")) << end.errors;
    EXPECT_EQ(end.lines(), 2u) << end.errors;
}

} // namespace
} // namespace pagoda::dma
