#include "examples/nvme/nvme.h"

#include <pagoda/dma-mapping.h>
#include <pagoda/dmapool.h>
#include <pagoda/io.h>
#include <pagoda/pci.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* NVM Express Base Specification 1.4, sections 3.1 (registers) and 5 (admin commands). */
enum { CAP = 0x00, CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30, DOORBELLS = 0x1000 };
enum { DELETE_SQ = 0, CREATE_SQ = 1, DELETE_CQ = 4, CREATE_CQ = 5, IDENTIFY = 6 };
enum { WRITE = 1, READ = 2 };
enum { PAGE = 4096, ADMIN_DEPTH = 16, MAX_QUEUES = 64 };

struct sqe {
    uint8_t opcode, flags;
    uint16_t id;
    uint32_t nsid;
    uint64_t unused[2];
    uint64_t prp1, prp2;
    uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct cqe {
    uint32_t result, reserved;
    uint16_t sq_head, sq_id, id, status; /* bit 0: the phase */
};

struct request {
    nvme_done done;
    void *arg;
    dma_addr_t buffer;
    uint32_t bytes;
    enum dma_data_direction direction;
    bool mapped;    /* by nvme_submit(), for this request */
    uint64_t *prps; /* NULL: none were needed */
    dma_addr_t prps_at;
    uint16_t next_free;
};

struct nvme_queue {
    struct nvme *nvme;
    unsigned id, depth, tail, head, phase;
    struct sqe *submissions;
    volatile struct cqe *completions;
    dma_addr_t submissions_at, completions_at;
    void *doorbells; /* tail of the submissions; behind it head of the completions */
    int interrupt;   /* eventfd, or -1 */
    uint16_t first_free;
    struct request *requests;
};

struct nvme {
    struct device *dev;
    struct pci_dev *pci;
    void *registers;
    unsigned stride, timeout_ms;
    struct nvme_info info;
    struct nvme_queue *admin;
    int status; /* of the admin command; -1: it is not done */
    bool dead;  /* one was not done in time, and the controller is off */
    struct dma_pool *prp_lists;
    uint64_t queues_in_use; /* bit n: I/O queue n */
    int vectors;            /* for I/O queues */
};

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static void queue_free(struct nvme_queue *q) {
    struct device *dev = q->nvme->dev;
    if (q->submissions != NULL)
        dma_free_coherent(dev, q->depth * sizeof(struct sqe), q->submissions, q->submissions_at);
    if (q->completions != NULL)
        dma_free_coherent(dev, q->depth * sizeof(struct cqe), (void *)q->completions,
                          q->completions_at);
    kfree(q->requests);
    kfree(q);
}

static struct nvme_queue *queue_alloc(struct nvme *nvme, unsigned id, unsigned depth) {
    struct nvme_queue *q = kzalloc(sizeof(*q), GFP_KERNEL);
    if (q == NULL)
        return NULL;
    *q = (struct nvme_queue){.nvme = nvme, .id = id, .depth = depth, .phase = 1, .interrupt = -1};
    q->submissions =
        dma_alloc_coherent(nvme->dev, depth * sizeof(struct sqe), &q->submissions_at, GFP_KERNEL);
    q->completions =
        dma_alloc_coherent(nvme->dev, depth * sizeof(struct cqe), &q->completions_at, GFP_KERNEL);
    q->requests = kcalloc(depth, sizeof(*q->requests), GFP_KERNEL);
    if (q->submissions == NULL || q->completions == NULL || q->requests == NULL) {
        queue_free(q);
        return NULL;
    }
    q->doorbells = (char *)nvme->registers + DOORBELLS + (size_t)2 * id * nvme->stride;
    for (unsigned i = 0; i < depth; i++) /* the last one is no request: a full queue is not empty */
        q->requests[i].next_free = (uint16_t)(i + 2 < depth ? i + 1 : depth);
    return q;
}

static struct request *request_get(struct nvme_queue *q, uint16_t *id) {
    if (q->first_free >= q->depth)
        return NULL;
    *id = q->first_free;
    struct request *r = &q->requests[*id];
    q->first_free = r->next_free;
    return r;
}

static void request_put(struct nvme_queue *q, uint16_t id) {
    q->requests[id].next_free = q->first_free;
    q->first_free = id;
}

static void submit(struct nvme_queue *q, const struct sqe *command) {
    q->submissions[q->tail] = *command;
    q->tail = q->tail + 1 == q->depth ? 0 : q->tail + 1;
    writel(q->tail, q->doorbells); /* after the command is in memory: writel orders */
}

unsigned nvme_poll(struct nvme_queue *q) {
    unsigned n = 0;
    while ((q->completions[q->head].status & 1) == q->phase) {
        dma_rmb(); /* the rest of the entry is not older than its phase */
        uint16_t id = q->completions[q->head].id;
        unsigned status = q->completions[q->head].status >> 1;
        if (++q->head == q->depth) {
            q->head = 0;
            q->phase ^= 1;
        }
        n++;
        struct request r = q->requests[id];
        if (r.prps != NULL)
            dma_pool_free(q->nvme->prp_lists, r.prps, r.prps_at);
        if (r.mapped)
            dma_unmap_single(q->nvme->dev, r.buffer, r.bytes, r.direction);
        request_put(q, id);
        r.done(r.arg, status);
    }
    if (n != 0)
        writel(q->head, (char *)q->doorbells + q->nvme->stride);
    return n;
}

void nvme_wait(struct nvme_queue *q, int ms) {
    struct pollfd event = {.fd = q->interrupt, .events = POLLIN};
    uint64_t count;
    if (q->interrupt >= 0 && (q->completions[q->head].status & 1) != q->phase &&
        poll(&event, 1, ms) > 0 && read(q->interrupt, &count, sizeof(count)) < 0)
        return; /* somebody else has read it: no matter */
}

/* Physical region pages: the first page, then the second one or a list of all others. */
static int describe(struct nvme_queue *q, struct request *r, struct sqe *command) {
    command->prp1 = r->buffer;
    uint64_t next = (r->buffer / PAGE + 1) * PAGE;
    uint64_t end = r->buffer + r->bytes;
    if (next >= end)
        return 0;
    if (end - next <= PAGE) {
        command->prp2 = next;
        return 0;
    }
    r->prps = dma_pool_alloc(q->nvme->prp_lists, GFP_KERNEL, &r->prps_at);
    if (r->prps == NULL)
        return -ENOMEM;
    for (unsigned i = 0; next < end; next += PAGE)
        r->prps[i++] = next;
    command->prp2 = r->prps_at;
    return 0;
}

int nvme_submit_mapped(struct nvme_queue *q, bool write, uint64_t lba, dma_addr_t buffer,
                       uint32_t bytes, nvme_done done, void *arg) {
    const struct nvme_info *info = &q->nvme->info;
    uint32_t blocks = bytes / info->block_bytes;
    if (blocks == 0 || bytes % info->block_bytes != 0 || buffer % 4 != 0 || lba >= info->blocks ||
        blocks > info->blocks - lba)
        return -EINVAL;
    if (bytes > info->max_bytes)
        return -E2BIG;
    uint16_t id;
    struct request *r = request_get(q, &id);
    if (r == NULL)
        return -EBUSY;
    *r = (struct request){.done = done, .arg = arg, .buffer = buffer, .bytes = bytes};
    struct sqe command = {.opcode = write ? WRITE : READ,
                          .id = id,
                          .nsid = 1,
                          .cdw10 = (uint32_t)lba,
                          .cdw11 = (uint32_t)(lba >> 32),
                          .cdw12 = blocks - 1};
    int error = describe(q, r, &command);
    if (error != 0) {
        request_put(q, id);
        return error;
    }
    submit(q, &command);
    return id;
}

int nvme_submit(struct nvme_queue *q, bool write, uint64_t lba, void *buffer, uint32_t bytes,
                nvme_done done, void *arg) {
    enum dma_data_direction direction = write ? DMA_TO_DEVICE : DMA_FROM_DEVICE;
    dma_addr_t at = dma_map_single(q->nvme->dev, buffer, bytes, direction);
    if (dma_mapping_error(q->nvme->dev, at))
        return -EIO;
    int id = nvme_submit_mapped(q, write, lba, at, bytes, done, arg);
    if (id < 0) {
        dma_unmap_single(q->nvme->dev, at, bytes, direction);
        return id;
    }
    q->requests[id].mapped = true;
    q->requests[id].direction = direction;
    return 0;
}

static int wait_ready(struct nvme *nvme, uint32_t ready) {
    for (int64_t end = now_ms() + nvme->timeout_ms;
         (readl((char *)nvme->registers + CSTS) & 1) != ready;)
        if (now_ms() > end)
            return -ETIMEDOUT;
    return 0;
}

/* After it the controller touches no queue and no buffer any more. */
static int turn_off(struct nvme *nvme) {
    writel(0, (char *)nvme->registers + CC);
    int error = wait_ready(nvme, 0);
    if (error != 0)
        pci_clear_master(nvme->pci);
    return error;
}

static void note_status(void *arg, unsigned status) { *(int *)arg = (int)status; }

/* Admin commands, one at a time, by polling. A controller that does not do one in time may do it
 * yet, to memory that the caller has freed: so it is turned off, and with it all queues are dead.
 */
static int admin(struct nvme *nvme, struct sqe command) {
    struct nvme_queue *q = nvme->admin;
    uint16_t id;
    if (nvme->dead)
        return -EIO;
    struct request *r = request_get(q, &id);
    if (r == NULL)
        return -EBUSY;
    *r = (struct request){.done = note_status, .arg = &nvme->status};
    nvme->status = -1;
    command.id = id;
    submit(q, &command);
    for (int64_t end = now_ms() + nvme->timeout_ms; nvme->status < 0;)
        if (nvme_poll(q) == 0 && now_ms() > end) {
            nvme->dead = true;
            turn_off(nvme);
            return -ETIMEDOUT;
        }
    return nvme->status == 0 ? 0 : -EIO;
}

struct nvme_queue *nvme_queue_create(struct nvme *nvme, unsigned depth, bool interrupts) {
    unsigned id = 1;
    while (id < MAX_QUEUES && (nvme->queues_in_use >> id & 1) != 0)
        id++;
    if (id == MAX_QUEUES || depth < 2 || depth > nvme->info.max_depth)
        return NULL;
    struct nvme_queue *q = queue_alloc(nvme, id, depth);
    if (q == NULL)
        return NULL;
    bool vector = interrupts && (int)id <= nvme->vectors;
    if (vector)
        q->interrupt = pci_irq_vector(nvme->pci, id - 1);
    uint32_t size_and_id = (depth - 1) << 16 | id;
    struct sqe completions = {.opcode = CREATE_CQ,
                              .prp1 = q->completions_at,
                              .cdw10 = size_and_id,
                              .cdw11 = vector ? (id - 1) << 16 | 3 : 1};
    struct sqe submissions = {.opcode = CREATE_SQ,
                              .prp1 = q->submissions_at,
                              .cdw10 = size_and_id,
                              .cdw11 = id << 16 | 1};
    if (admin(nvme, completions) != 0) {
        queue_free(q);
        return NULL;
    }
    if (admin(nvme, submissions) != 0) {
        admin(nvme, (struct sqe){.opcode = DELETE_CQ, .cdw10 = id});
        queue_free(q);
        return NULL;
    }
    nvme->queues_in_use |= UINT64_C(1) << id;
    return q;
}

void nvme_queue_destroy(struct nvme_queue *q) {
    struct nvme *nvme = q->nvme;
    admin(nvme, (struct sqe){.opcode = DELETE_SQ, .cdw10 = q->id});
    nvme_poll(q); /* what was aborted completes */
    admin(nvme, (struct sqe){.opcode = DELETE_CQ, .cdw10 = q->id});
    nvme->queues_in_use &= ~(UINT64_C(1) << q->id);
    queue_free(q);
}

/* Padded with spaces; not so in the copy. */
static void copy_text(char *to, const uint8_t *from, size_t length) {
    memcpy(to, from, length);
    while (length > 0 && to[length - 1] == ' ')
        length--;
    to[length] = 0;
}

static int identify(struct nvme *nvme) {
    uint8_t *data = kmalloc(PAGE, GFP_KERNEL);
    if (data == NULL)
        return -ENOMEM;
    dma_addr_t at = dma_map_single(nvme->dev, data, PAGE, DMA_FROM_DEVICE);
    int error = dma_mapping_error(nvme->dev, at);
    struct sqe command = {.opcode = IDENTIFY, .prp1 = at, .cdw10 = 1};
    if (error == 0)
        error = admin(nvme, command);
    if (error == 0) {
        dma_sync_single_for_cpu(nvme->dev, at, PAGE, DMA_FROM_DEVICE);
        copy_text(nvme->info.serial, data + 4, 20);
        copy_text(nvme->info.model, data + 24, 40);
        unsigned limit = data[77] != 0 && data[77] < 9 ? data[77] : 9;
        nvme->info.max_bytes = (uint32_t)PAGE << limit;
        dma_sync_single_for_device(nvme->dev, at, PAGE, DMA_FROM_DEVICE);
        command.nsid = 1;
        command.cdw10 = 0;
        error = admin(nvme, command);
    }
    if (at != DMA_MAPPING_ERROR)
        dma_unmap_single(nvme->dev, at, PAGE, DMA_FROM_DEVICE);
    if (error == 0) {
        memcpy(&nvme->info.blocks, data, 8);
        nvme->info.block_bytes = 1u << data[128 + 4 * (data[26] & 15) + 2];
    }
    kfree(data);
    return error;
}

static int start(struct nvme *nvme) {
    uint64_t cap = readq((char *)nvme->registers + CAP);
    nvme->stride = 4u << (cap >> 32 & 15);
    nvme->timeout_ms = 500 * (1 + (unsigned)(cap >> 24 & 255));
    nvme->info.max_depth = (unsigned)(cap & 0xffff) + 1;
    int error = turn_off(nvme);
    if (error != 0)
        return error;
    nvme->admin = queue_alloc(nvme, 0, ADMIN_DEPTH);
    nvme->prp_lists = dma_pool_create("nvme prp lists", nvme->dev, PAGE, PAGE, 0);
    if (nvme->admin == NULL || nvme->prp_lists == NULL)
        return -ENOMEM;
    writel((ADMIN_DEPTH - 1) << 16 | (ADMIN_DEPTH - 1), (char *)nvme->registers + AQA);
    writeq(nvme->admin->submissions_at, (char *)nvme->registers + ASQ);
    writeq(nvme->admin->completions_at, (char *)nvme->registers + ACQ);
    /* Enabled; entries of 64 and 16 bytes; pages of 4 KiB. */
    writel(4 << 20 | 6 << 16 | 1, (char *)nvme->registers + CC);
    error = wait_ready(nvme, 1);
    return error != 0 ? error : identify(nvme);
}

struct nvme *nvme_open(const char *where, enum pagoda_iommu iommu) {
    struct device *dev = pagoda_device_open(where, iommu);
    if (dev == NULL)
        return NULL;
    struct nvme *nvme = kzalloc(sizeof(*nvme), GFP_KERNEL);
    int error = -ENOMEM;
    if (nvme != NULL) {
        nvme->dev = dev;
        nvme->pci = to_pci_dev(dev);
        error = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
        pci_set_master(nvme->pci);
        nvme->registers = pci_iomap(nvme->pci, 0, 0);
        if (error == 0)
            error = nvme->registers != NULL ? start(nvme) : -ENXIO;
    }
    if (error == 0) {
        int vectors = pci_alloc_irq_vectors(nvme->pci, 1, MAX_QUEUES - 1, PCI_IRQ_MSIX);
        nvme->vectors = vectors > 0 ? vectors : 0;
        return nvme;
    }
    if (nvme != NULL)
        nvme_close(nvme);
    else
        pagoda_device_close(dev);
    errno = -error;
    return NULL;
}

void nvme_close(struct nvme *nvme) {
    if (nvme->registers != NULL)
        turn_off(nvme);
    if (nvme->admin != NULL)
        queue_free(nvme->admin);
    dma_pool_destroy(nvme->prp_lists);
    if (nvme->vectors > 0)
        pci_free_irq_vectors(nvme->pci);
    if (nvme->registers != NULL)
        pci_iounmap(nvme->pci, nvme->registers);
    pagoda_device_close(nvme->dev);
    kfree(nvme);
}

const struct nvme_info *nvme_get_info(const struct nvme *nvme) { return &nvme->info; }
struct device *nvme_device(struct nvme *nvme) {
    return nvme->dev;
}
