// How a device comes to an address space: by its group and a container (type 1, no-IOMMU), or by
// its own node and an iommufd. Devices share an address space where the kernel lets them.
#pragma once

#include "dma/spaces.h"
#include "dma/sysfs.h"

#include <pagoda/device.h>

namespace pagoda::dma {

struct domain; // an address space with what keeps it: the container or iommufd is its back end's
struct group;  // an IOMMU group that is open here

struct attachment {
    char name[sysfs::kName];
    pagoda_iommu kind;   // what it became, never PAGODA_IOMMU_ANY
    int device;          // the device's descriptor
    struct group *group; // NULL with iommufd
    domain *with;
    space *memory;
};

// Around opening and closing a device, and around fork: which devices an address space has does not
// change meanwhile.
void attach_lock();
void attach_unlock();

// Fills in everything but the name, which is the caller's. `kind` is not PAGODA_IOMMU_SOFTWARE.
// 0, or -errno with its sentence. With the lock.
int attach(attachment &a, pagoda_iommu kind);
// Closes the device. Its address space is gone already with its last device's state
// (device_destroy), or no state was ever made and it goes here (`with_memory`). With the lock.
void detach(attachment &a, bool with_memory);

// In a fork child: gives up the descriptors, which would keep the parent's devices alive. Not a
// byte is freed.
void attach_forget();

} // namespace pagoda::dma
