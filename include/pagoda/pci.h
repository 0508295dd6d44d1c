/* PCI devices that were opened with pagoda_device_open(): configuration space, BARs, bus mastering,
 * interrupts, reset.
 *
 * A driver of the kernel's is handed its struct pci_dev by probe(); here it is
 * to_pci_dev(pagoda_device_open(...)). Functions return 0 or -errno unless they say otherwise, and
 * pagoda_device_error() then says what to do. All of them may block and make system calls.
 *
 * Source: include/linux/pci.h and Documentation/PCI/pci.rst of the kernel.
 */
#ifndef PAGODA_PCI_H
#define PAGODA_PCI_H

#include <pagoda/device.h>
#include <pagoda/io.h>
#include <pagoda/ioport.h>

#include <linux/pci.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef __iomem
#define __iomem
#endif

#define PCI_ROM_RESOURCE 6
#define PAGODA_PCI_RESOURCES 7

/* A PCI device. Read its fields; the library writes them. */
struct pci_dev {
    struct device dev;
    unsigned short vendor, device;
    unsigned short subsystem_vendor, subsystem_device;
    unsigned int class_code; /* 24 bits; the kernel calls it `class`, a word of C++ */
    unsigned int devfn;      /* PCI_SLOT() and PCI_FUNC() take it apart */
    int domain;
    unsigned char bus_number;
    unsigned char revision;
    struct resource resource[PAGODA_PCI_RESOURCES]; /* BARs 0 to 5, and the ROM */
};

/* The PCI device that `dev` is part of; NULL for a software device. */
struct pci_dev *pagoda_to_pci_dev(struct device *dev);

/* Configuration space: `bytes` (1, 2 or 4) at `where`. -EINVAL: outside of it, or `where` is no
 * multiple of bytes. VFIO shows a driver its own copy of some registers: BARs and the capabilities
 * for interrupts are the kernel's, and writes to them change nothing in the device. */
int pagoda_pci_config_read(struct pci_dev *pdev, int where, int bytes, uint32_t *value);
int pagoda_pci_config_write(struct pci_dev *pdev, int where, int bytes, uint32_t value);
/* Where the capability begins in configuration space, or 0. */
int pagoda_pci_find_capability(struct pci_dev *pdev, int capability);
/* The next one of that kind after `start` (0: the first) in extended configuration space, or 0. */
int pagoda_pci_find_ext_capability(struct pci_dev *pdev, int start, int capability);
/* Sets or clears bits of PCI_COMMAND. */
int pagoda_pci_command(struct pci_dev *pdev, unsigned int bits, bool set);

/* An uncached mapping of a BAR from `offset` on, of at most `max` bytes (0: to its end). A BAR can
 * be mapped several times. NULL and errno as ioremap() has them; pci_iounmap() ends it, or closing
 * the device. */
void *pagoda_pci_iomap(struct pci_dev *pdev, int bar, unsigned long offset, unsigned long max,
                       bool combine);
/* Reads or writes `bytes` of a BAR that cannot be mapped (I/O ports, less than a page), by a system
 * call each; in pieces of 1, 2, 4 or 8 bytes as alignment allows. -ENXIO: no such BAR; -EINVAL:
 * outside of it. */
int pagoda_pci_bar_read(struct pci_dev *pdev, int bar, uint64_t offset, void *to, size_t bytes);
int pagoda_pci_bar_write(struct pci_dev *pdev, int bar, uint64_t offset, const void *from,
                         size_t bytes);
/* A file descriptor for another process, over a socket or by inheritance, which maps the BAR by it:
 * mmap(NULL, *bytes, ..., MAP_SHARED, fd, *offset), from its beginning on; *bytes are fewer than
 * the BAR has where the rest cannot be mapped. It closes on exec. The device stays open as long as
 * anybody has it. Or -errno: -ENXIO: no such BAR; -EOPNOTSUPP: its beginning cannot be mapped. */
int pagoda_pci_bar_fd(struct pci_dev *pdev, int bar, uint64_t *offset, uint64_t *bytes);

/* Claims all BARs that there are (-1), or one, for the driver `name`, as request_mem_region() does
 * with addresses. All or nothing. 0, also where the device has not this one of its six BARs;
 * -EBUSY; -ENXIO: no number of a BAR. */
int pagoda_pci_request_region(struct pci_dev *pdev, int bar, const char *name);
void pagoda_pci_release_region(struct pci_dev *pdev, int bar);

/* Kinds of interrupts, in the order in which they are tried. */
#define PCI_IRQ_INTX (1 << 0)
#define PCI_IRQ_MSI (1 << 1)
#define PCI_IRQ_MSIX (1 << 2)
#define PCI_IRQ_AFFINITY (1 << 3) /* has no effect: the kernel spreads them */
#define PCI_IRQ_ALL_TYPES (PCI_IRQ_INTX | PCI_IRQ_MSI | PCI_IRQ_MSIX)

/* Sets up from `least` to `most` interrupts of the first kind of `flags` that has as many: MSI-X,
 * MSI, INTx. Returns how many; -ENOSPC: the device has fewer; -EBUSY: there are some already. */
int pagoda_pci_alloc_irq_vectors(struct pci_dev *pdev, unsigned int least, unsigned int most,
                                 unsigned int flags);
void pagoda_pci_free_irq_vectors(struct pci_dev *pdev);
/* The eventfd that interrupt `nr` signals: poll it, read its 8-byte counter. It is the device's: do
 * not close it. -EINVAL: no such interrupt. */
int pagoda_pci_irq_vector(struct pci_dev *pdev, unsigned int nr);
/* INTx masks itself when it comes: this lets it come again, once the device's own status register
 * was cleared. Nothing is to be done for MSI and MSI-X. */
int pagoda_pci_irq_unmask(struct pci_dev *pdev);
/* Signals interrupt `nr` as the device would: to test a driver. */
int pagoda_pci_irq_trigger(struct pci_dev *pdev, unsigned int nr);

/* Resets the function; its configuration is restored. -ENOTTY: it has no way to be reset alone. */
int pagoda_pci_reset_function(struct pci_dev *pdev);

/* An eventfd that is signalled when the system wants the device back (unbinding, hot unplug): stop
 * using it and close it, the system waits. The same descriptor each time; the device's, do not
 * close it. -ENOSPC: the kernel does not offer it. A driver looks at it between two requests, or
 * polls it beside its interrupts:
 *
 *   struct pollfd asked = {pagoda_pci_removal_fd(pdev), POLLIN, 0};
 *   if (poll(&asked, 1, 0) == 1)
 *       pagoda_device_close(&pdev->dev);
 */
int pagoda_pci_removal_fd(struct pci_dev *pdev);
/* The same for errors on the bus that the device or its port reported (AER). */
int pagoda_pci_error_fd(struct pci_dev *pdev);

/* The kernel's names of the functions above. */

static inline struct pci_dev *to_pci_dev(struct device *dev) { return pagoda_to_pci_dev(dev); }
/* Its address, "0000:00:04.0". */
static inline const char *pci_name(const struct pci_dev *pdev) { return pdev->dev.name; }
/* The driver's own pointer, and setting it. */
static inline void *pci_get_drvdata(struct pci_dev *pdev) { return pdev->dev.driver_data; }
static inline void pci_set_drvdata(struct pci_dev *pdev, void *data) {
    pdev->dev.driver_data = data;
}

/* On failure these read as all ones, as a device that is gone does. */
static inline int pci_read_config_byte(struct pci_dev *pdev, int where, uint8_t *value) {
    uint32_t read;
    int error = pagoda_pci_config_read(pdev, where, 1, &read);
    *value = (uint8_t)read;
    return error;
}
static inline int pci_read_config_word(struct pci_dev *pdev, int where, uint16_t *value) {
    uint32_t read;
    int error = pagoda_pci_config_read(pdev, where, 2, &read);
    *value = (uint16_t)read;
    return error;
}
static inline int pci_read_config_dword(struct pci_dev *pdev, int where, uint32_t *value) {
    return pagoda_pci_config_read(pdev, where, 4, value);
}
static inline int pci_write_config_byte(struct pci_dev *pdev, int where, uint8_t value) {
    return pagoda_pci_config_write(pdev, where, 1, value);
}
static inline int pci_write_config_word(struct pci_dev *pdev, int where, uint16_t value) {
    return pagoda_pci_config_write(pdev, where, 2, value);
}
static inline int pci_write_config_dword(struct pci_dev *pdev, int where, uint32_t value) {
    return pagoda_pci_config_write(pdev, where, 4, value);
}
static inline int pci_find_capability(struct pci_dev *pdev, int capability) {
    return pagoda_pci_find_capability(pdev, capability);
}
static inline int pci_find_ext_capability(struct pci_dev *pdev, int capability) {
    return pagoda_pci_find_ext_capability(pdev, 0, capability);
}
static inline int pci_find_next_ext_capability(struct pci_dev *pdev, int start, int capability) {
    return pagoda_pci_find_ext_capability(pdev, start, capability);
}

/* The device may read and write memory by itself, or may not any more. */
static inline void pci_set_master(struct pci_dev *pdev) {
    (void)pagoda_pci_command(pdev, PCI_COMMAND_MASTER, true);
}
static inline void pci_clear_master(struct pci_dev *pdev) {
    (void)pagoda_pci_command(pdev, PCI_COMMAND_MASTER, false);
}
/* An open device is enabled already; this turns its memory and port space on again. */
static inline int pci_enable_device(struct pci_dev *pdev) {
    return pagoda_pci_command(pdev, PCI_COMMAND_MEMORY | PCI_COMMAND_IO, true);
}
static inline int pci_enable_device_mem(struct pci_dev *pdev) {
    return pagoda_pci_command(pdev, PCI_COMMAND_MEMORY, true);
}
/* Ends bus mastering, as the kernel's does; the BARs stay. */
static inline void pci_disable_device(struct pci_dev *pdev) { pci_clear_master(pdev); }

/* A BAR's first and last bus address and its IORESOURCE_* flags; 0 where there is none. `bar` is
 * below PAGODA_PCI_RESOURCES. */
static inline resource_size_t pci_resource_start(struct pci_dev *pdev, int bar) {
    return pdev->resource[bar].start;
}
static inline resource_size_t pci_resource_end(struct pci_dev *pdev, int bar) {
    return pdev->resource[bar].end;
}
static inline unsigned long pci_resource_flags(struct pci_dev *pdev, int bar) {
    return pdev->resource[bar].flags;
}
/* 0: there is no such BAR. */
static inline resource_size_t pci_resource_len(struct pci_dev *pdev, int bar) {
    return pdev->resource[bar].flags == 0 ? 0 : resource_size(&pdev->resource[bar]);
}

static inline void __iomem *pci_iomap(struct pci_dev *pdev, int bar, unsigned long max) {
    return pagoda_pci_iomap(pdev, bar, 0, max, false);
}
static inline void __iomem *pci_iomap_range(struct pci_dev *pdev, int bar, unsigned long offset,
                                            unsigned long max) {
    return pagoda_pci_iomap(pdev, bar, offset, max, false);
}
static inline void __iomem *pci_iomap_wc(struct pci_dev *pdev, int bar, unsigned long max) {
    return pagoda_pci_iomap(pdev, bar, 0, max, true);
}
static inline void __iomem *pci_iomap_wc_range(struct pci_dev *pdev, int bar, unsigned long offset,
                                               unsigned long max) {
    return pagoda_pci_iomap(pdev, bar, offset, max, true);
}
static inline void __iomem *pci_ioremap_bar(struct pci_dev *pdev, int bar) {
    return pagoda_pci_iomap(pdev, bar, 0, 0, false);
}
/* Ends a mapping: iounmap(). */
static inline void pci_iounmap(struct pci_dev *pdev, void __iomem *addr) {
    (void)pdev; /* the address says whose it is */
    pagoda_iounmap(addr);
}

static inline int pci_request_region(struct pci_dev *pdev, int bar, const char *name) {
    return pagoda_pci_request_region(pdev, bar, name);
}
static inline void pci_release_region(struct pci_dev *pdev, int bar) {
    pagoda_pci_release_region(pdev, bar);
}
static inline int pci_request_regions(struct pci_dev *pdev, const char *name) {
    return pagoda_pci_request_region(pdev, -1, name);
}
static inline void pci_release_regions(struct pci_dev *pdev) {
    pagoda_pci_release_region(pdev, -1);
}

static inline int pci_alloc_irq_vectors(struct pci_dev *pdev, unsigned int least, unsigned int most,
                                        unsigned int flags) {
    return pagoda_pci_alloc_irq_vectors(pdev, least, most, flags);
}
static inline void pci_free_irq_vectors(struct pci_dev *pdev) { pagoda_pci_free_irq_vectors(pdev); }
static inline int pci_irq_vector(struct pci_dev *pdev, unsigned int nr) {
    return pagoda_pci_irq_vector(pdev, nr);
}
static inline int pci_reset_function(struct pci_dev *pdev) {
    return pagoda_pci_reset_function(pdev);
}

#ifdef __cplusplus
}
#endif

#endif
