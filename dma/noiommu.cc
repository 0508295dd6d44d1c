#include "dma/noiommu.h"

#include "dma/device.h"
#include "dma/os.h"
#include "dma/sentence.h"

#include "hugepage/base.h"

#include <errno.h>
#include <fcntl.h>
#include <pagoda/slab.h>
#include <unistd.h>

namespace pagoda::dma {
namespace {

struct direct : iommu {
    int container;
    int pagemap;
    int flags; // of frames, by number: /proc/kpageflags
};

constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kFrame = (uint64_t{1} << 55) - 1;
constexpr uint64_t kHuge = uint64_t{1} << 17; // of a frame's flags: the hugetlb pool's
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

uint64_t refuse(uintptr_t at, int error) {
    facts f;
    f.device = "no-IOMMU mode";
    f.at = at;
    say(step::physical, -error, f);
    return 0;
}

// The number of the frame that the memory is in now; 0: unknown.
uint64_t frame(iommu &self, uintptr_t at) {
    uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    uint64_t entry = 0;
    int error = os::read_at(self_of(self).pagemap, &entry, sizeof entry, at / page * sizeof entry);
    if (error == 0 && (entry & kPresent) == 0)
        error = -EFAULT;
    // The kernel shows everybody which pages are present, and frame 0 to those who may not know.
    if (error == 0 && (entry & kFrame) == 0)
        error = -EPERM;
    return error != 0 ? refuse(at, error) : entry & kFrame;
}

// Nothing pins memory for a device without an IOMMU. Ordinary pages are moved (compaction, swap)
// and the device would go on writing to the frame that they were in; the pool's stay.
uint64_t physical(iommu &self, uintptr_t at) {
    uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    uint64_t number = frame(self, at);
    if (number == 0)
        return 0;
    uint64_t flags = 0;
    int error = os::read_at(self_of(self).flags, &flags, sizeof flags, number * sizeof flags);
    if (error == 0 && (flags & kHuge) == 0)
        error = -ERANGE;
    if (error == 0)
        return number * page + at % page;
    refuse(at, error);
    keep_sentence(ENOMEM); // what an allocation that got no such memory ends with
    return 0;
}

void close(iommu &self) {
    os::close(self_of(self).pagemap);
    os::close(self_of(self).flags);
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
    self->flags = os::open("/proc/kpageflags", O_RDONLY);
    volatile char here = 1; // some page that is present
    int opened = min_of(self->pagemap, self->flags);
    if (opened >= 0 && frame(*self, reinterpret_cast<uintptr_t>(&here)) != 0)
        return self;
    facts f;
    *error = say(step::physical, opened < 0 ? -opened : EPERM, f);
    close(*self);
    return nullptr;
}

} // namespace pagoda::dma
