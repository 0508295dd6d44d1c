/* Devices without hardware, for tests: a software IOMMU that translates page by page, has windows,
 * a limit of entries and a log of faults, and a device behind it that reads and writes memory as
 * the hardware would. Everything of dma-mapping.h works on it as on a real one.
 *
 * What it cannot do is pin: where a program unmaps memory that is mapped for the device, hardware
 * goes on with the old pages, and this device accesses what is at the address now.
 */
#ifndef PAGODA_SOFTWARE_DEVICE_H
#define PAGODA_SOFTWARE_DEVICE_H

#include <pagoda/device.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a software device is like. Zero stands for the default. */
struct pagoda_software_options {
    const char *name;             /* NULL: "software" */
    unsigned int width;           /* address lines of the device, bits; 0: 64 */
    bool no_iommu;                /* no translation: made-up physical addresses, no isolation */
    unsigned int physical_bits;   /* with no_iommu: memory of the machine, 22 to 47; 0: 36 */
    uint64_t granule;             /* smallest page of the IOMMU, a power of two; 0: 4096 */
    uint64_t entry_limit;         /* mappings it accepts; 0: 65535 */
    uint64_t memlock;             /* bytes it pins at most; 0: no limit */
    const uint64_t *window_first; /* addresses it accepts, lowest first; NULL: those of a 39-bit */
    const uint64_t *window_last;  /* IOMMU, with a hole at 0xfee00000. Inclusive */
    int windows;
    struct device *beside; /* shares this software device's IOMMU; the rest but name and width is
                              not used then */
};

/* Makes a device. NULL for the options means all defaults. NULL on failure: errno and
 * pagoda_device_error() say why. Closed by pagoda_device_close(). Allocates; blocks. */
struct device *pagoda_software_device(const struct pagoda_software_options *options);

/* What the device does: reads `size` bytes of memory at the device address into `buffer`, or
 * writes `buffer` there. Address bits beyond its width are cut off and that is logged, as a bus
 * does it. 0; -EFAULT when a page is not mapped, or not for this: the fault is logged, and nothing
 * of it was read or written; -ENODEV after the device was closed or in a fork child. Blocks. */
int pagoda_software_dma_read(struct device *dev, dma_addr_t address, void *buffer, size_t size);
int pagoda_software_dma_write(struct device *dev, dma_addr_t address, const void *buffer,
                              size_t size);

/* A line of the IOMMU's log. */
struct pagoda_software_fault {
    char device[32];
    dma_addr_t address; /* the first that failed */
    bool write;         /* the device wanted to write memory */
    const char *reason; /* a sentence */
};
/* Copies the IOMMU's newest faults, at most `capacity` and at most 256, oldest first. Returns how
 * many there have ever been. */
uint64_t pagoda_software_faults(struct device *dev, struct pagoda_software_fault *faults,
                                int capacity);

/* After `skip` further mappings that work, the next `count` ones fail with `error`, -ENOMEM,
 * -ENOSPC or -EINVAL. */
void pagoda_software_fail_maps(struct device *dev, unsigned int skip, unsigned int count,
                               int error);
/* After `skip` further times that the IOMMU lets go of memory, it refuses to `count` times, with
 * `error`, -EIO or -EINVAL: the device goes on reaching that memory. */
void pagoda_software_fail_unmaps(struct device *dev, unsigned int skip, unsigned int count,
                                 int error);

#ifdef __cplusplus
}
#endif

#endif
