/* Resources: ranges of bus addresses, what a device's BARs lie in, and claims on them.
 *
 * Source: include/linux/ioport.h of the kernel.
 */
#ifndef PAGODA_IOPORT_H
#define PAGODA_IOPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t resource_size_t;

/* A range, both ends inclusive. A claim's `parent` is the BAR that it lies in. */
struct resource {
    resource_size_t start;
    resource_size_t end;
    const char *name;
    unsigned long flags; /* IORESOURCE_* */
    struct resource *parent;
};

#define IORESOURCE_IO 0x00000100
#define IORESOURCE_MEM 0x00000200
#define IORESOURCE_PREFETCH 0x00002000
#define IORESOURCE_READONLY 0x00004000
#define IORESOURCE_MEM_64 0x00100000

/* Bytes of a resource. One that is all 0 has 1, as in the kernel: look at its flags first. */
static inline resource_size_t resource_size(const struct resource *res) {
    return res->end - res->start + 1;
}
static inline unsigned long resource_type(const struct resource *res) {
    return res->flags & (IORESOURCE_IO | IORESOURCE_MEM);
}

/* Whether `inner` lies in `outer` and both are of one kind; whether they have addresses in common.
 */
static inline bool resource_contains(const struct resource *outer, const struct resource *inner) {
    return resource_type(outer) == resource_type(inner) && outer->start <= inner->start &&
           outer->end >= inner->end;
}
static inline bool resource_overlaps(const struct resource *a, const struct resource *b) {
    return a->start <= b->end && a->end >= b->start;
}

/* Claims [start, start + n), bytes of one BAR of an open device, for the driver `name`, whose text
 * must stay. NULL: not in a BAR (ENXIO), claimed in part or as a whole already (EBUSY), or no
 * memory (ENOMEM); pagoda_device_error() says which. That other processes keep off is the business
 * of vfio-pci, which only one of them can open; this keeps drivers inside of one process apart.
 * Closing the device ends its claims. May block. */
struct resource *pagoda_request_mem_region(resource_size_t start, resource_size_t n,
                                           const char *name);
/* Ends a claim, which must be exactly one that was made; anything else is refused and changes
 * nothing but pagoda_device_error(). May block. */
void pagoda_release_mem_region(resource_size_t start, resource_size_t n);

/* The kernel's names of the functions above. */

static inline struct resource *request_mem_region(resource_size_t start, resource_size_t n,
                                                  const char *name) {
    return pagoda_request_mem_region(start, n, name);
}
static inline void release_mem_region(resource_size_t start, resource_size_t n) {
    pagoda_release_mem_region(start, n);
}

#ifdef __cplusplus
}
#endif

#endif
