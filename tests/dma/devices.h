// Software devices for tests.
#pragma once

#include "tests/unit.h"

#include "dma/device.h"

#include <pagoda/software_device.h>

#include <memory>

namespace pagoda::test {

// pagoda_software_options by name: software({.width = 28}).
struct software_options {
    const char *name = nullptr;
    unsigned width = 0;
    bool no_iommu = false;
    unsigned physical_bits = 0;
    uint64_t granule = 0;
    uint64_t entry_limit = 0;
    uint64_t memlock = 0;
    const uint64_t *window_first = nullptr;
    const uint64_t *window_last = nullptr;
    int windows = 0;
    device *beside = nullptr;

    device *make() const {
        pagoda_software_options o = {name,        width,       no_iommu, physical_bits,
                                     granule,     entry_limit, memlock,  window_first,
                                     window_last, windows,     beside};
        return pagoda_software_device(&o);
    }
};

struct device_closer {
    void operator()(device *d) const { pagoda_device_close(d); }
};
using device_ptr = std::unique_ptr<device, device_closer>;

inline device_ptr software(const software_options &options = {}) {
    device_ptr d(options.make());
    EXPECT_NE(d, nullptr) << pagoda_device_error();
    return d;
}

inline dma::space &space_of(const device_ptr &d) { return *d->state->space; }

inline pagoda_software_fault last_fault(const device_ptr &d) {
    pagoda_software_fault f = {};
    pagoda_software_faults(d.get(), &f, 1);
    return f;
}

inline uint64_t faults(const device_ptr &d) { return pagoda_software_faults(d.get(), nullptr, 0); }

// Memory of libc's, full of 'm'.
struct foreign_pages {
    explicit foreign_pages(size_t n)
        : bytes(n << kPageShift), at(static_cast<char *>(aligned_alloc(kPageSize, bytes))) {
        memset(at, 'm', bytes);
    }
    ~foreign_pages() { free(at); }
    foreign_pages(const foreign_pages &) = delete;
    foreign_pages &operator=(const foreign_pages &) = delete;
    uintptr_t address() const { return reinterpret_cast<uintptr_t>(at); }

    size_t bytes;
    char *at;
};

} // namespace pagoda::test
