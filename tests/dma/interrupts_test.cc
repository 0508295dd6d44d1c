#include "dma/interrupts.h"

#include "tests/dma/edu.h"

#include <poll.h>

using namespace pagoda::dma;
using namespace pagoda::test;

using interrupts_test = edu;

namespace {

uint64_t count(int fd) {
    uint64_t n = 0;
    return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

} // namespace

TEST_F(interrupts_test, the_best_kind_that_is_allowed) {
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 8, PCI_IRQ_ALL_TYPES), 4);
    EXPECT_EQ(kernel.interrupts[VFIO_PCI_MSIX_IRQ_INDEX].size(), 4u);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_ALL_TYPES), -EBUSY);
    EXPECT_TRUE(said("pci_free_irq_vectors")) << pagoda_device_error();
    pci_free_irq_vectors(pci);
    EXPECT_TRUE(kernel.interrupts.empty());
    pci_free_irq_vectors(pci);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 8, PCI_IRQ_MSI | PCI_IRQ_INTX), 1);
    EXPECT_EQ(kernel.interrupts.count(VFIO_PCI_MSI_IRQ_INDEX), 1u);
    pci_free_irq_vectors(pci);
    kernel.messages = 0;
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_MSIX), -ENOSPC);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_INTX), 1);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_INTX), -EBUSY);
}

TEST_F(interrupts_test, numbers_that_make_no_sense_or_cannot_be_had) {
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 0, 1, PCI_IRQ_ALL_TYPES), -EINVAL);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 2, 1, PCI_IRQ_ALL_TYPES), -EINVAL);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, 0), -ENOSPC);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 5, 8, PCI_IRQ_ALL_TYPES), -ENOSPC);
    EXPECT_TRUE(said("fewer interrupts than the 5")) << pagoda_device_error();
    EXPECT_EQ(pci_irq_vector(pci, 0), -EINVAL);
    kernel.grants = 2; // the system has not as many as the device
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 3, 4, PCI_IRQ_MSIX), -ENOSPC);
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 4, PCI_IRQ_MSIX), 2);
    EXPECT_GE(pci_irq_vector(pci, 1), 0);
    EXPECT_EQ(pci_irq_vector(pci, 2), -EINVAL);
}

TEST_F(interrupts_test, each_has_an_eventfd) {
    ASSERT_EQ(pci_alloc_irq_vectors(pci, 2, 2, PCI_IRQ_MSIX), 2);
    int first = pci_irq_vector(pci, 0), second = pci_irq_vector(pci, 1);
    EXPECT_NE(first, second);
    EXPECT_EQ(pagoda_pci_irq_trigger(pci, 1), 0);
    EXPECT_EQ(pagoda_pci_irq_trigger(pci, 1), 0);
    pollfd waiting = {second, POLLIN, 0};
    EXPECT_EQ(poll(&waiting, 1, 1000), 1);
    EXPECT_EQ(count(second), 2u);
    EXPECT_EQ(count(first), 0u);
    EXPECT_EQ(pagoda_pci_irq_trigger(pci, 2), -EINVAL);
    EXPECT_EQ(pagoda_pci_irq_unmask(pci), 0);
    EXPECT_EQ(kernel.unmasked, 0) << "messages do not mask themselves";
    pci_free_irq_vectors(pci);
    EXPECT_EQ(fcntl(first, F_GETFD), -1);
}

TEST_F(interrupts_test, intx_is_unmasked_by_hand) {
    EXPECT_EQ(pagoda_pci_irq_unmask(pci), -EINVAL);
    ASSERT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_INTX), 1);
    EXPECT_EQ(pagoda_pci_irq_unmask(pci), 0);
    EXPECT_EQ(kernel.unmasked, 1);
}

TEST_F(interrupts_test, the_system_can_ask_for_the_device) {
    int fd = pagoda_pci_removal_fd(pci);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(pagoda_pci_removal_fd(pci), fd);
    EXPECT_EQ(count(fd), 0u);
    eventfd_write(kernel.interrupts[VFIO_PCI_REQ_IRQ_INDEX][0], 1);
    EXPECT_EQ(count(fd), 1u);
    EXPECT_EQ(pagoda_pci_error_fd(pci), -ENOSPC) << "no PCI Express, no error reports";
    close();
    EXPECT_EQ(fcntl(fd, F_GETFD), -1);
    EXPECT_TRUE(kernel.interrupts.empty());
}

TEST_F(interrupts_test, no_descriptor_is_left_or_to_be_had) {
    EXPECT_TRUE(succeeded(in_child([] {
        fake_vfio own;
        device *mine = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
        ASSERT_NE(mine, nullptr) << pagoda_device_error();
        int next = dup(0);
        ::close(next);
        rlimit most;
        getrlimit(RLIMIT_NOFILE, &most);
        rlimit few = {static_cast<rlim_t>(next) + 1, most.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
        EXPECT_EQ(pci_alloc_irq_vectors(to_pci_dev(mine), 2, 4, PCI_IRQ_MSIX), -EMFILE);
        EXPECT_TRUE(said("RLIMIT_NOFILE")) << pagoda_device_error();
        EXPECT_EQ(pci_alloc_irq_vectors(to_pci_dev(mine), 1, 1, PCI_IRQ_MSIX), 1);
        setrlimit(RLIMIT_NOFILE, &most);
        pagoda_device_close(mine);
    })));
}

TEST_F(interrupts_test, a_refusal_of_the_kernel_is_passed_on) {
    kernel.errors[VFIO_DEVICE_SET_IRQS] = EIO;
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_MSIX), -EIO);
    EXPECT_EQ(pagoda_pci_removal_fd(pci), -EIO);
    kernel.errors.clear();
    EXPECT_EQ(pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_MSIX), 1);
}
