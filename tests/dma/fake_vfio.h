// A kernel with VFIO, played by the test: a tree of files in a folder of its own, and an answer for
// each ioctl. Devices are files, so that reading, writing and mapping them is real.
#pragma once

#include "dma/os.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <errno.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <linux/vfio.h>
#include <map>
#include <set>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace pagoda::test {

using namespace std::string_literals;

constexpr char kEdu[] = "0000:00:04.0";
constexpr char kOther[] = "0000:00:05.0";
constexpr uint64_t kBarBytes = 1 << 20, kBar2Bytes = 256, kBarAt = 0xfe000000;
constexpr uint64_t kConfigAt = 1 << 22, kConfigBytes = 4096, kBar2At = 1 << 21;

// The ioctls that <linux/vfio.h> of Linux 6.1 lacks, by number.
constexpr unsigned long kBind = 0x3b76, kAttach = 0x3b77, kIoasAlloc = 0x3b81, kIoasRanges = 0x3b84,
                        kIoasMap = 0x3b85, kIoasUnmap = 0x3b86;

class fake_vfio {
  public:
    fake_vfio() {
        char name[] = "/tmp/pagoda-vfio-XXXXXX";
        root = mkdtemp(name);
        self() = this;
        write("/dev/vfio/vfio", "");
        write("/dev/iommu", "");
        std::filesystem::create_directories(root + "/proc/self");
        for (const char *file : {"status", "pagemap"})
            std::filesystem::create_symlink(std::string("/proc/self/") + file,
                                            root + "/proc/self/" + file);
        std::filesystem::create_symlink("/proc/kpageflags", root + "/proc/kpageflags");
        add_device(kEdu, "0x1234", "0x11e8", 5);
        dma::os::play(root.c_str(), answer);
    }
    ~fake_vfio() {
        dma::os::play("", nullptr);
        std::filesystem::remove_all(root);
    }
    fake_vfio(const fake_vfio &) = delete;
    fake_vfio &operator=(const fake_vfio &) = delete;

    void write(const std::string &path, const std::string &text) {
        std::filesystem::create_directories(std::filesystem::path(root + path).parent_path());
        std::ofstream(root + path) << text;
    }
    void remove(const std::string &path) { std::filesystem::remove_all(root + path); }
    static std::string folder(const std::string &device) {
        return "/sys/bus/pci/devices/" + device;
    }
    void bind(const std::string &device, const std::string &driver) {
        std::string link = root + folder(device) + "/driver";
        std::filesystem::remove(link);
        if (!driver.empty())
            std::filesystem::create_symlink("../../../../bus/pci/drivers/" + driver, link);
    }
    void add_device(const std::string &name, const std::string &vendor, const std::string &id,
                    int group) {
        std::string at = folder(name), number = std::to_string(group);
        write(at + "/vendor", vendor + "\n");
        write(at + "/device", id + "\n");
        write(at + "/class", "0x00ff00\n");
        write(at + "/revision", "0x10\n");
        write(at + "/numa_node", "-1\n");
        char lines[256];
        snprintf(lines, sizeof lines, "%#lx %#lx 0x40200\n0 0 0\n0xc000 0xc0ff 0x40101\n",
                 kBarAt + unsigned(devices) * kBarBytes,
                 kBarAt + unsigned(devices) * kBarBytes + kBarBytes - 1);
        write(at + "/resource", lines);
        std::filesystem::create_directories(root + "/sys/kernel/iommu_groups/" + number +
                                            "/devices/" + name);
        std::filesystem::create_symlink("../../../../kernel/iommu_groups/" + number,
                                        root + at + "/iommu_group");
        std::string node = "vfio" + std::to_string(devices++);
        write(at + "/vfio-dev/" + node + "/dev", "");
        write("/dev/vfio/" + number, "");
        write("/dev/vfio/devices/" + node, "");
        write("/dev/device/" + name, "");
        for (const std::string &file : {"/dev/vfio/devices/" + node, "/dev/device/" + name}) {
            std::filesystem::resize_file(root + file, kConfigAt + kConfigBytes);
            patch(file, kConfigAt + 0x06, "\x10"s);            // it has a list of capabilities:
            patch(file, kConfigAt + 0x34, "\x40"s);            // MSI at 0x40, then
            patch(file, kConfigAt + 0x40, "\x05\x50"s);        // PCI Express at 0x50
            patch(file, kConfigAt + 0x50, "\x10\0"s);          //
            patch(file, kConfigAt + 0x100, "\x01\0\x81\x20"s); // extended: AER, then
            patch(file, kConfigAt + 0x208, "\x03\0\x01\0"s);   // a serial number
        }
        bind(name, "vfio-pci");
    }
    void patch(const std::string &path, uint64_t at, const std::string &bytes) {
        std::fstream f(root + path, std::ios::in | std::ios::out | std::ios::binary);
        f.seekp(static_cast<std::streamoff>(at));
        f << bytes;
    }

    // What the kernel does next, and what it was asked for.
    std::string root;
    int devices = 0;
    std::map<unsigned long, int> errors; // ioctl -> errno, until removed
    std::vector<std::pair<uint64_t, uint64_t>> windows = {{0, 0xfedfffff},
                                                          {0xfef00000, 0x7fffffffff}};
    uint64_t page_sizes = 0x40201000;
    uint32_t entries = 65535;
    uint64_t alignment = 4096; // of what iommufd maps
    bool viable = true, noiommu = false, can_share = true, can_reset = true;
    // The parts of BAR 0 that can be mapped; none: all of it.
    std::vector<vfio_region_sparse_mmap_area> sparse;
    struct mapping {
        uint64_t bytes, at;
        uint32_t flags;
    };
    std::map<uint64_t, mapping> mapped; // in all address spaces
    std::map<unsigned, std::vector<int>> interrupts;
    unsigned messages = 4;           // how many MSI-X the device has, 0: none
    unsigned grants = 64;            // how many of them the system gives
    std::function<void()> while_set; // called as interrupts are being set
    int resets = 0, unmasked = 0, containers = 0;

  private:
    static fake_vfio *&self() {
        static fake_vfio *current;
        return current;
    }
    static long answer(int fd, unsigned long request, uintptr_t argument) {
        return self()->ioctl(fd, request, reinterpret_cast<void *>(argument), argument);
    }

    template <class T> static T *as(void *argument) { return static_cast<T *>(argument); }
    using word = uint32_t;

    long ioctl(int fd, unsigned long request, void *argument, uintptr_t value) {
        if (auto found = errors.find(request); found != errors.end())
            return -found->second;
        switch (request) {
        case VFIO_GET_API_VERSION:
            return VFIO_API_VERSION;
        case VFIO_CHECK_EXTENSION:
            return value == (noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU);
        case VFIO_GROUP_GET_STATUS:
            as<vfio_group_status>(argument)->flags = viable ? VFIO_GROUP_FLAGS_VIABLE : 0;
            return 0;
        case VFIO_GROUP_SET_CONTAINER:
            if (iommu_set.count(*as<int>(argument)) != 0 && !can_share)
                return -EINVAL;
            return 0;
        case VFIO_GROUP_UNSET_CONTAINER:
            return 0;
        case VFIO_SET_IOMMU:
            containers++;
            iommu_set.insert(fd);
            return 0;
        case VFIO_GROUP_GET_DEVICE_FD:
            return open((root + "/dev/device/" + as<char>(argument)).c_str(), O_RDWR | O_CLOEXEC);
        case VFIO_IOMMU_GET_INFO:
            return info(as<vfio_iommu_type1_info>(argument));
        case VFIO_IOMMU_MAP_DMA: {
            auto *m = as<vfio_iommu_type1_dma_map>(argument);
            return map(m->iova, {m->size, m->vaddr, m->flags}, -EEXIST);
        }
        case VFIO_IOMMU_UNMAP_DMA: {
            auto *m = as<vfio_iommu_type1_dma_unmap>(argument);
            long error = unmap(m->iova, m->size, -EINVAL);
            m->size = mapped_here_before ? m->size : 0;
            return error;
        }
        case kBind:
        case kAttach:
            return 0;
        case kIoasAlloc:
            as<word>(argument)[2] = ++ioas;
            return 0;
        case kIoasRanges:
            return ranges(as<word>(argument));
        case kIoasMap: {
            auto *w = as<word>(argument);
            auto *q = reinterpret_cast<uint64_t *>(w + 4);
            return (w[1] & 1) == 0 ? -EINVAL
                                   : map(q[2], {q[1], q[0], w[1] >> 2 | (w[1] & 2)}, -EADDRINUSE);
        }
        case kIoasUnmap: {
            auto *q = as<uint64_t>(argument);
            return unmap(q[1], q[2], -ENOENT) != 0 || !mapped_here_before ? -ENOENT : 0;
        }
        case VFIO_DEVICE_GET_INFO: {
            auto *i = as<vfio_device_info>(argument);
            i->flags = VFIO_DEVICE_FLAGS_PCI | (can_reset ? VFIO_DEVICE_FLAGS_RESET : 0);
            return 0;
        }
        case VFIO_DEVICE_GET_REGION_INFO:
            return region(as<vfio_region_info>(argument));
        case VFIO_DEVICE_RESET:
            resets++;
            return 0;
        case VFIO_DEVICE_GET_IRQ_INFO:
            return interrupt_info(as<vfio_irq_info>(argument));
        case VFIO_DEVICE_SET_IRQS:
            return set_interrupts(as<vfio_irq_set>(argument));
        default:
            return -ENOTTY;
        }
    }

    long info(vfio_iommu_type1_info *i) {
        uint32_t first = sizeof *i;
        auto ranges_bytes = static_cast<uint32_t>(sizeof(vfio_iommu_type1_info_cap_iova_range) +
                                                  windows.size() * sizeof(vfio_iova_range));
        uint32_t room = i->argsz;
        i->argsz = first + ranges_bytes + sizeof(vfio_iommu_type1_info_dma_avail);
        i->flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
        i->iova_pgsizes = page_sizes;
        i->cap_offset = 0;
        if (room < i->argsz)
            return 0;
        i->cap_offset = first;
        auto *base = reinterpret_cast<char *>(i);
        auto *r = reinterpret_cast<vfio_iommu_type1_info_cap_iova_range *>(base + first);
        r->header = {VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, first + ranges_bytes};
        r->nr_iovas = static_cast<uint32_t>(windows.size());
        for (size_t n = 0; n < windows.size(); n++)
            r->iova_ranges[n] = {windows[n].first, windows[n].second};
        auto *a = reinterpret_cast<vfio_iommu_type1_info_dma_avail *>(base + first + ranges_bytes);
        a->header = {VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, 0};
        a->avail = entries - static_cast<uint32_t>(mapped.size());
        return 0;
    }
    long ranges(word *w) {
        auto *out = *reinterpret_cast<std::pair<uint64_t, uint64_t> **>(w + 4);
        uint32_t capacity = w[2];
        w[2] = static_cast<uint32_t>(windows.size());
        *reinterpret_cast<uint64_t *>(w + 6) = alignment;
        for (uint32_t i = 0; i < capacity && i < windows.size(); i++)
            out[i] = windows[i];
        return windows.size() > capacity ? -EMSGSIZE : 0;
    }
    long map(uint64_t iova, mapping m, long overlap) {
        if (m.bytes == 0 || iova % alignment != 0 || m.bytes % alignment != 0)
            return -EINVAL;
        if (mapped.size() >= entries)
            return -ENOSPC;
        bool inside = false;
        for (auto [first, last] : windows)
            inside |= iova >= first && iova + m.bytes - 1 <= last;
        if (!inside)
            return -EINVAL;
        auto after = mapped.lower_bound(iova);
        if (after != mapped.end() && after->first < iova + m.bytes)
            return overlap;
        if (after != mapped.begin() &&
            std::prev(after)->first + std::prev(after)->second.bytes > iova)
            return overlap;
        mapped[iova] = m;
        return 0;
    }
    long unmap(uint64_t iova, uint64_t bytes, long partial) {
        auto found = mapped.find(iova);
        mapped_here_before = found != mapped.end();
        if (!mapped_here_before)
            return 0;
        if (found->second.bytes != bytes)
            return partial;
        mapped.erase(found);
        return 0;
    }
    long region(vfio_region_info *r) {
        auto list_bytes =
            static_cast<uint32_t>(sizeof(vfio_region_info_cap_sparse_mmap) +
                                  sparse.size() * sizeof(vfio_region_sparse_mmap_area));
        uint32_t room = r->argsz;
        r->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        r->argsz = sizeof *r;
        switch (r->index) {
        case VFIO_PCI_BAR0_REGION_INDEX: {
            r->offset = 0;
            r->size = kBarBytes;
            r->flags |= VFIO_REGION_INFO_FLAG_MMAP;
            if (sparse.empty())
                return 0;
            r->flags |= VFIO_REGION_INFO_FLAG_CAPS;
            r->argsz = static_cast<uint32_t>(sizeof *r) + list_bytes;
            r->cap_offset = room < r->argsz ? 0 : sizeof *r;
            if (room < r->argsz)
                return 0;
            auto *list = reinterpret_cast<vfio_region_info_cap_sparse_mmap *>(r + 1);
            list->header = {VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0};
            list->nr_areas = static_cast<uint32_t>(sparse.size());
            std::copy(sparse.begin(), sparse.end(), list->areas);
            return 0;
        }
        case VFIO_PCI_BAR2_REGION_INDEX:
            r->offset = kBar2At;
            r->size = kBar2Bytes;
            return 0;
        case VFIO_PCI_CONFIG_REGION_INDEX:
            r->offset = kConfigAt;
            r->size = kConfigBytes;
            return 0;
        case VFIO_PCI_ROM_REGION_INDEX:
            return -EINVAL;
        default:
            r->size = 0;
            return 0;
        }
    }
    long interrupt_info(vfio_irq_info *i) {
        i->flags = VFIO_IRQ_INFO_EVENTFD;
        i->count = 1;
        if (i->index == VFIO_PCI_INTX_IRQ_INDEX)
            i->flags |= VFIO_IRQ_INFO_AUTOMASKED | VFIO_IRQ_INFO_MASKABLE;
        if (i->index == VFIO_PCI_MSIX_IRQ_INDEX)
            i->count = messages;
        if (i->index == VFIO_PCI_ERR_IRQ_INDEX)
            return -EINVAL; // no PCI Express
        return 0;
    }
    long set_interrupts(vfio_irq_set *set) {
        auto *fds = reinterpret_cast<int *>(set + 1);
        if ((set->flags & VFIO_IRQ_SET_ACTION_UNMASK) != 0) {
            unmasked++;
        } else if ((set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0) {
            if (while_set)
                while_set();
            if (set->count > grants)
                return grants;
            interrupts[set->index].assign(fds, fds + set->count);
        } else if (set->count == 0) {
            interrupts.erase(set->index);
        } else {
            eventfd_write(interrupts.at(set->index).at(set->start), 1);
        }
        return 0;
    }

    std::set<int> iommu_set;
    uint32_t ioas = 0;
    bool mapped_here_before = false;
};

} // namespace pagoda::test
