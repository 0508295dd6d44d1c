/* Memory that is seldom looked at. The kernel keeps its own memory resident; what need not be goes
 * to a user process, whose memory can be swapped and which can outlive what it serves. Here:
 * advice for pages that are cold, and a store whose objects survive the program.
 *
 * Process context only, never from signal handlers. The functions may change errno.
 *
 * Source: the role of the multicast routing daemon's cache; madvise(2).
 */
#ifndef PAGODA_COLD_H
#define PAGODA_COLD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The whole pages inside [address, address + size) are the first to go when memory is short
 * (pagoda_cold), or go now, as far as there is swap (pagoda_pageout). Their content stays, and
 * touching it brings it back. 0, also when there is no whole page; -errno of madvise(2): -ENOMEM
 * for a range that is not mapped, -EINVAL for locked or hugetlb memory, or a kernel before 5.4. */
int pagoda_cold(const void *address, size_t size);
int pagoda_pageout(const void *address, size_t size);

/* A store of named objects in shared memory. Another process, the keeper (`pagoda keep SOCKET`),
 * holds their files open, so that they survive this program, however it ends: the next one that
 * opens the store finds them by name. They do not survive the keeper: when that dies the objects go
 * on here as ordinary local memory, nothing is lost, and pagoda_store_renew() hands them to another
 * one.
 *
 * Objects are shared by nature, see share.h: programs that open the same store share them, and what
 * they hold must make sense after a writer was killed half-way. Functions may be called by all
 * threads. A fork child may use the objects, but not the store. */
struct pagoda_store;

/* Longest key, bytes with its NUL. */
#define PAGODA_STORE_KEY_MAX 240

/* Opens the store of the keeper that listens on `socket`, a path. Where none does, `keeper` is
 * started: the path of the pagoda command, looked for in PATH when it has no slash; NULL starts
 * none. Without a keeper the store is local, see pagoda_store_keeper(). NULL when memory is short
 * or the path is too long for a socket. Blocks until the keeper answers. */
struct pagoda_store *pagoda_store_open(const char *socket, const char *keeper);
/* Unmaps the store's objects; their content stays with the keeper. NULL is ignored. */
void pagoda_store_close(struct pagoda_store *store);

/* The object `key` of `size` bytes, page-aligned: *found says whether it was in the store. A new
 * one reads as zero. Asked for again, it lies at the same address. NULL when it exists with another
 * number of pages, when the key is empty or too long, or when memory is short. */
void *pagoda_store_get(struct pagoda_store *store, const char *key, size_t size, bool *found);
/* Unmaps the object and has the keeper forget it. 0; -ENOENT where this program has not got it. */
int pagoda_store_drop(struct pagoda_store *store, const char *key);

/* The keeper's process number while it holds every object of this program; 0 when there is none, or
 * it died, or could not take one: the store is local then. Makes one system call. */
pid_t pagoda_store_keeper(struct pagoda_store *store);
/* Looks for a keeper again, or starts one, and hands over every object of this program. An object
 * of the same name that it holds is replaced. 0, -ECONNREFUSED without a keeper, or the error that
 * it answered. */
int pagoda_store_renew(struct pagoda_store *store);

#ifdef __cplusplus
}
#endif

#endif
