#include "examples/scull.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <string.h>

static const size_t kUsualSet = 1000;

int scull_open(struct scull_device *device, const struct scull_storage *storage, size_t quantum,
               size_t qset) {
    memset(device, 0, sizeof *device);
    device->storage = storage;
    device->quantum = quantum ? quantum : storage->quantum;
    device->qset = qset ? qset : kUsualSet;
    if (array_size(device->quantum, device->qset) == SIZE_MAX)
        return -EINVAL;
    device->pool = storage->create(&device->quantum);
    return device->pool ? 0 : -ENOMEM;
}

void scull_trim(struct scull_device *device) {
    struct scull_set *next;
    for (struct scull_set *set = device->first; set; set = next) {
        for (size_t i = 0; i < device->qset; ++i)
            if (set->quanta[i])
                device->storage->free(device->pool, set->quanta[i]);
        next = set->next;
        kfree(set);
    }
    device->first = NULL;
    device->size = 0;
}

void scull_close(struct scull_device *device) {
    scull_trim(device);
    device->storage->destroy(device->pool);
}

/* The place of the pointer to quantum number `n`; NULL when there is none, and with `extend` when
 * there is no memory for one. */
static void **place_of(struct scull_device *device, size_t n, bool extend) {
    struct scull_set **link = &device->first;
    for (size_t i = 0;; ++i) {
        if (!*link && extend)
            *link = kzalloc_flex(struct scull_set, quanta, device->qset, GFP_KERNEL);
        if (!*link)
            return NULL;
        if (i == n / device->qset)
            return &(*link)->quanta[n % device->qset];
        link = &(*link)->next;
    }
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

ssize_t scull_read(struct scull_device *device, void *buffer, size_t count, size_t offset) {
    if (offset >= device->size)
        return 0;
    size_t rest = offset % device->quantum;
    count = smaller(smaller(count, device->size - offset), device->quantum - rest);
    void **place = place_of(device, offset / device->quantum, false);
    if (place && *place)
        memcpy(buffer, (char *)*place + rest, count);
    else
        memset(buffer, 0, count);
    return (ssize_t)count;
}

ssize_t scull_write(struct scull_device *device, const void *buffer, size_t count, size_t offset) {
    size_t rest = offset % device->quantum;
    count = smaller(count, device->quantum - rest);
    if (size_add(offset, count) == SIZE_MAX)
        return -EFBIG;
    if (count == 0)
        return 0;
    void **place = place_of(device, offset / device->quantum, true);
    if (!place)
        return -ENOMEM;
    if (!*place)
        *place = device->storage->alloc(device->pool);
    if (!*place)
        return -ENOMEM;
    memcpy((char *)*place + rest, buffer, count);
    if (device->size < offset + count)
        device->size = offset + count;
    return (ssize_t)count;
}
