#include "dma/pci_device.h"

#include "tests/dma/edu.h"

#include <atomic>
#include <pagoda/devres.h>
#include <pagoda/dma-mapping.h>
#include <pagoda/dmapool.h>
#include <pagoda/slab.h>
#include <thread>

using namespace pagoda::dma;
using namespace pagoda::test;

using pci_device = edu;

TEST_F(pci_device, is_what_sysfs_says) {
    EXPECT_STREQ(dev_name(dev), kEdu);
    EXPECT_STREQ(pci_name(pci), kEdu);
    EXPECT_EQ(dev_to_node(dev), -1);
    EXPECT_EQ(pci->vendor, 0x1234);
    EXPECT_EQ(pci->device, 0x11e8);
    EXPECT_EQ(pci->class_code, 0xff00u);
    EXPECT_EQ(pci->revision, 0x10);
    EXPECT_EQ(pci->domain, 0);
    EXPECT_EQ(pci->bus_number, 0);
    EXPECT_EQ(PCI_SLOT(pci->devfn), 4u);
    EXPECT_EQ(PCI_FUNC(pci->devfn), 0u);
    EXPECT_EQ(&pci->dev, dev);
    EXPECT_EQ(pci_resource_start(pci, 0), kBarAt);
    EXPECT_EQ(pci_resource_len(pci, 0), kBarBytes);
    EXPECT_EQ(pci_resource_flags(pci, 0) & IORESOURCE_MEM, unsigned{IORESOURCE_MEM});
    EXPECT_EQ(pci_resource_len(pci, 1), 0u);
    EXPECT_EQ(pci_resource_flags(pci, 2) & IORESOURCE_IO, unsigned{IORESOURCE_IO});
    int data = 0;
    pci_set_drvdata(pci, &data);
    EXPECT_EQ(dev_get_drvdata(dev), &data);
}

TEST_F(pci_device, is_reset_and_quiet_with_its_memory_on) {
    EXPECT_EQ(kernel.resets, 1);
    uint16_t command = 0;
    EXPECT_EQ(pci_read_config_word(pci, PCI_COMMAND, &command), 0);
    EXPECT_EQ(command, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
    pci_set_master(pci);
    int fd = open((kernel.root + "/dev/device/" + kEdu).c_str(), O_RDONLY);
    close();
    ASSERT_EQ(pread(fd, &command, 2, kConfigAt + PCI_COMMAND), 2);
    EXPECT_EQ(command, PCI_COMMAND_MEMORY | PCI_COMMAND_IO) << "bus mastering ends with it";
    ::close(fd);
}

TEST_F(pci_device, can_be_reset_where_it_can) {
    EXPECT_EQ(pci_reset_function(pci), 0);
    EXPECT_EQ(kernel.resets, 2);
    kernel.errors[VFIO_DEVICE_RESET] = EIO;
    EXPECT_EQ(pci_reset_function(pci), -EIO);
    close();
    kernel.errors.clear();
    kernel.can_reset = false;
    dev = pagoda_device_open("1234:11e8", PAGODA_IOMMU_TYPE1);
    ASSERT_NE(dev, nullptr);
    EXPECT_EQ(pci_reset_function(to_pci_dev(dev)), -ENOTTY);
    EXPECT_TRUE(said("no way to be reset")) << pagoda_device_error();
}

TEST_F(pci_device, is_found_by_bus_addresses) {
    int bar = -1;
    bus *b = bus_at(kBarAt, 1, &bar);
    EXPECT_EQ(b, dev->state->bus);
    EXPECT_EQ(bar, 0);
    EXPECT_EQ(bus_at(kBarAt + kBarBytes - 1, 1, &bar), b);
    EXPECT_EQ(bus_at(kBarAt, kBarBytes, &bar), b);
    EXPECT_EQ(bus_at(kBarAt, kBarBytes + 1, &bar), nullptr);
    EXPECT_EQ(bus_at(kBarAt - 1, 2, &bar), nullptr);
    EXPECT_EQ(bus_at(kBarAt, 0, &bar), nullptr);
    EXPECT_EQ(bus_at(kBarAt + 1, UINT64_MAX, &bar), nullptr);
    EXPECT_EQ(bus_at(0xc000, 1, &bar), nullptr) << "I/O ports are not memory";
    close();
    EXPECT_EQ(bus_at(kBarAt, 1, &bar), nullptr);
}

TEST_F(pci_device, is_dead_in_a_child_of_fork_which_keeps_nothing_open) {
    void *memory = devm_kzalloc(dev, 100, GFP_KERNEL);
    EXPECT_EQ(pci_request_regions(pci, "parent"), 0);
    child_end end = in_child([this, memory] {
        uint16_t word = 0;
        EXPECT_EQ(pci_read_config_word(pci, PCI_COMMAND, &word), -ENODEV);
        EXPECT_EQ(word, 0xffff);
        EXPECT_TRUE(said("belongs to the parent process")) << pagoda_device_error();
        EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_ALL_TYPES), -ENODEV);
        EXPECT_EQ(pagoda_pci_iomap(pci, 0, 0, 0, false), nullptr);
        EXPECT_EQ(devm_kmalloc(dev, 1, GFP_KERNEL), nullptr);
        devm_kfree(dev, memory);
        EXPECT_TRUE(said("belongs to the parent process")) << pagoda_device_error();
        EXPECT_EQ(pci_request_regions(pci, "child"), -ENODEV);
        errno = 0;
        release_mem_region(kBarAt, kBarBytes);
        EXPECT_EQ(errno, EINVAL) << "the claim is the parent's";
        int bar = 0;
        EXPECT_EQ(bus_at(kBarAt, 1, &bar), nullptr);
        for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code error;
            std::string file = std::filesystem::read_symlink(entry.path(), error);
            EXPECT_EQ(file.find(kernel.root), std::string::npos) << file;
        }
        pagoda_device_close(dev);
    });
    EXPECT_TRUE(succeeded(end));
    uint16_t word = 0;
    EXPECT_EQ(pci_read_config_word(pci, PCI_COMMAND, &word), 0) << "the parent's lives";
    devm_kfree(dev, memory);
}

TEST_F(pci_device, a_child_of_fork_opens_devices_of_its_own) {
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    EXPECT_TRUE(succeeded(in_child([] {
        device *own = pagoda_device_open(kOther, PAGODA_IOMMU_TYPE1);
        ASSERT_NE(own, nullptr) << pagoda_device_error();
        uint16_t word = 0;
        EXPECT_EQ(pci_read_config_word(to_pci_dev(own), PCI_COMMAND, &word), 0);
        EXPECT_EQ(word, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
        EXPECT_EQ(pci_alloc_irq_vectors(to_pci_dev(own), 1, 1, PCI_IRQ_ALL_TYPES), 1);
        char memory[100];
        dma_addr_t at = dma_map_single(own, memory, sizeof memory, DMA_TO_DEVICE);
        EXPECT_FALSE(dma_mapping_error(own, at)) << pagoda_device_error();
        dma_unmap_single(own, at, sizeof memory, DMA_TO_DEVICE);
        pagoda_device_close(own);
    })));
}

// The fork waits until it is known which descriptors the interrupts have.
TEST_F(pci_device, a_child_keeps_no_descriptor_of_interrupts_that_were_being_set) {
    std::atomic<bool> setting = false, forked = false;
    kernel.while_set = [&] {
        setting = true;
        for (int i = 0; i < 300 && !forked; i++)
            usleep(1000);
    };
    std::thread other([this] { EXPECT_EQ(pci_alloc_irq_vectors(pci, 3, 3, PCI_IRQ_MSIX), 3); });
    while (!setting)
        usleep(100);
    EXPECT_TRUE(succeeded(in_child([] {
        for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code error;
            std::string file = std::filesystem::read_symlink(entry.path(), error);
            EXPECT_EQ(file.find("eventfd"), std::string::npos) << entry.path();
        }
    })));
    forked = true;
    other.join();
    EXPECT_GE(pci_irq_vector(pci, 2), 0);
}

TEST(pci_device_open, what_is_no_device) {
    fake_vfio kernel;
    EXPECT_EQ(pagoda_device_open("edu", PAGODA_IOMMU_ANY), nullptr);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_TRUE(said("names no PCI device")) << pagoda_device_error();
    EXPECT_EQ(pagoda_device_open("00:1f.0", PAGODA_IOMMU_ANY), nullptr);
    EXPECT_EQ(errno, ENODEV);
    EXPECT_TRUE(said("no PCI device 00:1f.0")) << pagoda_device_error();
    kernel.bind(kEdu, "edu");
    EXPECT_EQ(pagoda_device_open("1234:11e8", PAGODA_IOMMU_ANY), nullptr);
    EXPECT_TRUE(said("by its address")) << pagoda_device_error();
    EXPECT_EQ(pagoda_device_open(kEdu, PAGODA_IOMMU_SOFTWARE), nullptr);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_TRUE(said("pagoda_software_device")) << pagoda_device_error();
}

// The machine itself, with whatever devices it has.
TEST(pci_device_open, a_machine_without_vfio_says_so) {
    if (access("/dev/vfio/vfio", F_OK) == 0)
        GTEST_SKIP() << "this machine has VFIO";
    std::error_code error;
    std::filesystem::directory_iterator devices("/sys/bus/pci/devices", error), end;
    if (error || devices == end)
        GTEST_SKIP() << "this machine has no PCI devices";
    std::string name = devices->path().filename();
    for (pagoda_iommu kind : {PAGODA_IOMMU_ANY, PAGODA_IOMMU_TYPE1, PAGODA_IOMMU_NONE}) {
        EXPECT_EQ(pagoda_device_open(name.c_str(), kind), nullptr);
        EXPECT_EQ(errno, ENOENT);
        EXPECT_TRUE(said("there is no /dev/vfio/vfio: this kernel has no VFIO"))
            << pagoda_device_error();
    }
    if (access("/dev/iommu", F_OK) != 0) {
        EXPECT_EQ(pagoda_device_open(name.c_str(), PAGODA_IOMMU_IOMMUFD), nullptr);
        EXPECT_TRUE(said("CONFIG_IOMMUFD")) << pagoda_device_error();
    }
    EXPECT_EQ(pagoda_device_open("ffff:fffe", PAGODA_IOMMU_ANY), nullptr);
    EXPECT_EQ(errno, ENODEV);
}

// Handlers of forks take the locks of pools and of devices, and so does closing.
TEST_F(pci_device, a_fork_and_the_closing_of_a_device_do_not_wait_for_each_other) {
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    child_end end = in_child(
        [] {
            device *own = pagoda_device_open(kOther, PAGODA_IOMMU_TYPE1);
            ASSERT_NE(own, nullptr) << pagoda_device_error();
            dma_pool *pool = dma_pool_create("pool", own, 64, 64, 0);
            ASSERT_NE(pool, nullptr) << pagoda_device_error();
            dma_pool_destroy(pool);
            pagoda_device_close(own);
            std::atomic<bool> done = false;
            std::thread other([&done] {
                while (!done)
                    pagoda_device_close(pagoda_device_open(kOther, PAGODA_IOMMU_TYPE1));
            });
            for (int i = 0; i < 300; i++) {
                pid_t pid = fork();
                if (pid == 0)
                    _exit(0);
                waitpid(pid, nullptr, 0);
            }
            done = true;
            other.join();
        },
        60);
    EXPECT_TRUE(succeeded(end));
}

TEST(pci_device_open, many_times_from_two_threads) {
    fake_vfio kernel;
    kernel.add_device(kOther, "0x1234", "0x11e8", 6);
    auto loop = [](const char *name) {
        for (int i = 0; i < 100; i++) {
            device *dev = pagoda_device_open(name, PAGODA_IOMMU_TYPE1);
            ASSERT_NE(dev, nullptr) << pagoda_device_error();
            EXPECT_STREQ(dev_name(dev), name);
            pagoda_device_close(dev);
        }
    };
    std::thread other(loop, kOther);
    loop(kEdu);
    other.join();
}
