#include "dma/iommufd.h"

#include "tests/dma/fake_vfio.h"
#include "tests/unit.h"

#include <pagoda/device.h>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

struct iommufd : ::testing::Test {
    fake_vfio kernel;
    int fd = os::open("/dev/iommu", O_RDWR);
    int error = 0;
    iommu *back_end = iommufd_create(fd, 1, &error);
    ~iommufd() override {
        if (back_end != nullptr)
            back_end->ops->close(*back_end);
    }
    int map(uint64_t iova, uint64_t bytes, int access = kDeviceWrites) {
        return back_end->ops->map(*back_end, iova, 0x700000, bytes, access);
    }
};

bool said(const char *text) { return strstr(pagoda_device_error(), text) != nullptr; }

} // namespace

TEST_F(iommufd, is_what_the_kernel_says) {
    EXPECT_STREQ(back_end->ops->name, "iommufd");
    EXPECT_TRUE(back_end->ops->translates);
    iova_window w[2] = {};
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 1), 2);
    EXPECT_EQ(w[0].last, 0xfedfffffu);
    EXPECT_EQ(back_end->granule, 4096u);
    EXPECT_EQ(back_end->ops->entries_left(*back_end), UINT64_MAX);
    EXPECT_EQ(back_end->ops->physical(*back_end, 0x700000), 0u);
    kernel.errors[kIoasRanges] = EINVAL;
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 2), -EINVAL);
}

TEST_F(iommufd, maps_at_the_address_that_was_asked_for) {
    EXPECT_EQ(map(0x40000000, 2 << 20), 0);
    EXPECT_EQ(kernel.mapped[0x40000000].bytes, 2u << 20);
    EXPECT_EQ(kernel.mapped[0x40000000].flags, 2u);
    EXPECT_EQ(map(0x80000000, 4096, kDeviceReads), 0);
    EXPECT_EQ(kernel.mapped[0x80000000].flags, 1u);
    EXPECT_EQ(back_end->ops->unmap(*back_end, 0x40000000, 2 << 20), 0);
    EXPECT_EQ(kernel.mapped.count(0x40000000), 0u);
}

TEST_F(iommufd, refusals_are_those_of_every_back_end) {
    EXPECT_EQ(map(1 << 20, 8192), 0);
    EXPECT_EQ(map(1 << 20, 4096), -EEXIST) << "the kernel says EADDRINUSE";
    EXPECT_TRUE(said("mapped already")) << pagoda_device_error();
    EXPECT_EQ(map(0xfee00000, 4096), -EINVAL);
    EXPECT_EQ(back_end->ops->unmap(*back_end, 1 << 20, 4096), -ENOENT);
    EXPECT_TRUE(said("what one mapping made")) << pagoda_device_error();
    kernel.errors[kIoasMap] = ENOMEM;
    EXPECT_TRUE(succeeded(in_child([this] {
        limit(RLIMIT_MEMLOCK, 64 << 10);
        EXPECT_EQ(map(2 << 20, 2 << 20), -ENOMEM);
        EXPECT_TRUE(said("RLIMIT_MEMLOCK is 64 KiB")) << pagoda_device_error();
    })));
}

TEST_F(iommufd, has_the_unit_that_the_kernel_says_from_the_beginning) {
    kernel.alignment = 65536;
    iommu *larger = iommufd_create(os::open("/dev/iommu", O_RDWR), 2, &error);
    ASSERT_NE(larger, nullptr);
    EXPECT_EQ(larger->granule, 65536u);
    larger->ops->close(*larger);
    // Another device came to the address space of the first, and would have it change.
    iova_window w[2];
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 2), -EADDRINUSE);
    EXPECT_EQ(back_end->granule, 4096u);
    kernel.alignment = 1; // no device
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 2), 2);
    kernel.errors[kIoasRanges] = EIO;
    int other = os::open("/dev/iommu", O_RDWR);
    EXPECT_EQ(iommufd_create(other, 3, &error), nullptr);
    EXPECT_EQ(error, -EIO);
    EXPECT_EQ(fcntl(other, F_GETFD), -1) << "it is closed";
}

TEST_F(iommufd, closes_its_descriptor) {
    back_end->ops->close(*back_end);
    back_end = nullptr;
    EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}
