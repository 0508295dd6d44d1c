#include "dma/vfio.h"

#include "dma/os.h"

#include <errno.h>
#include <linux/vfio.h>
#include <pagoda/slab.h>
#include <string.h>
#include <sys/ioctl.h>

// The part of the kernel's interface that headers older than Linux 6.6 lack.
#ifndef VFIO_DEVICE_BIND_IOMMUFD
#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#endif

namespace pagoda::dma::vfio {
namespace {

constexpr int kIoasAllocNumber = 0x81, kIoasRangesNumber = 0x84, kIoasMapNumber = 0x85,
              kIoasUnmapNumber = 0x86;

struct bind_iommufd_argument {
    uint32_t size, flags;
    int32_t iommufd;
    uint32_t device_id; // out
};
struct attach_argument {
    uint32_t size, flags, page_table; // in: the address space, out: the page table
};
struct ioas_alloc_argument {
    uint32_t size, flags, ioas; // out
};
struct ioas_ranges_argument {
    uint32_t size, ioas, count, reserved;
    uint64_t ranges, alignment;
};
struct ioas_map_argument {
    uint32_t size, flags, ioas, reserved;
    uint64_t at, bytes, iova;
};
struct ioas_unmap_argument {
    uint32_t size, ioas;
    uint64_t iova, bytes;
};
constexpr uint32_t kMapFixed = 1, kMapWritable = 2, kMapReadable = 4;

template <class T> int call(int fd, unsigned long request, T *argument) {
    return static_cast<int>(os::ioctl(fd, request, reinterpret_cast<uintptr_t>(argument)));
}

// What the kernel appends to an answer, found by offsets from its start.
class capabilities {
  public:
    capabilities(const char *answer, size_t bytes, size_t first)
        : answer_(answer), bytes_(bytes), at_(first) {}
    // The next one, or NULL.
    const vfio_info_cap_header *next() {
        if (at_ == 0 || at_ + sizeof(vfio_info_cap_header) > bytes_)
            return nullptr;
        auto *header = reinterpret_cast<const vfio_info_cap_header *>(answer_ + at_);
        at_ = header->next > at_ ? header->next : 0; // never round in a circle
        return header;
    }

  private:
    const char *answer_;
    size_t bytes_, at_;
};

// An ioctl whose answer is as long as it is: asks, and asks again with room for it. `first` is the
// type's argsz-led struct. NULL: *error.
template <class T> T *ask_all(int fd, unsigned long request, const T &first, int *error) {
    uint32_t bytes = sizeof(T);
    for (int round = 0; round < 3; round++) {
        T *answer = static_cast<T *>(kzalloc(bytes, GFP_KERNEL));
        if (answer == nullptr) {
            *error = -ENOMEM;
            return nullptr;
        }
        *answer = first;
        answer->argsz = bytes;
        *error = call(fd, request, answer);
        if (*error >= 0 && answer->argsz <= bytes)
            return answer;
        uint32_t wanted = answer->argsz;
        kfree(answer);
        if (*error < 0)
            return nullptr;
        bytes = wanted;
    }
    *error = -EAGAIN; // it grew each time
    return nullptr;
}

} // namespace

int check_container(int container, bool noiommu) {
    long version = os::ioctl(container, VFIO_GET_API_VERSION, 0);
    if (version != VFIO_API_VERSION)
        return version < 0 ? static_cast<int>(version) : -EINVAL;
    long has = os::ioctl(container, VFIO_CHECK_EXTENSION,
                         noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU);
    return has > 0 ? 0 : has < 0 ? static_cast<int>(has) : -ENODEV;
}

int group_is_viable(int group) {
    vfio_group_status status = {sizeof status, 0};
    int error = call(group, VFIO_GROUP_GET_STATUS, &status);
    return error < 0 ? error : (status.flags & VFIO_GROUP_FLAGS_VIABLE) != 0;
}

int group_set_container(int group, int container) {
    return call(group, VFIO_GROUP_SET_CONTAINER, &container);
}

int group_unset_container(int group) {
    return static_cast<int>(os::ioctl(group, VFIO_GROUP_UNSET_CONTAINER, 0));
}

int set_iommu(int container, bool noiommu) {
    return static_cast<int>(
        os::ioctl(container, VFIO_SET_IOMMU, noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU));
}

int group_device(int group, const char *device) {
    return static_cast<int>(
        os::ioctl(group, VFIO_GROUP_GET_DEVICE_FD, reinterpret_cast<uintptr_t>(device)));
}

int type1_get_info(int container, type1_info *info, iova_window *windows, int capacity) {
    int error = 0;
    vfio_iommu_type1_info *answer =
        ask_all(container, VFIO_IOMMU_GET_INFO, vfio_iommu_type1_info{}, &error);
    if (answer == nullptr)
        return error;
    *info = {0, UINT64_MAX, 0};
    if ((answer->flags & VFIO_IOMMU_INFO_PGSIZES) != 0)
        info->page_sizes = answer->iova_pgsizes;
    bool caps = (answer->flags & VFIO_IOMMU_INFO_CAPS) != 0;
    capabilities list(reinterpret_cast<const char *>(answer), answer->argsz,
                      caps ? answer->cap_offset : 0);
    while (const vfio_info_cap_header *header = list.next()) {
        if (header->id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
            auto *ranges = reinterpret_cast<const vfio_iommu_type1_info_cap_iova_range *>(header);
            for (uint32_t i = 0; i < ranges->nr_iovas; i++, info->windows++)
                if (info->windows < capacity)
                    windows[info->windows] = {ranges->iova_ranges[i].start,
                                              ranges->iova_ranges[i].end};
        } else if (header->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
            info->entries_left =
                reinterpret_cast<const vfio_iommu_type1_info_dma_avail *>(header)->avail;
        }
    }
    kfree(answer);
    return 0;
}

int type1_map(int container, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
    vfio_iommu_type1_dma_map map = {};
    map.argsz = sizeof map;
    map.flags = ((access & kDeviceReads) != 0 ? VFIO_DMA_MAP_FLAG_READ : 0) |
                ((access & kDeviceWrites) != 0 ? VFIO_DMA_MAP_FLAG_WRITE : 0);
    map.vaddr = at;
    map.iova = iova;
    map.size = bytes;
    return call(container, VFIO_IOMMU_MAP_DMA, &map);
}

int type1_unmap(int container, uint64_t iova, uint64_t bytes) {
    vfio_iommu_type1_dma_unmap unmap = {};
    unmap.argsz = sizeof unmap;
    unmap.iova = iova;
    unmap.size = bytes;
    int error = call(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
    return error < 0 ? error : unmap.size == 0 ? -ENOENT : 0;
}

int bind_iommufd(int device, int iommufd) {
    bind_iommufd_argument argument = {sizeof argument, 0, iommufd, 0};
    return call(device, VFIO_DEVICE_BIND_IOMMUFD, &argument);
}

int attach_ioas(int device, uint32_t ioas) {
    attach_argument argument = {sizeof argument, 0, ioas};
    return call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &argument);
}

int ioas_alloc(int iommufd, uint32_t *ioas) {
    ioas_alloc_argument argument = {sizeof argument, 0, 0};
    int error = call(iommufd, _IO(VFIO_TYPE, kIoasAllocNumber), &argument);
    *ioas = argument.ioas;
    return error;
}

int ioas_windows(int iommufd, uint32_t ioas, iova_window *windows, int capacity,
                 uint64_t *granule) {
    // The kernel's ranges have our layout: two 64-bit words, first and last.
    ioas_ranges_argument argument = {sizeof argument,
                                     ioas,
                                     static_cast<uint32_t>(capacity),
                                     0,
                                     reinterpret_cast<uintptr_t>(windows),
                                     0};
    int error = call(iommufd, _IO(VFIO_TYPE, kIoasRangesNumber), &argument);
    if (error < 0 && error != -EMSGSIZE) // -EMSGSIZE: there are more
        return error;
    *granule = argument.alignment;
    return static_cast<int>(argument.count);
}

int ioas_map(int iommufd, uint32_t ioas, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
    uint32_t flags = kMapFixed | ((access & kDeviceReads) != 0 ? kMapReadable : 0) |
                     ((access & kDeviceWrites) != 0 ? kMapWritable : 0);
    ioas_map_argument argument = {sizeof argument, flags, ioas, 0, at, bytes, iova};
    return call(iommufd, _IO(VFIO_TYPE, kIoasMapNumber), &argument);
}

int ioas_unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t bytes) {
    ioas_unmap_argument argument = {sizeof argument, ioas, iova, bytes};
    return call(iommufd, _IO(VFIO_TYPE, kIoasUnmapNumber), &argument);
}

int device_info(int device, bool *can_reset) {
    vfio_device_info info = {};
    info.argsz = sizeof info;
    int error = call(device, VFIO_DEVICE_GET_INFO, &info);
    if (error < 0)
        return error;
    *can_reset = (info.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
    return (info.flags & VFIO_DEVICE_FLAGS_PCI) != 0 ? 0 : -ENODEV;
}

int device_region(int device, unsigned index, region *out) {
    vfio_region_info wanted = {};
    wanted.index = index;
    int error = 0;
    vfio_region_info *answer = ask_all(device, VFIO_DEVICE_GET_REGION_INFO, wanted, &error);
    if (answer == nullptr)
        return error;
    bool mappable = (answer->flags & VFIO_REGION_INFO_FLAG_MMAP) != 0;
    *out = {answer->offset, answer->size, 0, mappable ? answer->size : 0};
    bool caps = (answer->flags & VFIO_REGION_INFO_FLAG_CAPS) != 0;
    capabilities list(reinterpret_cast<const char *>(answer), answer->argsz,
                      caps ? answer->cap_offset : 0);
    while (const vfio_info_cap_header *header = list.next()) {
        if (header->id != VFIO_REGION_INFO_CAP_SPARSE_MMAP)
            continue;
        auto *sparse = reinterpret_cast<const vfio_region_info_cap_sparse_mmap *>(header);
        out->map_bytes = 0; // the largest area stands for all
        for (uint32_t i = 0; i < sparse->nr_areas; i++)
            if (sparse->areas[i].size > out->map_bytes) {
                out->map_first = sparse->areas[i].offset;
                out->map_bytes = sparse->areas[i].size;
            }
    }
    kfree(answer);
    return 0;
}

int device_reset(int device) { return static_cast<int>(os::ioctl(device, VFIO_DEVICE_RESET, 0)); }

int interrupt_count(int device, unsigned index, bool *automasked) {
    vfio_irq_info info = {};
    info.argsz = sizeof info;
    info.index = index;
    int error = call(device, VFIO_DEVICE_GET_IRQ_INFO, &info);
    if (error < 0)
        return error;
    *automasked = (info.flags & VFIO_IRQ_INFO_AUTOMASKED) != 0;
    return (info.flags & VFIO_IRQ_INFO_EVENTFD) != 0 ? static_cast<int>(info.count) : 0;
}

namespace {

int set_interrupts(int device, unsigned index, uint32_t flags, unsigned start, unsigned count,
                   const int *eventfds) {
    size_t words = eventfds != nullptr ? count : 0;
    size_t bytes = sizeof(vfio_irq_set) + words * sizeof *eventfds;
    auto *set = static_cast<vfio_irq_set *>(kzalloc(bytes, GFP_KERNEL));
    if (set == nullptr)
        return -ENOMEM;
    set->argsz = static_cast<uint32_t>(bytes);
    set->flags = flags;
    set->index = index;
    set->start = start;
    set->count = count;
    if (words != 0)
        memcpy(set + 1, eventfds, words * sizeof *eventfds);
    int error = call(device, VFIO_DEVICE_SET_IRQS, set);
    kfree(set);
    return error;
}

} // namespace

int interrupts_enable(int device, unsigned index, const int *eventfds, unsigned count) {
    return set_interrupts(device, index, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0,
                          count, eventfds);
}

int interrupts_disable(int device, unsigned index) {
    return set_interrupts(device, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0,
                          nullptr);
}

int interrupt_unmask(int device, unsigned index) {
    return set_interrupts(device, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1,
                          nullptr);
}

int interrupt_trigger(int device, unsigned index, unsigned number) {
    return set_interrupts(device, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
                          number, 1, nullptr);
}

} // namespace pagoda::dma::vfio
