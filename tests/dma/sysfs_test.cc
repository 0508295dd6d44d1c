#include "dma/sysfs.h"

#include "tests/dma/fake_vfio.h"

#include <pagoda/device.h>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

int find(const char *where, std::string *name, bool *present = nullptr) {
    char text[sysfs::kName] = "";
    bool there = false;
    int error = sysfs::find(where, text, &there);
    *name = text;
    if (present != nullptr)
        *present = there;
    return error;
}

} // namespace

TEST(sysfs, finds_by_address) {
    fake_vfio kernel;
    std::string name;
    for (const char *where : {"0000:00:04.0", "00:04.0", "0:0:4.0", "0:4.0"}) {
        EXPECT_EQ(find(where, &name), 0) << where;
        EXPECT_EQ(name, kEdu);
    }
    bool present = true;
    EXPECT_EQ(find("00:05.0", &name, &present), -ENODEV);
    EXPECT_FALSE(present);
}

TEST(sysfs, refuses_what_is_no_address) {
    fake_vfio kernel;
    std::string name;
    for (const char *where : {"", "edu", "0000:00:04", "00:04.8", "00:20.0", "100:04.0", "-1:04.0",
                              " 00:04.0", "00:04.0 ", "12345:11e8", "1234:", ":11e8", "0x1234:11e8",
                              "1:0000:00:04.0", "100000:00:04.0"})
        EXPECT_EQ(find(where, &name), -EINVAL) << where;
}

TEST(sysfs, finds_the_first_that_vfio_has_by_vendor_and_device) {
    fake_vfio kernel;
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    std::string name;
    bool present = false;
    EXPECT_EQ(find("1234:11e8", &name), 0);
    EXPECT_EQ(name, kEdu);
    kernel.bind(kEdu, "edu");
    EXPECT_EQ(find("1234:11E8", &name), 0);
    EXPECT_EQ(name, kOther);
    kernel.bind(kOther, "mlx5_vfio_pci"); // a variant of vfio-pci
    EXPECT_EQ(find("1234:11e8", &name), 0);
    EXPECT_EQ(name, kOther);
    kernel.bind(kOther, "");
    EXPECT_EQ(find("1234:11e8", &name, &present), -ENODEV);
    EXPECT_TRUE(present);
    EXPECT_EQ(find("1234:11e9", &name, &present), -ENODEV);
    EXPECT_FALSE(present);
}

TEST(sysfs, says_what_is_known) {
    fake_vfio kernel;
    EXPECT_EQ(sysfs::attribute(kEdu, "vendor", 0), 0x1234u);
    EXPECT_EQ(sysfs::attribute(kEdu, "absent", 9), 9u);
    sysfs::resource_line lines[sysfs::kResources];
    sysfs::resources(kEdu, lines);
    EXPECT_EQ(lines[0].start, kBarAt);
    EXPECT_EQ(lines[0].end, kBarAt + kBarBytes - 1);
    EXPECT_EQ(lines[0].flags, 0x40200u);
    EXPECT_EQ(lines[1].flags, 0u);
    EXPECT_EQ(lines[2].start, 0xc000u);
    EXPECT_EQ(lines[3].flags, 0u);
    sysfs::resources(kOther, lines);
    EXPECT_EQ(lines[0].flags, 0u);
    char text[64];
    EXPECT_EQ(sysfs::device_node(kEdu, text, sizeof text), 0);
    EXPECT_STREQ(text, "vfio0");
    kernel.remove(fake_vfio::folder(kEdu) + "/vfio-dev");
    EXPECT_EQ(sysfs::device_node(kEdu, text, sizeof text), -ENOENT);
    sysfs::driver(kEdu, text, sizeof text);
    EXPECT_STREQ(text, "vfio-pci");
    kernel.bind(kEdu, "");
    sysfs::driver(kEdu, text, sizeof text);
    EXPECT_STREQ(text, "");
}

TEST(sysfs, names_who_is_in_the_way_in_a_group) {
    fake_vfio kernel;
    char text[64];
    EXPECT_EQ(sysfs::group(kEdu), 5);
    sysfs::group_others(kEdu, text, sizeof text);
    EXPECT_STREQ(text, "");
    kernel.add_device(kOther, "0x8086", "0x10d3", 5);
    sysfs::group_others(kEdu, text, sizeof text);
    EXPECT_STREQ(text, "") << "vfio-pci has it";
    kernel.bind(kOther, "e1000e");
    sysfs::group_others(kEdu, text, sizeof text);
    EXPECT_STREQ(text, "0000:00:05.0 (e1000e)");
    kernel.add_device("0000:00:06.0", "0x8086", "0x10d3", 5);
    kernel.bind("0000:00:06.0", "pcieport");
    sysfs::group_others(kEdu, text, sizeof text);
    EXPECT_STREQ(text, "0000:00:05.0 (e1000e)") << "a bridge may keep its driver";
    kernel.bind("0000:00:06.0", "nvme");
    sysfs::group_others(kEdu, text, sizeof text);
    EXPECT_NE(strstr(text, "0000:00:06.0 (nvme)"), nullptr) << text;
    EXPECT_NE(strstr(text, ", "), nullptr) << text;
    char little[30]; // room for one of them, and no half of the other
    sysfs::group_others(kEdu, little, sizeof little);
    EXPECT_EQ(strchr(little, ','), nullptr) << little;
    EXPECT_EQ(little[strlen(little) - 1], ')');
    kernel.remove(fake_vfio::folder(kEdu) + "/iommu_group");
    EXPECT_EQ(sysfs::group(kEdu), -ENOENT);
}

TEST(sysfs, says_whether_there_is_an_iommu) {
    fake_vfio kernel;
    EXPECT_FALSE(sysfs::iommu_is_on());
    kernel.write("/sys/class/iommu/dmar0", "");
    EXPECT_TRUE(sysfs::iommu_is_on());
    const char *parameter = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    EXPECT_FALSE(sysfs::unsafe_mode_is_on());
    kernel.write(parameter, "N\n");
    EXPECT_FALSE(sysfs::unsafe_mode_is_on());
    kernel.write(parameter, "Y\n");
    EXPECT_TRUE(sysfs::unsafe_mode_is_on());
}

namespace {

// An edu behind a host bridge of a machine with a device tree.
struct device_tree {
    fake_vfio kernel;
    device_tree() {
        sysfs::play_machine_with_caches_apart(true);
        namespace fs = std::filesystem;
        std::string bridge = kernel.root + "/sys/devices/platform/pcie";
        std::string place = kernel.root + fake_vfio::folder(kEdu);
        fs::create_directories(bridge + "/pci0000:00");
        fs::rename(place, bridge + "/pci0000:00/" + kEdu);
        fs::create_symlink(bridge + "/pci0000:00/" + kEdu, place);
        kernel.write(kNode + "/device_type"s, "pci");
        fs::create_symlink(kernel.root + kNode, bridge + "/of_node");
    }
    ~device_tree() { sysfs::play_machine_with_caches_apart(false); }
    device_tree(const device_tree &) = delete;
    device_tree &operator=(const device_tree &) = delete;
    static constexpr char kNode[] = "/sys/firmware/devicetree/base/soc/pcie";
};

} // namespace

TEST(sysfs, coherence_is_a_property_of_the_bridge_or_above) {
    device_tree machine;
    EXPECT_FALSE(sysfs::is_coherent(kEdu));
    machine.kernel.write(device_tree::kNode + "/../dma-coherent"s, "");
    EXPECT_TRUE(sysfs::is_coherent(kEdu));
    machine.kernel.write(device_tree::kNode + "/dma-noncoherent"s, "");
    EXPECT_FALSE(sysfs::is_coherent(kEdu)) << "the nearest says";
    machine.kernel.remove(device_tree::kNode + "/dma-noncoherent"s);
    machine.kernel.remove("/sys/firmware/devicetree/base/soc/dma-coherent");
    machine.kernel.write(device_tree::kNode + "/dma-coherent"s, "");
    EXPECT_TRUE(sysfs::is_coherent(kEdu));
    machine.kernel.remove("/sys/devices/platform/pcie/of_node");
    EXPECT_TRUE(sysfs::is_coherent(kEdu)) << "no device tree";
}

TEST(sysfs, devices_that_are_not_coherent_are_refused) {
    device_tree machine;
    for (pagoda_iommu kind : {PAGODA_IOMMU_ANY, PAGODA_IOMMU_TYPE1, PAGODA_IOMMU_IOMMUFD}) {
        EXPECT_EQ(pagoda_device_open(kEdu, kind), nullptr);
        EXPECT_EQ(errno, EOPNOTSUPP);
        EXPECT_NE(strstr(pagoda_device_error(), "dma-coherent"), nullptr) << pagoda_device_error();
    }
    machine.kernel.write(device_tree::kNode + "/dma-coherent"s, "");
    device *dev = pagoda_device_open(kEdu, PAGODA_IOMMU_ANY);
    EXPECT_NE(dev, nullptr) << pagoda_device_error();
    pagoda_device_close(dev);
}

#if defined(__x86_64__)
TEST(sysfs, all_devices_of_x86_are_coherent) {
    device_tree machine;
    sysfs::play_machine_with_caches_apart(false);
    EXPECT_TRUE(sysfs::is_coherent(kEdu));
}
#endif
