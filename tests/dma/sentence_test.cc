#include "dma/sentence.h"

#include "dma/device.h"
#include "tests/unit.h"

#include <errno.h>
#include <pagoda/device.h>

using namespace pagoda::dma;

namespace {

std::string text(step at, int error, const facts &f) {
    char buffer[512];
    size_t length = explain(at, error, f, buffer, sizeof buffer);
    EXPECT_EQ(length, strlen(buffer));
    return buffer;
}

facts edu() {
    facts f;
    f.device = "0000:00:04.0";
    f.node = "/dev/vfio/5";
    f.group = 5;
    f.iommu = true;
    return f;
}

// The sentence names the device and has all the words.
void expect_words(const std::string &said, std::initializer_list<const char *> words) {
    for (const char *word : words)
        EXPECT_NE(said.find(word), std::string::npos) << "'" << word << "' in: " << said;
}

} // namespace

TEST(sentence, no_such_device) {
    facts f;
    f.device = "nonsense";
    expect_words(text(step::find, EINVAL, f), {"'nonsense'", "0000:00:04.0", "1234:11e8"});
    f.device = "0000:00:1f.7";
    expect_words(text(step::find, ENODEV, f), {"no PCI device 0000:00:1f.7", "lspci"});
    f.device = "1234:11e8";
    expect_words(text(step::find, ENODEV, f), {"1234:11e8", "nor is there one"});
    f.driver = "another";
    expect_words(text(step::find, ENODEV, f), {"1234:11e8", "bound to vfio-pci", "its address"});
}

TEST(sentence, not_bound_to_vfio_pci_has_the_commands) {
    facts f = edu();
    f.driver = "e1000e";
    expect_words(text(step::driver, ENODEV, f),
                 {"bound to the driver e1000e", "modprobe vfio-pci", "driver_override",
                  "echo 0000:00:04.0 > driver/unbind", "drivers_probe"});
    f.driver = "";
    std::string said = text(step::driver, ENODEV, f);
    expect_words(said, {"not bound to vfio-pci", "driver_override", "drivers_probe"});
    EXPECT_EQ(said.find("unbind"), std::string::npos);
}

TEST(sentence, the_device_is_not_coherent) {
    expect_words(text(step::coherence, EOPNOTSUPP, edu()),
                 {"0000:00:04.0", "caches", "dma-coherent in the device tree"});
}

TEST(sentence, the_iommu_is_off) {
    facts f = edu();
    f.iommu = false;
    expect_words(text(step::group, ENODEV, f), {"IOMMU is off", "intel_iommu=on", "firmware"});
    f.iommu = true;
    expect_words(text(step::group, ENODEV, f), {"does not cover this device", "no-IOMMU"});
    f.noiommu = true;
    expect_words(text(step::group, ENODEV, f), {"enable_unsafe_noiommu_mode", "bind it again"});
}

TEST(sentence, there_is_no_vfio) {
    facts f = edu();
    f.node = "/dev/vfio/vfio";
    for (int error : {ENOENT, ENODEV, ENXIO})
        expect_words(text(step::container_node, error, f),
                     {"there is no /dev/vfio/vfio", "modprobe vfio-pci"});
    expect_words(text(step::container_node, EACCES, f), {"no permission on /dev/vfio/vfio"});
    expect_words(text(step::container_node, EMFILE, f), {"Too many open files"});
    expect_words(text(step::container_api, EINVAL, f), {"another version"});
    expect_words(text(step::container_api, ENODEV, f), {"modprobe vfio_iommu_type1"});
    f.noiommu = true;
    expect_words(text(step::container_api, ENODEV, f), {"CONFIG_VFIO_NOIOMMU"});
}

TEST(sentence, the_group_cannot_be_opened) {
    facts f = edu();
    expect_words(text(step::group_node, EACCES, f),
                 {"no permission on /dev/vfio/5", "chown USER /dev/vfio/5"});
    expect_words(text(step::group_node, EPERM, f), {"not permitted", "/dev/vfio/5"});
    expect_words(text(step::group_node, ENOENT, f), {"there is no /dev/vfio/5", "bind"});
    expect_words(text(step::group_node, EBUSY, f), {"group 5", "another process"});
    expect_words(text(step::group_node, EIO, f), {"Input/output error"});
}

TEST(sentence, no_iommu_mode_is_root_s_and_must_be_on) {
    facts f = edu();
    f.noiommu = true;
    f.node = "/dev/vfio/noiommu-5";
    expect_words(text(step::group_node, ENOENT, f),
                 {"no-IOMMU mode is off", "enable_unsafe_noiommu_mode", "all of the machine's"});
    f.unsafe = true;
    expect_words(text(step::group_node, ENOENT, f), {"noiommu-5", "bind it again"});
    for (int error : {EPERM, EACCES})
        expect_words(text(step::group_node, error, f), {"needs root", "CAP_SYS_RAWIO"});
    expect_words(text(step::group_node, EBUSY, f), {"in use"});
    expect_words(text(step::physical, EPERM, f), {"CAP_SYS_ADMIN", "pagemap"});
    expect_words(text(step::physical, EFAULT, f), {"not present"});
    expect_words(text(step::physical, ERANGE, f), {"may move it", "/proc/sys/vm/nr_hugepages"});
    expect_words(text(step::map, EOPNOTSUPP, f), {"no-IOMMU", "physical addresses"});
}

TEST(sentence, the_group_is_not_viable) {
    facts f = edu();
    f.others = "0000:00:05.0 (e1000e), 0000:00:05.1 (nvme)";
    expect_words(text(step::group_viable, EPERM, f),
                 {"group 5 is not viable", "0000:00:05.0 (e1000e)", "0000:00:05.1 (nvme)"});
    f.others = "";
    expect_words(text(step::group_viable, EPERM, f), {"iommu_group/devices"});
}

TEST(sentence, attaching) {
    facts f = edu();
    expect_words(text(step::set_iommu, EPERM, f),
                 {"interrupt remapping", "vfio_iommu_type1/parameters/allow_unsafe_interrupts"});
    expect_words(text(step::attach, EPERM, f), {"iommufd/parameters/allow_unsafe_interrupts"});
    expect_words(text(step::group_attach, EBUSY, f), {"group is held by another process"});
    expect_words(text(step::bind, EBUSY, f), {"the device is held by another process"});
    expect_words(text(step::attach, EADDRINUSE, f), {"reserves"});
    expect_words(text(step::attach, EINVAL, f), {"does not go with this address space"});
    expect_words(text(step::bind, ENOTTY, f), {"by iommufd"});
    expect_words(text(step::set_iommu, ENODEV, f), {"by type 1"});
    expect_words(text(step::set_iommu, ENOMEM, f), {"Cannot allocate memory"});
    expect_words(text(step::device_handle, EBUSY, f), {"open already"});
    expect_words(text(step::device_handle, ENODEV, f), {"group 5", "bind it again"});
    expect_words(text(step::device_handle, EPERM, f), {"VF token"});
    expect_words(text(step::device_handle, EIO, f), {"Input/output error"});
}

TEST(sentence, iommufd_is_not_there) {
    facts f = edu();
    f.node = "/dev/iommu";
    expect_words(text(step::iommufd_node, ENOENT, f),
                 {"there is no /dev/iommu", "CONFIG_IOMMUFD", "type 1"});
    expect_words(text(step::iommufd_node, EACCES, f), {"no permission on /dev/iommu"});
    expect_words(text(step::iommufd_node, ENFILE, f), {"opening the iommufd"});
    f.node = "/dev/vfio/devices/vfio0";
    expect_words(text(step::device_node, ENOENT, f), {"CONFIG_VFIO_DEVICE_CDEV"});
    expect_words(text(step::device_node, EACCES, f), {"chown USER /dev/vfio/devices/vfio0"});
    expect_words(text(step::device_node, EBUSY, f), {"another process"});
    expect_words(text(step::device_node, EIO, f), {"its own node"});
}

TEST(sentence, mapping) {
    facts f;
    f.device = "type 1 IOMMU";
    f.at = 0xfee00000;
    f.bytes = 2 << 20;
    f.limit = 8192 << 10;
    f.used = 6144 << 10;
    expect_words(text(step::map, ENOSPC, f), {"65,535", "dma_entry_limit"});
    f.used = 7168 << 10;
    expect_words(text(step::map, ENOMEM, f),
                 {"RLIMIT_MEMLOCK is 8192 KiB", "7168 KiB", "2048 KiB more", "at least 9216 KiB",
                  "ulimit -l", "CAP_IPC_LOCK"});
    f.limit = UINT64_MAX;
    expect_words(text(step::map, ENOMEM, f), {"no memory to map 2048 KiB"});
    expect_words(text(step::map, EEXIST, f), {"mapped already", "0xfee00000"});
    expect_words(text(step::map, EINVAL, f), {"0xfee00000", "windows"});
    expect_words(text(step::map, EFAULT, f), {"cannot be pinned"});
    expect_words(text(step::map, EIO, f), {"Input/output error"});
    expect_words(text(step::unmap, EINVAL, f), {"what one mapping made"});
    expect_words(text(step::unmap, ENOENT, f), {"what one mapping made"});
    expect_words(text(step::unmap, EIO, f), {"Input/output error"});
    expect_words(text(step::windows, EFAULT, f), {"windows", "Bad address"});
}

TEST(sentence, registers) {
    facts f = edu();
    f.number = 2;
    f.at = 0x2000;
    f.bytes = 0x1000;
    expect_words(text(step::region, EIO, f), {"registers"});
    expect_words(text(step::bar_map, ENXIO, f), {"no BAR 2"});
    expect_words(text(step::bar_map, EINVAL, f), {"0x2000", "BAR 2", "4096 bytes"});
    expect_words(text(step::bar_map, EOPNOTSUPP, f), {"MSI-X table", "pagoda_pci_bar_read"});
    expect_words(text(step::bar_map, ENOMEM, f), {"Cannot allocate memory"});
    expect_words(text(step::write_combining, EOPNOTSUPP, f), {"resource2_wc", "ioremap()"});
    expect_words(text(step::address, ENXIO, f), {"0x2000", "no BAR", "kernel's"});
    expect_words(text(step::address, EOPNOTSUPP, f), {"never cached"});
    f.driver = "nvme";
    expect_words(text(step::claim, EBUSY, f), {"claimed by nvme"});
    expect_words(text(step::claim, EINVAL, f), {"what one claim made"});
}

TEST(sentence, interrupts_reset_and_the_end) {
    facts f = edu();
    f.number = 8;
    expect_words(text(step::interrupt, ENOSPC, f), {"fewer interrupts than the 8"});
    expect_words(text(step::interrupt, EBUSY, f), {"pci_free_irq_vectors"});
    expect_words(text(step::interrupt, EINVAL, f), {"no interrupt 8"});
    expect_words(text(step::interrupt, EMFILE, f), {"RLIMIT_NOFILE"});
    expect_words(text(step::interrupt, EIO, f), {"Input/output error"});
    expect_words(text(step::reset, ENOTTY, f), {"no way to be reset"});
    expect_words(text(step::reset, EIO, f), {"resetting"});
    expect_words(text(step::gone, ENODEV, f), {"0000:00:04.0 is gone", "parent process"});
    f.device = "";
    expect_words(text(step::gone, ENODEV, f), {"the device is gone"});
}

// Whatever the step, the error and the facts, there is a sentence, and all of it has room.
TEST(sentence, every_step_and_error_has_one_that_fits) {
    facts f = edu();
    f.driver = "some_long_driver";
    f.node = "/dev/vfio/devices/vfio127";
    f.others = "0000:00:05.0 (e1000e), 0000:00:05.1 (e1000e), 0000:00:05.2 (snd_hda_intel)";
    f.at = UINT64_MAX;
    f.bytes = uint64_t{1} << 40;
    f.limit = uint64_t{1} << 40;
    f.used = uint64_t{1} << 39;
    f.number = 2048;
    for (int bits = 0; bits < 8; bits++) {
        f.iommu = (bits & 1) != 0;
        f.noiommu = (bits & 2) != 0;
        f.unsafe = (bits & 4) != 0;
        for (int at = 0; at <= static_cast<int>(step::gone); at++)
            for (int error = 1; error < 134; error++) {
                std::string said = text(static_cast<step>(at), error, f);
                EXPECT_GT(said.size(), 10u) << at << " " << error;
                EXPECT_LT(said.size(), 320u) << said;
                EXPECT_NE(said.back(), '\n');
            }
    }
}

TEST(sentence, what_does_not_fit_is_cut) {
    facts f = edu();
    for (size_t room : {0u, 1u, 2u, 17u, 40u}) {
        char buffer[64];
        memset(buffer, 'x', sizeof buffer);
        size_t length = explain(step::driver, ENODEV, f, buffer, room);
        EXPECT_EQ(length, room == 0 ? 0 : room - 1);
        EXPECT_EQ(buffer[room], 'x');
        EXPECT_EQ(strnlen(buffer, room), length);
    }
}

TEST(sentence, say_is_what_pagoda_device_error_says) {
    facts f = edu();
    EXPECT_EQ(say(step::reset, ENOTTY, f), -ENOTTY);
    EXPECT_EQ(errno, ENOTTY);
    EXPECT_STREQ(pagoda_device_error(), "0000:00:04.0 has no way to be reset alone");
}
