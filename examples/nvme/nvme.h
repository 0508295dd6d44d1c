/* A user-space NVMe driver: identify, I/O queues, reads and writes straight from and to any memory
 * of the program, completion by polling or by MSI-X. It shows what the DMA API looks like in use.
 *
 * One thread at a time uses a queue; queues are independent of each other. Functions return 0 or
 * -errno unless they say otherwise. */
#pragma once

#include <pagoda/device.h>
#include <pagoda/dma-mapping.h>

#include <stdbool.h>
#include <stdint.h>

struct nvme;
struct nvme_queue;

struct nvme_info {
    char serial[21];
    char model[41];
    uint64_t blocks;      /* of namespace 1 */
    uint32_t block_bytes; /* size of one */
    uint32_t max_bytes;   /* of one request */
    uint32_t max_depth;   /* of a queue */
};

/* Opens the controller at `where` (see pagoda_device_open) and enables it. NULL: errno, and
 * pagoda_device_error() where the device itself could not be had. */
struct nvme *nvme_open(const char *where, enum pagoda_iommu iommu);
/* All its queues are gone before. */
void nvme_close(struct nvme *nvme);
const struct nvme_info *nvme_get_info(const struct nvme *nvme);
struct device *nvme_device(struct nvme *nvme);

/* An I/O queue for `depth` - 1 requests at a time. With `interrupts` nvme_wait() sleeps. NULL: no
 * memory, or the controller has no more. */
struct nvme_queue *nvme_queue_create(struct nvme *nvme, unsigned depth, bool interrupts);
void nvme_queue_destroy(struct nvme_queue *queue);

/* Called from nvme_poll(); `status` is 0 or the controller's status code. */
typedef void (*nvme_done)(void *arg, unsigned status);

/* Begins to read or write `bytes`, whole blocks, at `lba`; the buffer is the device's until `done`.
 * -EBUSY: the queue is full; -EINVAL: not whole blocks, or beyond the end; -E2BIG: above max_bytes;
 * -EIO: the buffer cannot be mapped. */
int nvme_submit(struct nvme_queue *queue, bool write, uint64_t lba, void *buffer, uint32_t bytes,
                nvme_done done, void *arg);
/* The same with a buffer that the caller has mapped (dma_map_single, coherent memory) and keeps
 * mapped. Returns the request's number, 0 or above. */
int nvme_submit_mapped(struct nvme_queue *queue, bool write, uint64_t lba, dma_addr_t buffer,
                       uint32_t bytes, nvme_done done, void *arg);
/* Completes what is finished. Returns how many. */
unsigned nvme_poll(struct nvme_queue *queue);
/* Sleeps until something is, at most `ms`; without interrupts it returns at once. */
void nvme_wait(struct nvme_queue *queue, int ms);
