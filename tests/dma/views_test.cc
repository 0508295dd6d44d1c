#include "dma/views.h"

#include "lib/device_pages.h"
#include "tests/dma/soft.h"

#include <pagoda/slab.h>
#include <pagoda/vma.h>

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

namespace pagoda::dma {
namespace {

using test::error_says;
using test::soft_device;

constexpr unsigned long kBoth = VM_READ | VM_WRITE;

char *at(const vm_area_struct &vma) { return reinterpret_cast<char *>(vma.vm_start); }

struct coherent {
    explicit coherent(device *d, size_t n) : dev(d), bytes(n) {
        p = static_cast<char *>(dma_alloc_coherent(dev, bytes, &handle, GFP_KERNEL));
        EXPECT_NE(p, nullptr) << pagoda_device_error();
    }
    int mmap(vm_area_struct *vma) const { return dma_mmap_coherent(dev, vma, p, handle, bytes); }
    void free() const { dma_free_coherent(dev, bytes, p, handle); }

    device *dev;
    size_t bytes;
    dma_addr_t handle = 0;
    char *p;
};

// Where the hugetlb pool has pages the zones are made of those, and those have none.
class Views : public testing::Test {
  protected:
    void SetUp() override {
        soft_device dev;
        coherent memory(dev, 4096);
        vm_area_struct vma = {0, 4096, 0, kBoth};
        int error = memory.mmap(&vma);
        if (error == 0)
            pagoda_dma_munmap(&vma);
        memory.free();
        if (error == -EOPNOTSUPP)
            GTEST_SKIP() << pagoda_device_error();
        ASSERT_EQ(error, 0) << pagoda_device_error();
    }
};

TEST_F(Views, AreTheSameMemoryForProgramAndDevice) {
    soft_device dev;
    for (size_t bytes : {size_t{20000}, (size_t{9} << 20) + 5}) { // pages of a zone, and a region
        coherent memory(dev, bytes);
        strcpy(memory.p + 4096, "before");
        vm_area_struct vma = {0, 3 * 4096, 1, kBoth | VM_SHARED};
        ASSERT_EQ(memory.mmap(&vma), 0) << pagoda_device_error();
        EXPECT_EQ(vma_pages(&vma), 3u);
        EXPECT_NE(at(vma), memory.p + 4096);
        EXPECT_STREQ(at(vma), "before");
        strcpy(at(vma) + 8192, "by the view");
        EXPECT_EQ(dev.reads(memory.handle + 3 * 4096, 11), "by the view");
        ASSERT_EQ(dev.writes(memory.handle + 2 * 4096, "by the device"), 0);
        EXPECT_STREQ(at(vma) + 4096, "by the device");
        EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
        EXPECT_STREQ(memory.p + 3 * 4096, "by the view");
        memory.free();
    }
}

TEST_F(Views, LieWhereTheCallerWantsThem) {
    soft_device dev;
    coherent memory(dev, 4 * 4096);
    void *room = mmap(nullptr, 4 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    auto start = reinterpret_cast<unsigned long>(room);
    vm_area_struct vma = {start + 4096, start + 3 * 4096, 2, kBoth};
    ASSERT_EQ(memory.mmap(&vma), 0) << pagoda_device_error();
    EXPECT_EQ(vma.vm_start, start + 4096);
    strcpy(at(vma) + 4096, "here");
    EXPECT_STREQ(memory.p + 3 * 4096, "here");
    vm_area_struct other = {start + 2 * 4096, start + 4 * 4096, 0, kBoth};
    EXPECT_EQ(memory.mmap(&other), -EBUSY);
    EXPECT_TRUE(error_says("already"));
    EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    EXPECT_EQ(memory.mmap(&other), 0);
    EXPECT_EQ(pagoda_dma_munmap(&other), 0);
    munmap(room, 4 * 4096);
    memory.free();
}

TEST_F(Views, AreOfEveryKindOfMemoryForDevices) {
    soft_device dev;
    EXPECT_TRUE(dma_can_mmap(dev));
    dma_addr_t handle;
    vm_area_struct vma = {0, 8192, 0, kBoth};
    ::page *page = dma_alloc_pages(dev, 8192, &handle, DMA_TO_DEVICE, GFP_KERNEL);
    ASSERT_NE(page, nullptr);
    ASSERT_EQ(dma_mmap_pages(dev, &vma, 8192, page), 0) << pagoda_device_error();
    strcpy(at(vma) + 5000, "pages");
    EXPECT_EQ(dev.reads(handle + 5000, 5), "pages");
    EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    vma = {0, 3 * 4096, 0, kBoth};
    EXPECT_EQ(dma_mmap_pages(dev, &vma, 8192, page), -ENXIO);
    EXPECT_EQ(dma_mmap_pages(dev, &vma, 4096, page), -ENXIO);
    dma_free_pages(dev, 8192, page, handle, DMA_TO_DEVICE);

    sg_table *table = dma_alloc_noncontiguous(dev, 5000, DMA_TO_DEVICE, GFP_KERNEL, 0);
    ASSERT_NE(table, nullptr);
    vma = {0, 8192, 0, kBoth};
    ASSERT_EQ(dma_mmap_noncontiguous(dev, &vma, 5000, table), 0) << pagoda_device_error();
    strcpy(at(vma), "table");
    EXPECT_EQ(dev.reads(sg_dma_address(table->sgl), 5), "table");
    EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    dma_free_noncontiguous(dev, 5000, table, DMA_TO_DEVICE);

    void *p = dma_alloc_wc(dev, 100, &handle, GFP_KERNEL);
    vma = {0, 4096, 0, kBoth};
    ASSERT_EQ(dma_mmap_wc(dev, &vma, p, handle, 100), 0);
    EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    dma_free_wc(dev, 100, p, handle);
}

TEST_F(Views, StayInsideOfTheAllocation) {
    soft_device dev;
    coherent memory(dev, 3 * 4096 + 1); // four pages
    struct {
        vm_area_struct vma;
        int error;
    } cases[] = {
        {{0, 5 * 4096, 0, kBoth}, -ENXIO},  {{0, 2 * 4096, 3, kBoth}, -ENXIO},
        {{0, 4096, 4, kBoth}, -ENXIO},      {{0, 4096, ~0UL, kBoth}, -ENXIO},
        {{0, 0, 0, kBoth}, -EINVAL},        {{8192, 4096, 0, kBoth}, -EINVAL},
        {{0, 4097, 0, kBoth}, -EINVAL},     {{100, 4096 + 100, 0, kBoth}, -EINVAL},
        {{0, 4096, 0, VM_SHARED}, -EINVAL}, {{0, 4 * 4096, 0, kBoth}, 0},
        {{0, 4096, 3, kBoth}, 0},
    };
    for (auto &c : cases) {
        EXPECT_EQ(memory.mmap(&c.vma), c.error) << c.vma.vm_end << " " << c.vma.vm_pgoff;
        if (c.error == 0) {
            EXPECT_EQ(pagoda_dma_munmap(&c.vma), 0);
        }
    }
    vm_area_struct vma = {0, 4096, 0, kBoth};
    EXPECT_EQ(dma_mmap_attrs(dev, &vma, memory.p, memory.handle, 4096, 0), -ENXIO) << "its size";
    EXPECT_EQ(dma_mmap_attrs(dev, &vma, memory.p + 1, memory.handle, memory.bytes, 0), -ENXIO);
    EXPECT_EQ(dma_mmap_attrs(dev, &vma, memory.p, memory.handle + 4096, memory.bytes, 0), -ENXIO);
    auto own = reinterpret_cast<unsigned long>(memory.p);
    vma = {own, own + 4096, 0, kBoth};
    EXPECT_EQ(memory.mmap(&vma), -EINVAL) << "over the memory itself";
    memory.free();
    vma = {0, 4096, 0, kBoth};
    EXPECT_EQ(memory.mmap(&vma), -ENXIO) << "it is freed";
}

TEST_F(Views, HaveTheRightsOfTheirRange) {
    soft_device dev;
    coherent memory(dev, 4096);
    vm_area_struct vma = {0, 4096, 0, VM_READ};
    ASSERT_EQ(memory.mmap(&vma), 0);
    strcpy(memory.p, "read");
    EXPECT_STREQ(at(vma), "read");
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    ASSERT_EQ(write(fds[1], "x", 1), 1);
    EXPECT_EQ(read(fds[0], at(vma), 1), -1) << "the kernel cannot write there, nor can we";
    EXPECT_EQ(errno, EFAULT);
    close(fds[0]);
    close(fds[1]);
    EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    memory.free();
}

// Free pages of the device zones.
uint64_t free_pages() { return device_pages_get_stats(0, UINT64_MAX).free; }

TEST_F(Views, KeepMemoryThatIsFreedUntilTheLastOneEnds) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        coherent memory(dev, 8192);
        uint64_t before = free_pages();
        vm_area_struct first = {0, 8192, 0, kBoth};
        vm_area_struct second = {0, 4096, 1, kBoth};
        ASSERT_EQ(memory.mmap(&first), 0);
        ASSERT_EQ(memory.mmap(&second), 0);
        strcpy(at(second), "kept");
        memory.free();
        EXPECT_EQ(free_pages(), before);
        EXPECT_EQ(dev.reads(memory.handle + 4096, 4), "kept");
        EXPECT_EQ(pagoda_dma_munmap(&first), 0);
        EXPECT_EQ(free_pages(), before);
        EXPECT_STREQ(at(second), "kept");
        EXPECT_EQ(pagoda_dma_munmap(&second), 0);
        EXPECT_EQ(free_pages(), before + 2);
        EXPECT_EQ(pagoda_dma_munmap(&second), -EINVAL); // twice
        memory.free();                                  // likewise
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 3u) << end.errors;
    EXPECT_TRUE(end.said("(8192 bytes) is freed while there are views of it")) << end.errors;
    EXPECT_TRUE(end.said("no view begins at")) << end.errors;
}

TEST_F(Views, OutliveTheirDevice) {
    test::child_end end = test::in_child([] {
        for (size_t bytes : {size_t{8192}, size_t{9} << 20}) {
            vm_area_struct vma = {0, 8192, 0, kBoth};
            vm_area_struct of_left = {0, 8192, 0, kBoth};
            {
                soft_device dev;
                coherent memory(dev, bytes), left(dev, bytes);
                ASSERT_EQ(memory.mmap(&vma), 0);
                ASSERT_EQ(left.mmap(&of_left), 0);
                strcpy(at(vma), "freed");
                strcpy(at(of_left), "not freed");
                memory.free();
            }
            EXPECT_STREQ(at(vma), "freed");
            EXPECT_STREQ(at(of_left), "not freed");
            EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
            EXPECT_EQ(pagoda_dma_munmap(&of_left), 0);
        }
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.lines(), 4u) << end.errors; // what is freed with views, and what is left
}

TEST_F(Views, AreNotForChildren) {
    soft_device dev;
    coherent memory(dev, 4096);
    vm_area_struct vma = {0, 4096, 0, kBoth};
    ASSERT_EQ(memory.mmap(&vma), 0);
    test::child_end end = test::in_child([&] {
        unsigned char there;
        EXPECT_EQ(mincore(at(vma), 4096, &there), -1);
        EXPECT_EQ(errno, ENOMEM) << "nothing is mapped there";
        vm_area_struct other = {0, 4096, 0, kBoth};
        EXPECT_EQ(memory.mmap(&other), -ENODEV);
        EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
    strcpy(at(vma), "still there");
    EXPECT_STREQ(memory.p, "still there");
    EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
    memory.free();
}

TEST_F(Views, AreRefusedWhenAddressesAreShort) {
    test::child_end end = test::in_child([] {
        soft_device dev;
        coherent memory(dev, 1 << 20);
        vm_area_struct vma = {0, 4096, 0, kBoth};
        ASSERT_EQ(memory.mmap(&vma), 0); // what records take is there now
        EXPECT_EQ(pagoda_dma_munmap(&vma), 0);
        rlimit none = {1, 1};
        ASSERT_EQ(setrlimit(RLIMIT_AS, &none), 0);
        vma = {0, 1 << 20, 0, kBoth};
        EXPECT_EQ(memory.mmap(&vma), -ENOMEM);
        EXPECT_TRUE(error_says("vm.max_map_count"));
        EXPECT_EQ(vma.vm_start, 0u);
        memory.free();
    });
    EXPECT_TRUE(test::succeeded(end));
    EXPECT_EQ(end.errors, "");
}

// Allocations, views and frees in any order: no view ever shows what is not its allocation's.
TEST_F(Views, RandomOnesAgreeWithAModel) {
    test::child_end end = test::in_child([] { // frees with views are reported
        struct shown {
            vm_area_struct vma;
            int owner;
        };
        soft_device dev;
        test::random_numbers random(1);
        std::vector<std::pair<coherent, int>> live;
        std::vector<shown> views;
        for (int i = 1; i <= 3000; i++) {
            uint64_t what = random.below(8);
            if (what < 2 && live.size() < 40) {
                live.emplace_back(coherent(dev, (random.below(4) + 1) * 4096), i);
                for (size_t at = 0; at < live.back().first.bytes; at += 4096)
                    memcpy(live.back().first.p + at, &i, sizeof i);
            } else if (what < 5 && !live.empty() && views.size() < 60) {
                auto &[memory, id] = live[random.below(live.size())];
                unsigned long pages = memory.bytes / 4096, skip = random.below(pages);
                vm_area_struct vma = {0, (random.below(pages - skip) + 1) * 4096, skip, kBoth};
                ASSERT_EQ(memory.mmap(&vma), 0) << pagoda_device_error();
                views.push_back({vma, id});
            } else if (what < 6 && !live.empty()) {
                size_t n = random.below(live.size());
                live[n].first.free();
                live.erase(live.begin() + static_cast<long>(n));
            } else if (!views.empty()) {
                size_t n = random.below(views.size());
                for (unsigned long p = views[n].vma.vm_start; p < views[n].vma.vm_end; p += 4096)
                    ASSERT_EQ(*reinterpret_cast<int *>(p), views[n].owner);
                ASSERT_EQ(pagoda_dma_munmap(&views[n].vma), 0);
                views.erase(views.begin() + static_cast<long>(n));
            }
        }
        for (auto &v : views)
            ASSERT_EQ(pagoda_dma_munmap(&v.vma), 0);
        for (auto &m : live)
            m.first.free();
        EXPECT_GT(free_pages(), 0u);
    });
    EXPECT_TRUE(test::succeeded(end));
}

TEST(GetSgtable, IsAPieceForAnotherDevice) {
    soft_device dev;
    pagoda_software_options options = {};
    options.beside = dev.get();
    soft_device other(~uint64_t{0}, options);
    coherent memory(dev, 5000);
    sg_table table;
    ASSERT_EQ(dma_get_sgtable(dev, &table, memory.p, memory.handle, 5000), 0);
    EXPECT_EQ(table.orig_nents, 1u);
    EXPECT_EQ(sg_virt(table.sgl), memory.p);
    EXPECT_EQ(table.sgl->length, 8192u);
    ASSERT_EQ(dma_map_sgtable(other, &table, DMA_BIDIRECTIONAL, 0), 0) << pagoda_device_error();
    ASSERT_EQ(other.writes(sg_dma_address(table.sgl) + 4990, "other"), 0);
    dma_unmap_sgtable(other, &table, DMA_BIDIRECTIONAL, 0);
    EXPECT_STREQ(memory.p + 4990, "other");
    sg_free_table(&table);
    EXPECT_EQ(dma_get_sgtable(dev, &table, memory.p, memory.handle, 4096), -ENXIO);
    EXPECT_EQ(dma_get_sgtable_attrs(dev, &table, memory.p, memory.handle + 1, 5000, 0), -ENXIO);
    memory.free();
}

} // namespace
} // namespace pagoda::dma
