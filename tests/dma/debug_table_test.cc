#include "dma/debug_table.h"

#include "tests/unit.h"

#include <memory>

namespace pagoda::dma {
namespace {

debug_record record(uint64_t address, size_t bytes, dma_data_direction dir,
                    made_by by = made_by::single) {
    debug_record r = {};
    r.use = {address, bytes, dir, by, nullptr};
    r.memory = reinterpret_cast<void *>(address + 0x100000);
    return r;
}

TEST(DebugTable, FindsTheOneThatIsMeant) {
    auto table = std::make_unique<debug_table>();
    debug_record a = record(100, 50, DMA_TO_DEVICE), b = record(100, 60, DMA_FROM_DEVICE),
                 c = record(110, 50, DMA_TO_DEVICE),
                 d = record(100, 70, DMA_TO_DEVICE, made_by::coherent);
    for (debug_record *r : {&a, &b, &c, &d})
        table->add(r);
    auto find = [&](uint64_t at, size_t bytes, dma_data_direction dir,
                    made_by by = made_by::single) {
        return table->find({at, bytes, dir, by, nullptr});
    };
    EXPECT_EQ(find(100, 50, DMA_TO_DEVICE), &a);
    EXPECT_EQ(find(100, 60, DMA_TO_DEVICE), &b);
    EXPECT_EQ(find(100, 1, DMA_TO_DEVICE), &a);
    EXPECT_EQ(find(100, 1, DMA_TO_DEVICE, made_by::coherent), &d);
    EXPECT_EQ(find(110, 9, DMA_NONE), &c);
    EXPECT_EQ(find(101, 50, DMA_TO_DEVICE), nullptr);
    EXPECT_EQ(table->best({155, 3, DMA_FROM_DEVICE, made_by::single, nullptr}), &b);
    EXPECT_EQ(table->best({155, 3, DMA_TO_DEVICE, made_by::single, nullptr})->use.dir,
              DMA_TO_DEVICE);
    EXPECT_EQ(table->best({170, 3, DMA_TO_DEVICE, made_by::single, nullptr}), nullptr);
    // Memory is that of mappings.
    EXPECT_EQ(table->memory.find(0x100000 + 165, 0x100000 + 165), nullptr);
    EXPECT_EQ(&debug_record::of_memory(table->memory.find(0x100000 + 159, 0x100000 + 159)), &b);
    debug_record three = record(100, 50, DMA_TO_DEVICE, made_by::list), one = three, later = three;
    three.use.pieces = 3;
    one.use.pieces = 1;
    for (debug_record *r : {&three, &one, &later})
        table->add(r);
    for (auto &[pieces, r] : {std::pair{3u, &three}, {1u, &one}, {0u, &later}})
        EXPECT_EQ(table->find({100, 50, DMA_TO_DEVICE, made_by::list, nullptr, pieces}), r);
    for (debug_record *r : {&a, &b, &c, &d, &three, &one, &later})
        table->remove(r);
    EXPECT_EQ(table->addresses.any(), nullptr);
    EXPECT_EQ(table->memory.any(), nullptr);
}

TEST(DebugTable, RemembersTheLastOnesThatWere) {
    auto table = std::make_unique<debug_table>();
    EXPECT_EQ(table->find_past(0), nullptr);
    table->note_past({5, table.get(), nullptr});
    table->note_past({5, nullptr, table.get()});
    EXPECT_EQ(table->find_past(5)->undone, table.get());
    for (uint64_t i = 0; i < debug_table::kPast; i++)
        table->note_past({1000 + i, nullptr, nullptr});
    EXPECT_EQ(table->find_past(5), nullptr);
    EXPECT_NE(table->find_past(1000), nullptr);
}

TEST(DebugTable, NamesWhatTheProgramWrote) {
    EXPECT_STREQ(name_of(DMA_FROM_DEVICE), "DMA_FROM_DEVICE");
    EXPECT_STREQ(name_of(DMA_NONE), "DMA_NONE");
    EXPECT_STREQ(maker_of(made_by::list), "dma_map_sg");
    EXPECT_STREQ(maker_of(made_by::noncontiguous), "dma_alloc_noncontiguous");
    EXPECT_STREQ(undoer_of(made_by::page), "dma_unmap_page");
    EXPECT_STREQ(undoer_of(made_by::pages), "dma_free_pages");
    EXPECT_EQ(made_by_of(DMA_ATTR_SKIP_CPU_SYNC | PAGODA_DMA_BY_RESOURCE), made_by::resource);
    EXPECT_EQ(made_by_of(DMA_ATTR_SKIP_CPU_SYNC), made_by::single);
}

} // namespace
} // namespace pagoda::dma
