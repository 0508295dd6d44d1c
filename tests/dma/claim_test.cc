#include "dma/claim.h"

#include "tests/dma/edu.h"

using namespace pagoda::dma;
using namespace pagoda::test;

using claim_test = edu;

TEST_F(claim_test, one_at_a_time) {
    resource *mine = request_mem_region(kBarAt + 0x1000, 0x1000, "mine");
    ASSERT_NE(mine, nullptr) << pagoda_device_error();
    EXPECT_EQ(mine->start, kBarAt + 0x1000);
    EXPECT_EQ(resource_size(mine), 0x1000u);
    EXPECT_EQ(resource_type(mine), unsigned{IORESOURCE_MEM});
    EXPECT_STREQ(mine->name, "mine");
    EXPECT_EQ(mine->parent, &pci->resource[0]);
    for (auto [start, bytes] : {std::pair<uint64_t, uint64_t>{0x1000, 0x1000},
                                {0x1fff, 1},
                                {0, 0x1001},
                                {0, 0x8000},
                                {0x1800, 0x1000}}) {
        EXPECT_EQ(request_mem_region(kBarAt + start, bytes, "yours"), nullptr) << start;
        EXPECT_EQ(errno, EBUSY);
        EXPECT_TRUE(said("claimed by mine")) << pagoda_device_error();
    }
    resource *before = request_mem_region(kBarAt, 0x1000, "yours");
    EXPECT_NE(before, nullptr);
    EXPECT_NE(request_mem_region(kBarAt + 0x2000, 1, "yours"), nullptr);
    release_mem_region(kBarAt + 0x1000, 0x1000);
    EXPECT_NE(request_mem_region(kBarAt + 0x1000, 0x1000, "yours"), nullptr);
}

TEST_F(claim_test, only_in_bars) {
    EXPECT_EQ(request_mem_region(0xa0000, 0x10000, "video"), nullptr);
    EXPECT_EQ(errno, ENXIO);
    EXPECT_EQ(request_mem_region(kBarAt + kBarBytes - 1, 2, "over"), nullptr);
    EXPECT_EQ(request_mem_region(kBarAt, 0, "empty"), nullptr);
}

TEST_F(claim_test, ends_as_it_began) {
    ASSERT_NE(request_mem_region(kBarAt, 0x2000, "mine"), nullptr);
    for (auto [start, bytes] :
         {std::pair<uint64_t, uint64_t>{0, 0x1000}, {0x1000, 0x1000}, {0, 0x3000}, {0, 0}}) {
        errno = 0;
        release_mem_region(kBarAt + start, bytes);
        EXPECT_EQ(errno, EINVAL);
        EXPECT_TRUE(said("what one claim made")) << pagoda_device_error();
    }
    EXPECT_EQ(request_mem_region(kBarAt, 1, "yours"), nullptr);
    release_mem_region(kBarAt, 0x2000);
    EXPECT_NE(request_mem_region(kBarAt, 1, "yours"), nullptr);
}

TEST_F(claim_test, whole_devices_all_or_nothing) {
    EXPECT_EQ(pci_request_regions(pci, "mine"), 0);
    EXPECT_EQ(pci_request_region(pci, 0, "yours"), -EBUSY);
    EXPECT_EQ(pci_request_region(pci, 2, "yours"), -EBUSY);
    pci_release_regions(pci);
    EXPECT_EQ(pci_request_region(pci, 2, "yours"), 0);
    EXPECT_EQ(pci_request_regions(pci, "mine"), -EBUSY);
    EXPECT_EQ(pci_request_region(pci, 0, "mine"), 0) << "nothing of the failed one is left";
    pci_release_region(pci, 0);
    pci_release_region(pci, 2);
    for (int bar : {6, 7, -2})
        EXPECT_EQ(pci_request_region(pci, bar, "mine"), -ENXIO) << bar;
    for (int bar : {1, 3, 5}) {
        EXPECT_EQ(pci_request_region(pci, bar, "mine"), 0) << "as in the kernel, BAR " << bar;
        pci_release_region(pci, bar);
    }
}

TEST_F(claim_test, ends_with_the_device) {
    EXPECT_EQ(pci_request_regions(pci, "mine"), 0);
    close();
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    pci = to_pci_dev(dev);
    EXPECT_EQ(pci_request_regions(pci, "yours"), 0);
}
