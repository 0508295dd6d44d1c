/* Devices that use this process's memory, <linux/device.h>'s share of it: what dma-mapping.h, pci.h
 * and dmapool.h take as their first argument. A device is opened by pagoda_device_open() over VFIO,
 * or made by pagoda_software_device() for tests without any hardware. Link with -lpagoda_dma. */
#ifndef PAGODA_DEVICE_H
#define PAGODA_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An address as a device knows it. */
typedef uint64_t dma_addr_t;

struct pagoda_device_state;

/* A device. Read its fields; the library writes them. `driver_data` is yours. */
struct device {
    const char *name; /* "0000:00:04.0", or the name of a software device */
    int numa_node;    /* NUMA_NO_NODE where the system does not say */
    void *driver_data;
    struct pagoda_device_state *state;
};

/* How a device is reached. */
enum pagoda_iommu {
    PAGODA_IOMMU_ANY,     /* iommufd where the kernel has it, else type1; never NONE */
    PAGODA_IOMMU_TYPE1,   /* VFIO container and group */
    PAGODA_IOMMU_IOMMUFD, /* /dev/iommu and the device's own node */
    /* VFIO's no-IOMMU mode: the device can reach all of the machine's memory. The program's, for
     * it, is of the hugetlb pool alone: other pages move, and the device is not told. */
    PAGODA_IOMMU_NONE,
    PAGODA_IOMMU_SOFTWARE, /* the software IOMMU of pagoda_software_device() */
};

/* Opens the PCI device at `where`: an address ("0000:00:04.0", "00:04.0") or vendor:device
 * ("1234:11e8", the first that is bound to vfio-pci or a variant of it). The device is reset and
 * left without bus mastering; its memory space is on. Devices of one process share an address space
 * where their IOMMU lets them. Returns NULL on failure: errno says which, and pagoda_device_error()
 * says what to do about it. May block; allocates. A child of fork opens devices of its own, but
 * none that its parent still has. */
struct device *pagoda_device_open(const char *where, enum pagoda_iommu iommu);

/* Closes it: bus mastering off, interrupts off, managed resources released (their actions still
 * reach the registers), BARs unmapped, then what the device alone had mapped. Mappings that were
 * not undone are reported. In a fork child, where the parent's devices are dead, and for NULL it
 * does nothing. */
void pagoda_device_close(struct device *dev);

/* The sentence that explains this thread's last failure of a function of device.h, pci.h or io.h,
 * and says what to do; "" before the first. It stays until the next one. */
const char *pagoda_device_error(void);

/* What the device is behind. */
enum pagoda_iommu pagoda_device_iommu(const struct device *dev);

/* Windows of device addresses that the IOMMU accepts, lowest first, at most `capacity` of them into
 * first[] and last[] (inclusive). Returns how many there are. Reserved ones (interrupts) lie
 * between them. They may shrink when another device is opened. */
int pagoda_device_windows(const struct device *dev, uint64_t *first, uint64_t *last, int capacity);

/* Counters of the device's address space. */
struct pagoda_dma_counters {
    uint64_t map_calls;     /* MAP calls to the IOMMU, ever */
    uint64_t unmap_calls;   /* UNMAP calls, ever */
    uint64_t mapped_bytes;  /* reachable for the device now; what RLIMIT_MEMLOCK is charged with */
    uint64_t entries_left;  /* further mappings that the IOMMU accepts; UINT64_MAX: no limit */
    uint64_t live_mappings; /* streaming mappings of this device that are not undone yet */
    uint64_t bounced;       /* of this device's, those through a bounce buffer, ever */
    uint64_t bounce_bytes;  /* of bounce buffers in use, of all devices */
};
void pagoda_dma_get_counters(const struct device *dev, struct pagoda_dma_counters *counters);

/* A device's name: its PCI address, or what a software device was called. */
static inline const char *dev_name(const struct device *dev) { return dev->name; }
/* What the last dev_set_drvdata of the device set; NULL before. */
static inline void *dev_get_drvdata(const struct device *dev) { return dev->driver_data; }
/* Notes a pointer of the driver's with the device. */
static inline void dev_set_drvdata(struct device *dev, void *data) { dev->driver_data = data; }
/* The NUMA node that the device is near to; NUMA_NO_NODE where the system does not say. */
static inline int dev_to_node(const struct device *dev) { return dev->numa_node; }

#ifdef __cplusplus
}
#endif

#endif
