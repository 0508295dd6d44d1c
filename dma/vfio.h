// VFIO's and iommufd's ioctls, all of them, with what their answers mean. Every function returns
// what the kernel said as -errno and leaves the sentence to the caller, who knows what it was for.
#pragma once

#include "dma/iommu.h"

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma::vfio {

// Containers and groups: type 1 and no-IOMMU mode.
// 0; -EINVAL: another version; -ENODEV: not this kind of IOMMU.
int check_container(int container, bool noiommu);
// 1: viable, 0: not, or -errno.
int group_is_viable(int group);
int group_set_container(int group, int container);
int group_unset_container(int group);
int set_iommu(int container, bool noiommu);
// The device's descriptor or -errno.
int group_device(int group, const char *device);

struct type1_info {
    uint64_t page_sizes;   // bits
    uint64_t entries_left; // UINT64_MAX: the kernel does not say
    int windows;           // how many there are; at most the capacity were written
};
int type1_get_info(int container, type1_info *info, iova_window *windows, int capacity);
int type1_map(int container, uint64_t iova, uintptr_t at, uint64_t bytes, int access);
// -ENOENT: nothing was mapped there.
int type1_unmap(int container, uint64_t iova, uint64_t bytes);

// iommufd and the device's own node.
int bind_iommufd(int device, int iommufd);
int attach_ioas(int device, uint32_t ioas);
int ioas_alloc(int iommufd, uint32_t *ioas);
// How many windows, of which at most `capacity` were written; or -errno. *granule: the smallest
// unit.
int ioas_windows(int iommufd, uint32_t ioas, iova_window *windows, int capacity, uint64_t *granule);
int ioas_map(int iommufd, uint32_t ioas, uint64_t iova, uintptr_t at, uint64_t bytes, int access);
int ioas_unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t bytes);

// Devices.
struct region {
    uint64_t offset; // in the device's descriptor
    uint64_t bytes;  // 0: there is none
    // The part that can be mapped; without a limit by a sparse list, all of it.
    uint64_t map_first, map_bytes;
};
int device_info(int device, bool *can_reset);
int device_region(int device, unsigned index, region *out);
int device_reset(int device);
// How many interrupts of this kind (VFIO_PCI_*_IRQ_INDEX), or -errno. *automasked: one masks itself
// until it is unmasked.
int interrupt_count(int device, unsigned index, bool *automasked);
// Each interrupt of the kind now signals its eventfd; replaces what was set before.
int interrupts_enable(int device, unsigned index, const int *eventfds, unsigned count);
int interrupts_disable(int device, unsigned index);
int interrupt_unmask(int device, unsigned index);
// Signals the eventfd of one interrupt as if the device had: for tests of a program.
int interrupt_trigger(int device, unsigned index, unsigned number);

} // namespace pagoda::dma::vfio
