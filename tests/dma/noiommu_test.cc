#include "dma/noiommu.h"

#include "dma/device.h"

#include "tests/dma/fake_vfio.h"
#include "tests/unit.h"

#include <functional>
#include <pagoda/device.h>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

// Of a page's record in /proc/self/pagemap, and of a frame's in /proc/kpageflags.
constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kHuge = uint64_t{1} << 17, kTransparent = uint64_t{1} << 22;

struct noiommu : ::testing::Test {
    fake_vfio kernel;
    int container = os::open("/dev/vfio/vfio", O_RDWR);
    // A page table in which the 2048 pages around this function's frame have these entries.
    uintptr_t play(const std::function<uint64_t(uint64_t)> &entry) {
        uint64_t page = static_cast<uint64_t>(getpagesize());
        uint64_t first = reinterpret_cast<uint64_t>(&page) / page - 1024;
        play_file("/proc/self/pagemap", first, entry);
        return first * page;
    }
    // A file of words, of which the 2048 from the `first` on are these.
    void play_file(const char *path, uint64_t first,
                   const std::function<uint64_t(uint64_t)> &entry) {
        kernel.remove(path);
        kernel.write(path, "");
        std::filesystem::resize_file(kernel.root + path, (first + 2048) * 8);
        std::string entries(2048 * 8, 0);
        for (uint64_t i = 0; i < 2048; i++) {
            uint64_t e = entry(i);
            memcpy(&entries[i * 8], &e, 8);
        }
        kernel.patch(path, first * 8, entries);
    }
};

} // namespace

TEST_F(noiommu, maps_nothing_and_refuses_ordinary_memory) {
    if (geteuid() != 0)
        GTEST_SKIP() << "only root sees physical addresses";
    int error = 0;
    iommu *back_end = noiommu_create(container, &error);
    ASSERT_NE(back_end, nullptr) << pagoda_device_error();
    EXPECT_STREQ(back_end->ops->name, "none");
    EXPECT_FALSE(back_end->ops->translates);
    iova_window w[1];
    EXPECT_EQ(back_end->ops->windows(*back_end, w, 1), 1);
    EXPECT_EQ(w[0].first, 0u);
    EXPECT_EQ(back_end->ops->entries_left(*back_end), UINT64_MAX);
    EXPECT_EQ(back_end->ops->map(*back_end, 0, 0x700000, 4096, kDeviceReads), -EOPNOTSUPP);
    EXPECT_EQ(back_end->ops->unmap(*back_end, 0, 4096), -EOPNOTSUPP);
    EXPECT_NE(strstr(pagoda_device_error(), "physical addresses"), nullptr);
    static char bytes[1] = {1};
    EXPECT_EQ(back_end->ops->physical(*back_end, reinterpret_cast<uintptr_t>(bytes)), 0u);
    EXPECT_EQ(errno, ERANGE) << pagoda_device_error();
    back_end->ops->close(*back_end);
    EXPECT_EQ(fcntl(container, F_GETFD), -1) << "the container is closed with it";
}

TEST_F(noiommu, without_the_right_to_see_frames_there_is_none) {
    // What a user without CAP_SYS_ADMIN reads.
    play([](uint64_t) { return kPresent; });
    int error = 0;
    EXPECT_EQ(noiommu_create(container, &error), nullptr);
    EXPECT_EQ(error, -EPERM);
    EXPECT_NE(strstr(pagoda_device_error(), "CAP_SYS_ADMIN"), nullptr) << pagoda_device_error();
    EXPECT_EQ(fcntl(container, F_GETFD), -1);
}

TEST_F(noiommu, frames_of_absent_pages_are_unknown) {
    uint64_t page = static_cast<uint64_t>(getpagesize());
    uintptr_t at = play([](uint64_t i) { return kPresent | (0x1000 + i); });
    play_file("/proc/kpageflags", 0x1000, [](uint64_t) { return kHuge; });
    int error = 0;
    iommu *back_end = noiommu_create(container, &error);
    ASSERT_NE(back_end, nullptr) << pagoda_device_error();
    EXPECT_EQ(back_end->ops->physical(*back_end, at + 0x234), 0x1000 * page + 0x234);
    EXPECT_EQ(back_end->ops->physical(*back_end, at + page), 0x1001 * page);
    EXPECT_EQ(back_end->ops->physical(*back_end, 0x1000), 0u);
    EXPECT_EQ(errno, EFAULT);
    back_end->ops->close(*back_end);
}

TEST_F(noiommu, memory_that_can_move_has_no_physical_address) {
    uintptr_t at = play([](uint64_t i) { return kPresent | (i == 3 ? 0x9000 : 0x1000 + i); });
    play_file("/proc/kpageflags", 0x1000, [](uint64_t i) {
        return i == 0 ? kHuge : i == 1 ? kTransparent : 0;
    });
    int error = 0;
    iommu *back_end = noiommu_create(container, &error);
    ASSERT_NE(back_end, nullptr) << pagoda_device_error();
    uint64_t page = static_cast<uint64_t>(getpagesize());
    EXPECT_EQ(back_end->ops->physical(*back_end, at), 0x1000 * page);
    for (uint64_t i : {1, 2}) {
        errno = 0;
        EXPECT_EQ(back_end->ops->physical(*back_end, at + i * page), 0u) << i;
        EXPECT_EQ(errno, ERANGE);
        EXPECT_NE(strstr(pagoda_device_error(), "nr_hugepages"), nullptr) << pagoda_device_error();
        EXPECT_TRUE(sentence_is_kept(ENOMEM)) << "an allocation ends with this sentence";
    }
    EXPECT_EQ(back_end->ops->physical(*back_end, at + 3 * page), 0u) << "nothing is said of it";
    EXPECT_EQ(errno, EIO);
    back_end->ops->close(*back_end);
}

TEST_F(noiommu, without_what_tells_of_memory_there_is_none) {
    kernel.remove("/proc/kpageflags");
    int error = 0;
    EXPECT_EQ(noiommu_create(container, &error), nullptr);
    EXPECT_EQ(error, -ENOENT);
    kernel.write("/proc/kpageflags", "");
    kernel.remove("/proc/self/pagemap");
    EXPECT_EQ(noiommu_create(os::open("/dev/vfio/vfio", O_RDWR), &error), nullptr);
    EXPECT_EQ(error, -ENOENT);
}
