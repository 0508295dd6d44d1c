/* What Pagoda offers beyond the kernel's names: groups with a limit, heaps of one's own, figures,
 * and failing allocations for tests.
 */
#ifndef PAGODA_PAGODA_H
#define PAGODA_PAGODA_H

#include <pagoda/gfp.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0" */
const char *pagoda_version(void);

/* Groups: what the kernel's memory cgroups are to __GFP_ACCOUNT. Objects that a thread allocates
 * with __GFP_ACCOUNT, or from a SLAB_ACCOUNT cache, are charged to the group that it has entered,
 * at the size that they take; over its limit only that group's allocations fail. Whoever frees the
 * object, its group gets the charge back. Without a group nothing is charged. */

struct pagoda_group;
/* `limit`: bytes; SIZE_MAX: none. NULL: memory is short. Blocks. */
struct pagoda_group *pagoda_group_create(const char *name, size_t limit);
/* The group takes no more charges (they fail), and is gone when the last charged object is. NULL is
 * ignored. Threads must have left it. */
void pagoda_group_destroy(struct pagoda_group *group);
/* The calling thread charges to `group` from now on (NULL: to none). Returns the one before. */
struct pagoda_group *pagoda_group_enter(struct pagoda_group *group);
size_t pagoda_group_usage(const struct pagoda_group *group); /* bytes */
size_t pagoda_group_peak(const struct pagoda_group *group);  /* the most it ever was */
size_t pagoda_group_limit(const struct pagoda_group *group);
/* Charges that failed. */
uint64_t pagoda_group_failures(const struct pagoda_group *group);
/* A limit below the usage stops new charges until enough is freed. */
void pagoda_group_set_limit(struct pagoda_group *group, size_t limit);

/* Heaps of one's own: memory that can be looked at, and be gone, as a whole. Any thread may use a
 * heap; free() and kfree() free its blocks, too. */

struct pagoda_heap;
/* NULL: memory is short. Blocks. */
struct pagoda_heap *pagoda_heap_create(const char *name);
/* `size` bytes, up to PAGODA_HEAP_MAX, aligned as kmalloc's. NULL: memory is short, or size is 0 or
 * too large, or the flags may not block and nothing of this size was allocated before: the first
 * allocation of each size class sets the class up, which blocks. */
void *pagoda_heap_alloc(struct pagoda_heap *heap, size_t size, gfp_t flags);
#define PAGODA_HEAP_MAX ((size_t)128 << 20)
/* Frees a block of any heap. NULL is ignored. Never waits. */
void pagoda_heap_free(void *block);
/* Calls visit(block, usable bytes, argument) for every block in use. What other threads allocate or
 * free meanwhile may be missed; visit must not use this heap. Blocks. */
void pagoda_heap_walk(struct pagoda_heap *heap,
                      void (*visit)(void *block, size_t size, void *argument), void *argument);
/* Gives back the heap and every block in it. NULL is ignored. Nobody uses it any more. Blocks. */
void pagoda_heap_destroy(struct pagoda_heap *heap);

/* Failing allocations, for tests of what a program does then. */

/* True: the allocation of `size` bytes fails. Called on the allocating thread, perhaps in a signal
 * handler; it must not allocate. */
typedef bool pagoda_failure_hook(size_t size, gfp_t flags, void *argument);
/* Asks `hook` before every allocation of this process, malloc's too, from now on; NULL: no more.
 * Allocations are slower once there was a hook. Blocks. */
void pagoda_set_failure_hook(pagoda_failure_hook *hook, void *argument);

#ifdef __cplusplus
}
#endif

#endif
