#include "dma/type1.h"

#include "dma/os.h"
#include "dma/sentence.h"
#include "dma/vfio.h"

#include <errno.h>
#include <pagoda/slab.h>

namespace pagoda::dma {
namespace {

constexpr char kName[] = "type 1 IOMMU"; // in sentences

struct type1 : iommu {
    int container;
};

type1 &self_of(iommu &self) { return static_cast<type1 &>(self); }

// Kernels before 5.4 do not list windows: what every IOMMU has, around the interrupts' addresses.
constexpr iova_window kOldWindows[] = {{0, 0xfedfffff}, {0xfef00000, (uint64_t{1} << 39) - 1}};
constexpr int kOldCount = 2;

int map(iommu &self, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
    int error = vfio::type1_map(self_of(self).container, iova, at, bytes, access);
    if (error >= 0)
        return 0;
    facts f = facts_of_range(kName, iova, bytes);
    f.limit = os::memlock_limit();
    f.used = os::status_figure("VmLck");
    return say(step::map, -error, f);
}

int unmap(iommu &self, uint64_t iova, uint64_t bytes) {
    int error = vfio::type1_unmap(self_of(self).container, iova, bytes);
    return error >= 0 ? 0 : say(step::unmap, -error, facts_of_range(kName, iova, bytes));
}

int windows(iommu &self, iova_window *out, int capacity) {
    vfio::type1_info info;
    int error = vfio::type1_get_info(self_of(self).container, &info, out, capacity);
    if (error < 0)
        return say(step::windows, -error, facts_of_range(kName, 0, 0));
    if (info.windows != 0)
        return info.windows;
    for (int i = 0; i < kOldCount && i < capacity; i++)
        out[i] = kOldWindows[i];
    return kOldCount;
}

uint64_t entries_left(iommu &self) {
    vfio::type1_info info;
    if (vfio::type1_get_info(self_of(self).container, &info, nullptr, 0) < 0)
        return UINT64_MAX;
    return info.entries_left;
}

uint64_t physical(iommu &, uintptr_t) { return 0; }

void close(iommu &self) {
    os::close(self_of(self).container);
    kfree(&self_of(self));
}

constexpr iommu_ops kOps = {"type1", true, map, unmap, windows, entries_left, physical, close};

} // namespace

iommu *type1_create(int container) {
    auto *self = static_cast<type1 *>(kzalloc(sizeof(type1), GFP_KERNEL));
    if (self == nullptr) {
        os::close(container);
        return nullptr;
    }
    vfio::type1_info info;
    bool told = vfio::type1_get_info(container, &info, nullptr, 0) == 0 && info.page_sizes != 0;
    self->ops = &kOps;
    self->granule = told ? info.page_sizes & -info.page_sizes : 4096;
    self->container = container;
    return self;
}

} // namespace pagoda::dma
