#include "dma/noiommu.h"

#include "dma/os.h"
#include "dma/sentence.h"

#include <errno.h>
#include <fcntl.h>
#include <pagoda/slab.h>
#include <unistd.h>

namespace pagoda::dma {
namespace {

struct direct : iommu {
    int container;
    int pagemap;
};

constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kFrame = (uint64_t{1} << 55) - 1;
constexpr uint64_t kLastAddress = (uint64_t{1} << 52) - 1;

direct &self_of(iommu &self) { return static_cast<direct &>(self); }

int map(iommu &, uint64_t iova, uintptr_t, uint64_t bytes, int) {
    return say(step::map, EOPNOTSUPP, facts_of_range("", iova, bytes));
}

int unmap(iommu &self, uint64_t iova, uint64_t bytes) { return map(self, iova, 0, bytes, 0); }

int windows(iommu &, iova_window *out, int capacity) {
    if (capacity > 0)
        out[0] = {0, kLastAddress};
    return 1;
}

uint64_t entries_left(iommu &) { return UINT64_MAX; }

uint64_t physical(iommu &self, uintptr_t at) {
    facts f;
    f.device = "no-IOMMU mode";
    f.at = at;
    uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    uint64_t entry = 0;
    int error = os::read_at(self_of(self).pagemap, &entry, sizeof entry, at / page * sizeof entry);
    if (error == 0 && (entry & kPresent) == 0)
        error = -EFAULT;
    // The kernel shows everybody which pages are present, and frame 0 to those who may not know.
    if (error == 0 && (entry & kFrame) == 0)
        error = -EPERM;
    if (error != 0) {
        say(step::physical, -error, f);
        return 0;
    }
    return (entry & kFrame) * page + at % page;
}

void close(iommu &self) {
    os::close(self_of(self).pagemap);
    os::close(self_of(self).container);
    kfree(&self_of(self));
}

constexpr iommu_ops kOps = {"none", false, map, unmap, windows, entries_left, physical, close};

} // namespace

iommu *noiommu_create(int container, int *error) {
    *error = -ENOMEM;
    auto *self = static_cast<direct *>(kzalloc(sizeof(direct), GFP_KERNEL));
    if (self == nullptr) {
        os::close(container);
        return nullptr;
    }
    self->ops = &kOps;
    self->granule = 4096;
    self->container = container;
    self->pagemap = os::open("/proc/self/pagemap", O_RDONLY);
    volatile char here = 1; // some page that is present
    if (self->pagemap < 0 || physical(*self, reinterpret_cast<uintptr_t>(&here)) == 0) {
        facts f;
        *error = say(step::physical, self->pagemap < 0 ? -self->pagemap : EPERM, f);
        close(*self);
        return nullptr;
    }
    return self;
}

} // namespace pagoda::dma
