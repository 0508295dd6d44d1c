#include "dma/io_map.h"

#include "tests/dma/edu.h"

#include <pagoda/compat24.h>
#include <pagoda/io.h>
#include <sys/mman.h>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

struct io_map_test : edu {
    // The device's file: what it sees.
    std::string file() { return kernel.root + "/dev/device/" + kEdu; }
    uint32_t seen(uint64_t at) {
        uint32_t value = 0;
        int fd = open(file().c_str(), O_RDONLY);
        EXPECT_EQ(pread(fd, &value, sizeof value, static_cast<off_t>(at)), 4);
        ::close(fd);
        return value;
    }
};

} // namespace

TEST_F(io_map_test, a_bar_by_its_number) {
    auto *bar = static_cast<char *>(pci_iomap(pci, 0, 0));
    ASSERT_NE(bar, nullptr) << pagoda_device_error();
    writel(0x12345678, bar + 0x80);
    EXPECT_EQ(seen(0x80), 0x12345678u);
    writel(1, bar + kBarBytes - 4);
    EXPECT_EQ(seen(kBarBytes - 4), 1u);
    pci_iounmap(pci, bar);
    auto *part = static_cast<char *>(pci_iomap_range(pci, 0, 0x1080, 4));
    ASSERT_NE(part, nullptr);
    writel(7, part);
    EXPECT_EQ(seen(0x1080), 7u);
    pci_iounmap(pci, part);
}

TEST_F(io_map_test, a_bar_by_its_bus_address) {
    auto *bar = static_cast<char *>(ioremap(kBarAt + 0x2004, 8));
    ASSERT_NE(bar, nullptr) << pagoda_device_error();
    EXPECT_NE(reinterpret_cast<uintptr_t>(bar), kBarAt + 0x2004);
    writel(0xfeed, bar);
    EXPECT_EQ(seen(0x2004), 0xfeedu);
    iounmap(bar);
    bar = static_cast<char *>(vremap(kBarAt + 0x2004, 8)); // by its old name
    ASSERT_NE(bar, nullptr);
    EXPECT_EQ(readl(bar), 0xfeedu);
    iounmap(bar);
}

TEST_F(io_map_test, a_bar_at_two_places) {
    auto *one = static_cast<uint32_t *>(pci_iomap(pci, 0, 0));
    auto *two = static_cast<uint32_t *>(pci_ioremap_bar(pci, 0));
    ASSERT_NE(one, two);
    writel(42, one);
    EXPECT_EQ(readl(two), 42u);
    iounmap(one);
    EXPECT_EQ(readl(two), 42u);
    iounmap(two);
}

TEST_F(io_map_test, another_process_maps_it_by_descriptor) {
    uint64_t offset = 1, bytes = 0;
    int fd = pagoda_pci_bar_fd(pci, 0, &offset, &bytes);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(bytes, kBarBytes);
    EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_TRUE(succeeded(in_child([=] {
        void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                        static_cast<off_t>(offset));
        ASSERT_NE(at, MAP_FAILED);
        writel(0xc0ffee, static_cast<char *>(at) + 0x100);
    })));
    EXPECT_EQ(seen(0x100), 0xc0ffeeu);
    ::close(fd);
    EXPECT_EQ(pagoda_pci_bar_fd(pci, 2, &offset, &bytes), -EOPNOTSUPP);
    EXPECT_EQ(pagoda_pci_bar_fd(pci, 1, &offset, &bytes), -ENXIO);
}

TEST_F(io_map_test, a_descriptor_is_for_the_beginning_of_a_bar) {
    close();
    kernel.sparse = {{0, 4096}, {8192, kBarBytes - 8192}};
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    uint64_t offset = 0, bytes = 0;
    EXPECT_EQ(pagoda_pci_bar_fd(to_pci_dev(dev), 0, &offset, &bytes), -EOPNOTSUPP)
        << "the largest part is not its beginning";
    EXPECT_TRUE(said("MSI-X")) << pagoda_device_error();
    close();
    kernel.sparse = {{0, kBarBytes - 8192}, {kBarBytes - 4096, 4096}};
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    pci = to_pci_dev(dev);
    int fd = pagoda_pci_bar_fd(pci, 0, &offset, &bytes);
    EXPECT_GE(fd, 0) << pagoda_device_error();
    EXPECT_EQ(offset, 0u);
    EXPECT_EQ(bytes, kBarBytes - 8192);
    ::close(fd);
}

TEST_F(io_map_test, what_is_no_bar_is_refused) {
    EXPECT_EQ(ioremap(0xa0000, 0x20000), nullptr) << "the old video memory";
    EXPECT_EQ(errno, ENXIO);
    EXPECT_TRUE(said("other physical addresses are the kernel's")) << pagoda_device_error();
    EXPECT_EQ(ioremap(kBarAt, kBarBytes + 1), nullptr);
    EXPECT_EQ(ioremap(kBarAt, 0), nullptr);
    EXPECT_EQ(ioremap(UINT64_MAX, 2), nullptr);
    for (int bar : {-1, 1, 3, 7, 100}) {
        EXPECT_EQ(pci_iomap(pci, bar, 0), nullptr) << bar;
        EXPECT_EQ(errno, ENXIO) << bar;
    }
    EXPECT_EQ(pci_iomap_range(pci, 0, kBarBytes, 0), nullptr);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(pci_iomap(pci, 2, 0), nullptr);
    EXPECT_EQ(errno, EOPNOTSUPP);
    EXPECT_TRUE(said("pagoda_pci_bar_read")) << pagoda_device_error();
}

TEST_F(io_map_test, no_cached_mapping_and_combining_where_the_system_has_it) {
    EXPECT_EQ(ioremap_cache(kBarAt, 4096), nullptr);
    EXPECT_EQ(errno, EOPNOTSUPP);
    EXPECT_EQ(ioremap_wt(kBarAt, 4096), nullptr);
    EXPECT_EQ(ioremap_wc(kBarAt, 4096), nullptr);
    EXPECT_EQ(errno, EOPNOTSUPP);
    EXPECT_TRUE(said("resource0_wc")) << pagoda_device_error();
    std::string wc = fake_vfio::folder(kEdu) + "/resource0_wc";
    kernel.write(wc, std::string(8192, 'w'));
    auto *at = static_cast<char *>(ioremap_wc(kBarAt + 4096, 4096));
    ASSERT_NE(at, nullptr) << pagoda_device_error();
    EXPECT_EQ(readb(at), 'w');
    iounmap(at);
    EXPECT_NE(ioremap_uc(kBarAt, 4096), nullptr);
    EXPECT_NE(ioremap_np(kBarAt, 4096), nullptr);
}

TEST_F(io_map_test, the_table_of_messages_is_left_out) {
    close();
    kernel.sparse = {{0, 4096}, {8192, kBarBytes - 8192}}; // the second page is the table's
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    pci = to_pci_dev(dev);
    EXPECT_EQ(pci_iomap(pci, 0, 0), nullptr);
    EXPECT_EQ(errno, EOPNOTSUPP);
    EXPECT_EQ(pci_iomap_range(pci, 0, 8191, 2), nullptr);
    auto *rest = static_cast<char *>(pci_iomap_range(pci, 0, 8192, 0));
    ASSERT_NE(rest, nullptr);
    writel(9, rest);
    EXPECT_EQ(seen(8192), 9u);
}

TEST_F(io_map_test, mappings_end_with_the_device_or_a_fork) {
    auto *bar = static_cast<char *>(pci_iomap(pci, 0, 0));
    EXPECT_EQ(in_child([bar] { writel(1, bar); }).signal(), SIGSEGV);
    close();
    EXPECT_EQ(in_child([bar] { writel(1, bar); }).signal(), SIGSEGV);
}

TEST_F(io_map_test, unmapping_what_is_no_mapping_says_so) {
    auto *bar = static_cast<char *>(pci_iomap(pci, 0, 0));
    iounmap(nullptr);
    errno = 0;
    iounmap(bar + 4096);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_TRUE(said("no mapping of a BAR")) << pagoda_device_error();
    EXPECT_EQ(readl(bar), 0u) << "it is still there";
    iounmap(bar);
    errno = 0;
    iounmap(bar);
    EXPECT_EQ(errno, EINVAL);
}

TEST_F(io_map_test, ports_are_read_and_written_by_calls) {
    uint32_t value = 0xdeadbeef;
    EXPECT_EQ(pagoda_pci_bar_write(pci, 2, 0x10, &value, 4), 0);
    EXPECT_EQ(seen(kBar2At + 0x10), 0xdeadbeefu);
    char bytes[19] = {};
    EXPECT_EQ(pagoda_pci_bar_read(pci, 2, 0xd, bytes, sizeof bytes), 0);
    EXPECT_EQ(memcmp(bytes + 3, &value, 4), 0);
    EXPECT_EQ(pagoda_pci_bar_read(pci, 2, kBar2Bytes - 1, bytes, 2), -EINVAL);
    EXPECT_EQ(pagoda_pci_bar_write(pci, 2, UINT64_MAX, bytes, 2), -EINVAL);
    EXPECT_EQ(pagoda_pci_bar_read(pci, 1, 0, bytes, 1), -ENXIO);
    EXPECT_EQ(pagoda_pci_bar_read(pci, 2, kBar2Bytes, bytes, 0), 0);
}
