#include "dma/iommufd.h"

#include "dma/device.h"
#include "dma/os.h"
#include "dma/sentence.h"
#include "dma/vfio.h"

#include "hugepage/base.h"

#include <errno.h>
#include <pagoda/slab.h>

namespace pagoda::dma {
namespace {

constexpr char kName[] = "iommufd"; // in sentences

struct ioas_iommu : iommu {
    int iommufd;
    uint32_t ioas;
};

ioas_iommu &self_of(iommu &self) { return static_cast<ioas_iommu &>(self); }

int map(iommu &self, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
    ioas_iommu &s = self_of(self);
    int error = vfio::ioas_map(s.iommufd, s.ioas, iova, at, bytes, access);
    if (error >= 0)
        return 0;
    facts f = facts_of_range(kName, iova, bytes);
    f.limit = os::memlock_limit();
    f.used = os::status_figure("VmPin"); // at least: it is the user's other processes' too
    // The kernel's word for what is mapped there already.
    return say(step::map, error == -EADDRINUSE ? EEXIST : -error, f);
}

int unmap(iommu &self, uint64_t iova, uint64_t bytes) {
    ioas_iommu &s = self_of(self);
    int error = vfio::ioas_unmap(s.iommufd, s.ioas, iova, bytes);
    return error >= 0 ? 0 : say(step::unmap, -error, facts_of_range(kName, iova, bytes));
}

int windows(iommu &self, iova_window *out, int capacity) {
    ioas_iommu &s = self_of(self);
    uint64_t granule = 0;
    int count = vfio::ioas_windows(s.iommufd, s.ioas, out, capacity, &granule);
    if (count < 0)
        return say(step::windows, -count, facts_of_range(kName, 0, 0));
    // A device that was attached later and wants larger units than all that is mapped here has.
    if (granule > s.granule)
        return say(step::windows, EADDRINUSE, facts_of_range(kName, 0, 0));
    return count;
}

uint64_t entries_left(iommu &) { return UINT64_MAX; } // memory is the limit

uint64_t physical(iommu &, uintptr_t) { return 0; }

void close(iommu &self) {
    os::close(self_of(self).iommufd);
    kfree(&self_of(self));
}

constexpr iommu_ops kOps = {"iommufd", true, map, unmap, windows, entries_left, physical, close};

} // namespace

iommu *iommufd_create(int iommufd, uint32_t ioas, int *error) {
    uint64_t granule = 0;
    int count = vfio::ioas_windows(iommufd, ioas, nullptr, 0, &granule);
    auto *self =
        count < 0 ? nullptr : static_cast<ioas_iommu *>(kzalloc(sizeof(ioas_iommu), GFP_KERNEL));
    if (self == nullptr) {
        os::close(iommufd);
        *error = count < 0 ? say(step::windows, -count, facts_of_range(kName, 0, 0))
                           : fail(ENOMEM, "no memory for an address space of %s", kName);
        return nullptr;
    }
    self->ops = &kOps;
    self->granule = max_of<uint64_t>(granule, 4096);
    self->iommufd = iommufd;
    self->ioas = ioas;
    return self;
}

} // namespace pagoda::dma
