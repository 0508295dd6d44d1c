#include "dma/type1.h"

#include "tests/dma/fake_vfio.h"
#include "tests/unit.h"

#include <pagoda/dma-mapping.h>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

struct type1 : ::testing::Test {
    fake_vfio kernel;
    iommu *back_end = type1_create(os::open("/dev/vfio/vfio", O_RDWR));
    ~type1() override { back_end->ops->close(*back_end); }
    int map(uint64_t iova, uint64_t bytes) {
        return back_end->ops->map(*back_end, iova, 0x700000, bytes, kDeviceReads);
    }
    int unmap(uint64_t iova, uint64_t bytes) {
        return back_end->ops->unmap(*back_end, iova, bytes);
    }
};

bool said(const char *text) { return strstr(pagoda_device_error(), text) != nullptr; }

} // namespace

TEST_F(type1, is_what_the_kernel_says) {
    EXPECT_STREQ(back_end->ops->name, "type1");
    EXPECT_TRUE(back_end->ops->translates);
    EXPECT_EQ(back_end->granule, 4096u);
    iova_window w[2] = {};
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 2), 2);
    EXPECT_EQ(w[0].last, 0xfedfffffu);
    EXPECT_EQ(back_end->ops->physical(*back_end, 0x700000), 0u);
    kernel.windows.clear(); // a kernel that lists none: around the interrupts' addresses
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 2), 2);
    EXPECT_EQ(w[0].last, 0xfedfffffu);
    EXPECT_EQ(w[1].first, 0xfef00000u);
    EXPECT_EQ(w[1].last, (uint64_t{1} << 39) - 1);
    kernel.errors[VFIO_IOMMU_GET_INFO] = EFAULT;
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 2), -EFAULT);
    EXPECT_TRUE(said("windows"));
    EXPECT_EQ(back_end->ops->entries_left(*back_end), UINT64_MAX);
}

TEST_F(type1, the_granule_is_the_smallest_page) {
    kernel.page_sizes = 0x40210000;
    iommu *large = type1_create(os::open("/dev/vfio/vfio", O_RDWR));
    EXPECT_EQ(large->granule, 65536u);
    large->ops->close(*large);
}

TEST_F(type1, maps_until_the_entries_are_used_up) {
    kernel.entries = 3;
    EXPECT_EQ(back_end->ops->entries_left(*back_end), 3u);
    for (uint64_t i = 0; i < 3; i++)
        EXPECT_EQ(map(i << 20, 4096), 0);
    EXPECT_EQ(back_end->ops->entries_left(*back_end), 0u);
    EXPECT_EQ(map(3 << 20, 4096), -ENOSPC);
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_TRUE(said("65,535")) << pagoda_device_error();
    EXPECT_EQ(unmap(0, 4096), 0);
    EXPECT_EQ(map(3 << 20, 4096), 0);
}

TEST_F(type1, every_refusal_has_its_sentence) {
    EXPECT_EQ(map(1 << 20, 8192), 0);
    EXPECT_EQ(map((1 << 20) + 4096, 4096), -EEXIST);
    EXPECT_TRUE(said("mapped already")) << pagoda_device_error();
    EXPECT_EQ(map(0xfee00000, 4096), -EINVAL);
    EXPECT_TRUE(said("0xfee00000")) << pagoda_device_error();
    EXPECT_EQ(unmap(1 << 20, 4096), -EINVAL);
    EXPECT_TRUE(said("what one mapping made")) << pagoda_device_error();
    EXPECT_EQ(unmap(2 << 20, 4096), -ENOENT);
    EXPECT_EQ(unmap(1 << 20, 8192), 0);
}

TEST_F(type1, the_memlock_limit_is_named_with_what_is_needed) {
    kernel.errors[VFIO_IOMMU_MAP_DMA] = ENOMEM;
    EXPECT_TRUE(succeeded(in_child([this] {
        limit(RLIMIT_MEMLOCK, 64 << 10);
        EXPECT_EQ(map(1 << 20, 2 << 20), -ENOMEM);
        EXPECT_TRUE(said("RLIMIT_MEMLOCK is 64 KiB")) << pagoda_device_error();
        EXPECT_TRUE(said("2048 KiB more")) << pagoda_device_error();
        EXPECT_TRUE(said("CAP_IPC_LOCK")) << pagoda_device_error();
    })));
}

TEST_F(type1, closes_its_container) {
    int container = os::open("/dev/vfio/vfio", O_RDWR);
    iommu *other = type1_create(container);
    EXPECT_GE(fcntl(container, F_GETFD), 0);
    other->ops->close(*other);
    EXPECT_EQ(fcntl(container, F_GETFD), -1);
}

// What the program hears is what the kernel's refusal was about, from wherever it was mapped.
TEST(type1_limits, are_named_to_the_program) {
    EXPECT_TRUE(succeeded(in_child([] {
        fake_vfio kernel;
        device *dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
        ASSERT_NE(dev, nullptr) << pagoda_device_error();
        EXPECT_EQ(dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64)), 0);
        EXPECT_EQ(pagoda_dma_set_mode(dev, PAGODA_DMA_STRICT), 0);
        void *pages = aligned_alloc(4096, 1 << 20);
        kernel.entries = 0;
        EXPECT_EQ(dma_map_single(dev, pages, 1 << 20, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_EQ(errno, ENOSPC);
        EXPECT_TRUE(said("65,535")) << pagoda_device_error();
        kernel.errors[VFIO_IOMMU_MAP_DMA] = ENOMEM;
        limit(RLIMIT_MEMLOCK, 64 << 10);
        EXPECT_EQ(dma_map_single(dev, pages, 1 << 20, DMA_TO_DEVICE), DMA_MAPPING_ERROR);
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_TRUE(said("RLIMIT_MEMLOCK is 64 KiB")) << pagoda_device_error();
        dma_addr_t handle = 0;
        EXPECT_EQ(dma_alloc_coherent(dev, 1 << 20, &handle, GFP_KERNEL | __GFP_NOWARN), nullptr);
        EXPECT_TRUE(said("RLIMIT_MEMLOCK is 64 KiB")) << pagoda_device_error();
        kernel.errors.clear();
        kernel.entries = 65535;
        pagoda_device_close(dev);
    })));
}
