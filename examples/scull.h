/* A scull device: a sequence of bytes that is as long as the last write went, kept in memory. It is
 * a list of quantum sets, and a set is an array of pointers to quanta; what was never written has
 * no memory and reads as zeros.
 *
 * scullc, scullp and scullv are the same device. They differ in where quanta come from.
 */
#ifndef PAGODA_EXAMPLES_SCULL_H
#define PAGODA_EXAMPLES_SCULL_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where quanta come from. All of a device's have one size, which `create` may round up. */
struct scull_storage {
    const char *name;
    size_t quantum;                   /* bytes, where the user has no wish */
    void *(*create)(size_t *quantum); /* NULL: out of memory */
    void (*destroy)(void *pool);      /* every quantum is free by then */
    void *(*alloc)(void *pool);       /* all bytes zero; NULL: out of memory */
    void (*free)(void *pool, void *quantum);
};

/* The one of this program: scullc.c, scullp.c or scullv.c. */
extern const struct scull_storage scull_storage;

struct scull_set {
    struct scull_set *next;
    void *quanta[]; /* as many as the device says */
};

struct scull_device {
    const struct scull_storage *storage;
    void *pool;
    size_t quantum; /* bytes of a quantum */
    size_t qset;    /* quanta of a set */
    size_t size;    /* bytes that can be read */
    struct scull_set *first;
};

/* Sizes of 0 ask for the usual ones. 0, -EINVAL or -ENOMEM. */
int scull_open(struct scull_device *device, const struct scull_storage *storage, size_t quantum,
               size_t qset);
/* Frees all that was written. */
void scull_trim(struct scull_device *device);
void scull_close(struct scull_device *device);

/* As pread and pwrite: bytes moved, which may be fewer than asked for, because one call ends where
 * a quantum does. 0 at the end of the device; -ENOMEM or -EFBIG. */
ssize_t scull_read(struct scull_device *device, void *buffer, size_t count, size_t offset);
ssize_t scull_write(struct scull_device *device, const void *buffer, size_t count, size_t offset);

#ifdef __cplusplus
}
#endif

#endif
