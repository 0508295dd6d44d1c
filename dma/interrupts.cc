#include "dma/interrupts.h"

#include "dma/os.h"
#include "dma/pci_device.h"
#include "dma/vfio.h"

#include "hugepage/base.h"

#include <errno.h>
#include <linux/vfio.h>
#include <pagoda/slab.h>

namespace pagoda::dma {
namespace {

struct kind {
    unsigned flag, index;
};
constexpr kind kKinds[] = {{PCI_IRQ_MSIX, VFIO_PCI_MSIX_IRQ_INDEX},
                           {PCI_IRQ_MSI, VFIO_PCI_MSI_IRQ_INDEX},
                           {PCI_IRQ_INTX, VFIO_PCI_INTX_IRQ_INDEX}};

void close_all(int *eventfds, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        os::close(eventfds[i]);
    kfree(eventfds);
}

// An array of new eventfds; NULL: *error.
int *make_eventfds(unsigned count, int *error) {
    auto *fds = static_cast<int *>(kcalloc(count, sizeof(int), GFP_KERNEL));
    *error = -ENOMEM;
    for (unsigned i = 0; fds != nullptr && i < count; i++) {
        fds[i] = os::make_eventfd();
        if (fds[i] < 0) {
            *error = fds[i];
            close_all(fds, i);
            return nullptr;
        }
    }
    return fds;
}

} // namespace

void interrupts::begin() {
    count_ = 0;
    eventfds_ = nullptr;
    removal_ = error_ = -1;
}

int interrupts::enable(int device, unsigned least, unsigned most, unsigned flags) {
    if (count_ != 0)
        return -EBUSY;
    if (least == 0 || most < least)
        return -EINVAL;
    int error = -ENOSPC;
    for (const kind &k : kKinds) {
        bool automasked = false;
        int there = (flags & k.flag) != 0 ? vfio::interrupt_count(device, k.index, &automasked) : 0;
        if (there <= 0 || static_cast<unsigned>(there) < least)
            continue;
        unsigned count = min_of(most, static_cast<unsigned>(there));
        int *fds = make_eventfds(count, &error);
        if (fds == nullptr)
            return error;
        error = vfio::interrupts_enable(device, k.index, fds, count);
        // The system may have fewer to give than the device could use; it says how many.
        if (error > 0 && static_cast<unsigned>(error) >= least) {
            unsigned fewer = static_cast<unsigned>(error);
            for (unsigned i = fewer; i < count; i++)
                os::close(fds[i]);
            count = fewer;
            error = vfio::interrupts_enable(device, k.index, fds, count);
        }
        if (error == 0) {
            index_ = k.index;
            count_ = count;
            automasked_ = automasked;
            eventfds_ = fds;
            return static_cast<int>(count);
        }
        close_all(fds, count);
        error = error > 0 ? -ENOSPC : error;
    }
    return error;
}

void interrupts::disable(int device) {
    if (count_ == 0)
        return;
    vfio::interrupts_disable(device, index_);
    close_all(eventfds_, count_);
    eventfds_ = nullptr;
    count_ = 0;
}

int interrupts::unmask(int device) {
    if (count_ == 0)
        return -EINVAL;
    return automasked_ ? vfio::interrupt_unmask(device, index_) : 0;
}

int interrupts::trigger(int device, unsigned number) {
    return number < count_ ? vfio::interrupt_trigger(device, index_, number) : -EINVAL;
}

int interrupts::one(int device, unsigned index, int *fd) {
    if (*fd >= 0)
        return *fd;
    bool automasked = false;
    if (vfio::interrupt_count(device, index, &automasked) < 1)
        return -ENOSPC;
    int made = os::make_eventfd();
    if (made < 0)
        return made;
    int error = vfio::interrupts_enable(device, index, &made, 1);
    if (error < 0) {
        os::close(made);
        return error;
    }
    return *fd = made;
}

int interrupts::removal(int device) { return one(device, VFIO_PCI_REQ_IRQ_INDEX, &removal_); }
int interrupts::error(int device) { return one(device, VFIO_PCI_ERR_IRQ_INDEX, &error_); }

void interrupts::end(int device) {
    disable(device);
    if (removal_ >= 0)
        vfio::interrupts_disable(device, VFIO_PCI_REQ_IRQ_INDEX);
    if (error_ >= 0)
        vfio::interrupts_disable(device, VFIO_PCI_ERR_IRQ_INDEX);
    forget();
}

void interrupts::forget() {
    for (unsigned i = 0; i < count_; i++)
        os::close(eventfds_[i]);
    count_ = 0;
    os::close(removal_);
    os::close(error_);
    removal_ = error_ = -1;
}

} // namespace pagoda::dma

using namespace pagoda::dma;

namespace {

// Runs with the device's lock; what it returns below 0 becomes a sentence.
template <class F> int with_interrupts(pci_dev *pdev, int number, F body) {
    bus *b = bus_of(pdev);
    if (b == nullptr)
        return -ENODEV;
    pthread_mutex_lock(&b->lock);
    int result = body(b->irqs, b->at.device);
    pthread_mutex_unlock(&b->lock);
    if (result >= 0)
        return result;
    facts f = facts_of(*b);
    f.number = number;
    return say(step::interrupt, -result, f);
}

} // namespace

PAGODA_EXPORT int pagoda_pci_alloc_irq_vectors(pci_dev *pdev, unsigned least, unsigned most,
                                               unsigned flags) {
    return with_interrupts(pdev, static_cast<int>(least), [=](interrupts &irqs, int device) {
        return irqs.enable(device, least, most, flags);
    });
}

PAGODA_EXPORT void pagoda_pci_free_irq_vectors(pci_dev *pdev) {
    with_interrupts(pdev, 0, [](interrupts &irqs, int device) {
        irqs.disable(device);
        return 0;
    });
}

PAGODA_EXPORT int pagoda_pci_irq_vector(pci_dev *pdev, unsigned nr) {
    return with_interrupts(pdev, static_cast<int>(nr), [nr](interrupts &irqs, int) {
        int fd = irqs.eventfd(nr);
        return fd < 0 ? -EINVAL : fd;
    });
}

PAGODA_EXPORT int pagoda_pci_irq_unmask(pci_dev *pdev) {
    return with_interrupts(pdev, 0,
                           [](interrupts &irqs, int device) { return irqs.unmask(device); });
}

PAGODA_EXPORT int pagoda_pci_irq_trigger(pci_dev *pdev, unsigned nr) {
    return with_interrupts(pdev, static_cast<int>(nr),
                           [nr](interrupts &irqs, int device) { return irqs.trigger(device, nr); });
}

PAGODA_EXPORT int pagoda_pci_removal_fd(pci_dev *pdev) {
    return with_interrupts(pdev, 1,
                           [](interrupts &irqs, int device) { return irqs.removal(device); });
}

PAGODA_EXPORT int pagoda_pci_error_fd(pci_dev *pdev) {
    return with_interrupts(pdev, 1,
                           [](interrupts &irqs, int device) { return irqs.error(device); });
}
