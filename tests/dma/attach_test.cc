#include "dma/attach.h"

#include "dma/device.h"

#include "tests/dma/edu.h"

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

struct attach_test : ::testing::Test {
    fake_vfio kernel;
    static attachment named(const char *name) {
        attachment a = {};
        snprintf(a.name, sizeof a.name, "%s", name);
        return a;
    }
    // The error of opening edu by these means.
    int open(pagoda_iommu kind) {
        device *dev = pagoda_device_open(kEdu, kind);
        int error = dev == nullptr ? errno : 0;
        pagoda_device_close(dev);
        return error;
    }
    int open_files() {
        std::filesystem::directory_iterator files("/proc/self/fd");
        return static_cast<int>(std::distance(begin(files), end(files)));
    }
    int before = open_files();
    void TearDown() override { EXPECT_EQ(open_files(), before) << "a descriptor is left"; }
};

} // namespace

TEST_F(attach_test, what_was_asked_for_is_what_it_becomes) {
    for (pagoda_iommu kind : {PAGODA_IOMMU_TYPE1, PAGODA_IOMMU_IOMMUFD}) {
        device *dev = pagoda_device_open(kEdu, kind);
        ASSERT_NE(dev, nullptr) << pagoda_device_error();
        EXPECT_EQ(pagoda_device_iommu(dev), kind);
        uint64_t first[2], last[2];
        EXPECT_EQ(pagoda_device_windows(dev, first, last, 2), 2);
        EXPECT_EQ(first[1], 0xfef00000u);
        pagoda_device_close(dev);
    }
}

TEST_F(attach_test, any_is_iommufd_where_it_is_and_type1_elsewhere) {
    device *dev = pagoda_device_open(kEdu, PAGODA_IOMMU_ANY);
    ASSERT_NE(dev, nullptr);
    EXPECT_EQ(pagoda_device_iommu(dev), PAGODA_IOMMU_IOMMUFD);
    pagoda_device_close(dev);
    kernel.remove(fake_vfio::folder(kEdu) + "/vfio-dev");
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_ANY);
    ASSERT_NE(dev, nullptr);
    EXPECT_EQ(pagoda_device_iommu(dev), PAGODA_IOMMU_TYPE1);
    pagoda_device_close(dev);
    kernel.remove("/dev/iommu");
    EXPECT_EQ(open(PAGODA_IOMMU_ANY), 0);
    EXPECT_EQ(open(PAGODA_IOMMU_IOMMUFD), ENOENT);
    EXPECT_TRUE(said("CONFIG_IOMMUFD"));
}

TEST_F(attach_test, any_is_never_no_iommu_mode) {
    kernel.remove("/dev/iommu");
    kernel.noiommu = true;
    kernel.write("/dev/vfio/noiommu-5", "");
    EXPECT_EQ(open(PAGODA_IOMMU_ANY), ENODEV);
    EXPECT_TRUE(said("modprobe vfio_iommu_type1")) << pagoda_device_error();
}

TEST_F(attach_test, no_iommu_mode_where_it_is_asked_for) {
    kernel.noiommu = true;
    EXPECT_EQ(open(PAGODA_IOMMU_NONE), ENOENT);
    EXPECT_TRUE(said("no-IOMMU mode is off")) << pagoda_device_error();
    kernel.write("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    EXPECT_EQ(open(PAGODA_IOMMU_NONE), ENOENT);
    EXPECT_TRUE(said("bind it again")) << pagoda_device_error();
    if (geteuid() != 0)
        GTEST_SKIP() << "the rest needs root";
    kernel.write("/dev/vfio/noiommu-5", "");
    device *dev = pagoda_device_open(kEdu, PAGODA_IOMMU_NONE);
    ASSERT_NE(dev, nullptr) << pagoda_device_error();
    EXPECT_EQ(pagoda_device_iommu(dev), PAGODA_IOMMU_NONE);
    pagoda_device_close(dev);
}

TEST_F(attach_test, a_kernel_without_vfio) {
    kernel.remove("/dev/vfio/vfio");
    for (pagoda_iommu kind : {PAGODA_IOMMU_TYPE1, PAGODA_IOMMU_NONE}) {
        EXPECT_EQ(open(kind), ENOENT);
        EXPECT_TRUE(said("there is no /dev/vfio/vfio")) << pagoda_device_error();
    }
}

TEST_F(attach_test, without_containers_any_says_what_keeps_iommufd_from_it) {
    kernel.remove("/dev/vfio/vfio");
    kernel.errors[kBind] = EPERM;
    EXPECT_EQ(open(PAGODA_IOMMU_IOMMUFD), EPERM);
    std::string reason = pagoda_device_error();
    EXPECT_EQ(open(PAGODA_IOMMU_ANY), EPERM);
    EXPECT_EQ(pagoda_device_error(), reason);
    kernel.remove("/dev/iommu");
    EXPECT_EQ(open(PAGODA_IOMMU_ANY), ENOENT);
    EXPECT_TRUE(said("there is no /dev/vfio/vfio")) << pagoda_device_error();
}

TEST_F(attach_test, a_device_that_vfio_has_not) {
    kernel.bind(kEdu, "edu");
    for (pagoda_iommu kind : {PAGODA_IOMMU_ANY, PAGODA_IOMMU_TYPE1, PAGODA_IOMMU_IOMMUFD}) {
        EXPECT_EQ(open(kind), ENODEV);
        EXPECT_TRUE(said("bound to the driver edu")) << pagoda_device_error();
    }
    kernel.bind(kEdu, "mlx5_vfio_pci"); // a variant of vfio-pci
    EXPECT_EQ(open(PAGODA_IOMMU_TYPE1), 0) << pagoda_device_error();
}

TEST_F(attach_test, a_device_in_no_group) {
    kernel.remove(fake_vfio::folder(kEdu) + "/iommu_group");
    EXPECT_EQ(open(PAGODA_IOMMU_TYPE1), ENODEV);
    EXPECT_TRUE(said("the IOMMU is off")) << pagoda_device_error();
}

TEST_F(attach_test, a_group_that_is_not_viable) {
    kernel.add_device(kOther, "0x8086", "0x10d3", 5);
    kernel.bind(kOther, "e1000e");
    kernel.viable = false;
    EXPECT_EQ(open(PAGODA_IOMMU_TYPE1), EPERM);
    EXPECT_TRUE(said("0000:00:05.0 (e1000e)")) << pagoda_device_error();
}

TEST_F(attach_test, permissions) {
    EXPECT_TRUE(succeeded(in_child([this] {
        for (const char *node : {"/dev/vfio/5", "/dev/vfio/devices/vfio0"})
            chmod((kernel.root + node).c_str(), 0600);
        chmod(kernel.root.c_str(), 0755);
        ASSERT_EQ(setgid(65534), 0);
        ASSERT_EQ(setuid(65534), 0);
        chmod(kernel.root.c_str(), 0755);
        EXPECT_EQ(open(PAGODA_IOMMU_TYPE1), EACCES);
    }))) << "as nobody";
}

TEST_F(attach_test, every_ioctl_that_fails_is_said_and_leaves_nothing) {
    const struct {
        unsigned long request;
        pagoda_iommu kind;
        const char *text;
    } cases[] = {
        {VFIO_GET_API_VERSION, PAGODA_IOMMU_TYPE1, "no type 1"},
        {VFIO_GROUP_GET_STATUS, PAGODA_IOMMU_TYPE1, "not viable"},
        {VFIO_GROUP_SET_CONTAINER, PAGODA_IOMMU_TYPE1, "held by another process"},
        {VFIO_SET_IOMMU, PAGODA_IOMMU_TYPE1, "held by another process"},
        {VFIO_IOMMU_GET_INFO, PAGODA_IOMMU_TYPE1, ""},
        {VFIO_GROUP_GET_DEVICE_FD, PAGODA_IOMMU_TYPE1, "open already"},
        {kBind, PAGODA_IOMMU_IOMMUFD, "the device is held by another process"},
        {kIoasAlloc, PAGODA_IOMMU_IOMMUFD, "held by another process"},
        {kAttach, PAGODA_IOMMU_IOMMUFD, "held by another process"},
        {kIoasRanges, PAGODA_IOMMU_IOMMUFD, ""},
        {VFIO_DEVICE_GET_INFO, PAGODA_IOMMU_TYPE1, "registers"},
        {VFIO_DEVICE_GET_REGION_INFO, PAGODA_IOMMU_IOMMUFD, "registers"},
    };
    for (const auto &c : cases) {
        kernel.errors[c.request] = EBUSY;
        EXPECT_EQ(open(c.kind), EBUSY) << c.text;
        EXPECT_TRUE(said(c.text)) << c.text << ": " << pagoda_device_error();
        kernel.errors.clear();
        EXPECT_EQ(open_files(), before) << c.text;
        EXPECT_EQ(open(c.kind), 0) << c.text;
    }
}

TEST_F(attach_test, devices_share_an_address_space) {
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    for (pagoda_iommu kind : {PAGODA_IOMMU_TYPE1, PAGODA_IOMMU_IOMMUFD}) {
        device *a = pagoda_device_open(kEdu, kind);
        device *b = pagoda_device_open(kOther, kind);
        ASSERT_NE(a, nullptr) << pagoda_device_error();
        ASSERT_NE(b, nullptr) << pagoda_device_error();
        EXPECT_EQ(a->state->space, b->state->space);
        pagoda_device_close(a);
        uint64_t first[4], last[4];
        EXPECT_EQ(pagoda_device_windows(b, first, last, 4), 2) << "the space lives on";
        pagoda_device_close(b);
    }
    EXPECT_EQ(kernel.containers, 1);
}

TEST_F(attach_test, a_device_of_larger_pages_has_a_space_of_its_own) {
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    device *a = pagoda_device_open(kEdu, PAGODA_IOMMU_IOMMUFD);
    kernel.alignment = 65536;
    device *b = pagoda_device_open(kOther, PAGODA_IOMMU_IOMMUFD);
    ASSERT_NE(b, nullptr) << pagoda_device_error();
    EXPECT_NE(a->state->space, b->state->space);
    auto *memory = static_cast<char *>(aligned_alloc(65536, 2 * 65536));
    for (uint64_t pages : {1, 2}) {
        uint64_t address = 0;
        EXPECT_EQ(
            b->state->space->map_range(memory, pages * 65536, UINT64_MAX, kDeviceReads, &address),
            0)
            << pagoda_device_error();
        EXPECT_EQ(address % 65536, 0u);
        EXPECT_EQ(b->state->space->unmap_range(address, pages * 65536), 0);
    }
    free(memory);
    pagoda_device_close(b);
    pagoda_device_close(a);
}

TEST_F(attach_test, devices_have_spaces_of_their_own_where_they_must) {
    kernel.can_share = false;
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    device *a = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    device *b = pagoda_device_open(kOther, PAGODA_IOMMU_TYPE1);
    ASSERT_NE(b, nullptr) << pagoda_device_error();
    EXPECT_NE(a->state->space, b->state->space);
    EXPECT_EQ(kernel.containers, 2);
    pagoda_device_close(b);
    pagoda_device_close(a);
}

TEST_F(attach_test, devices_of_one_group_open_it_once) {
    kernel.add_device(kOther, "0x1234", "0x11e8", 5);
    device *a = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    int one = open_files();
    device *b = pagoda_device_open(kOther, PAGODA_IOMMU_TYPE1);
    ASSERT_NE(b, nullptr) << pagoda_device_error();
    EXPECT_EQ(open_files(), one + 1) << "only the device's own descriptor";
    pagoda_device_close(a);
    pagoda_device_close(b);
}

TEST_F(attach_test, attachments_can_be_undone_before_they_are_devices) {
    attachment a = named(kEdu);
    attach_lock();
    ASSERT_EQ(attach(a, PAGODA_IOMMU_IOMMUFD), 0);
    EXPECT_GE(a.device, 0);
    EXPECT_EQ(a.group, nullptr);
    detach(a, true);
    attach_unlock();
    EXPECT_EQ(a.device, -1);
}
