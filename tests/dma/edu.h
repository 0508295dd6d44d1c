// A device of the played kernel, open.
#pragma once

#include "tests/dma/fake_vfio.h"
#include "tests/unit.h"

#include <pagoda/device.h>
#include <pagoda/pci.h>

namespace pagoda::test {

struct edu : ::testing::Test {
    fake_vfio kernel;
    device *dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    pci_dev *pci = dev == nullptr ? nullptr : to_pci_dev(dev);
    void SetUp() override { ASSERT_NE(dev, nullptr) << pagoda_device_error(); }
    void TearDown() override { close(); }
    void close() {
        pagoda_device_close(dev);
        dev = nullptr;
    }
};

inline bool said(const char *text) { return strstr(pagoda_device_error(), text) != nullptr; }

} // namespace pagoda::test
