/* Shrinkers: callbacks that give back memory which a program keeps only because there was room for
 * it (caches of all kinds), when an allocation would fail otherwise. malloc calls them too. And the
 * out-of-memory notifiers, which are asked when shrinkers were not enough.
 *
 * Reclaim walks the shrinkers at priorities 12 down to 0, until the allocation succeeds. At each it
 * asks a shrinker how many objects it could free and then, in batches, to look at
 * (objects >> priority) * 4 / seeks of them (half of them where seeks is 0). What a call did not
 * get to is added to a later one, up to twice the number of objects.
 *
 * Source: include/linux/shrinker.h and include/linux/oom.h of the kernel.
 */
#ifndef PAGODA_SHRINKER_H
#define PAGODA_SHRINKER_H

#include <pagoda/gfp.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What count_objects returns when there is nothing; 0 means that the number is not known now, and
 * is treated in the same way. */
#define SHRINK_EMPTY (~0UL - 1)
/* What scan_objects returns when it cannot make progress now: this walk is over for it. */
#define SHRINK_STOP (~0UL)

#define DEFAULT_SEEKS 2
#define SHRINK_BATCH 128

/* Flags of shrinker_alloc. */
/* Objects are per NUMA node: sc->nid says which is meant. Memory here is one node, 0. */
#define SHRINKER_NUMA_AWARE 0x4u
/* Accepted; reclaim for one group is not there to call it, so the shrinker is called as others. */
#define SHRINKER_MEMCG_AWARE 0x8u
/* Accepted; of meaning only beside SHRINKER_MEMCG_AWARE. */
#define SHRINKER_NONSLAB 0x10u
/* The callbacks do I/O, or give memory back to the system: not called for an allocation without
 * __GFP_IO (GFP_NOIO, memalloc_noio_save). Pagoda's own. */
#define SHRINKER_IO 0x100u
/* The callbacks take locks that a caller may hold around an allocation without __GFP_FS (GFP_NOFS,
 * memalloc_nofs_save): not called for such a one. Pagoda's own. */
#define SHRINKER_FS 0x200u

struct shrink_control {
    /* The flags of the allocation that needs memory, scopes applied. */
    gfp_t gfp_mask;
    /* The node, for SHRINKER_NUMA_AWARE; otherwise 0. */
    int nid;
    /* How many objects scan_objects is to look at. */
    unsigned long nr_to_scan;
    /* How many it looked at: nr_to_scan on entry, which scan_objects may lower. */
    unsigned long nr_scanned;
};

/* Made by shrinker_alloc; the fields are filled in before shrinker_register and left alone after.
 *
 * The callbacks run on the thread whose allocation needs memory, several threads at a time, with no
 * lock of the allocator held. They may free, and may allocate: that is served from what there is,
 * the reserve included, and calls no shrinker. They must not wait for a lock under which anybody
 * allocates with flags that let this shrinker be called. They must not call shrinker_free for their
 * own shrinker. */
struct shrinker {
    /* How many objects could be freed: a quick estimate, without waiting for a lock. */
    unsigned long (*count_objects)(struct shrinker *shrinker, struct shrink_control *sc);
    /* Looks at sc->nr_to_scan objects and frees what it can of them. Returns how many it freed, or
     * SHRINK_STOP. */
    unsigned long (*scan_objects)(struct shrinker *shrinker, struct shrink_control *sc);
    /* Objects for one call of scan_objects; 0: SHRINK_BATCH. */
    long batch;
    /* The cost of getting an object back, in disk seeks; 0: none. shrinker_alloc sets
     * DEFAULT_SEEKS. */
    int seeks;
    /* SHRINKER_* flags. */
    unsigned int flags;
    /* The program's own. */
    void *private_data;
};

/* A shrinker, not called before it is registered, all of its fields 0 but flags and seeks. fmt and
 * what follows, as for printf, is its name in reports (63 bytes are kept). NULL when memory is
 * short. May block. */
struct shrinker *pagoda_shrinker_alloc(unsigned int flags, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), warn_unused_result));
/* From here on the callbacks may be called. May block for a short time; cannot fail. */
void pagoda_shrinker_register(struct shrinker *shrinker);
/* Ends and frees a shrinker, registered or not; NULL is ignored. No callback of it runs when this
 * returns, and none will: it waits for those that run now. May block. */
void pagoda_shrinker_free(struct shrinker *shrinker);

#define shrinker_alloc pagoda_shrinker_alloc
static inline void shrinker_register(struct shrinker *shrinker) {
    pagoda_shrinker_register(shrinker);
}
static inline void shrinker_free(struct shrinker *shrinker) { pagoda_shrinker_free(shrinker); }

/* What a notifier returns: go on with the next, or not. */
#define NOTIFY_DONE 0x0000
#define NOTIFY_OK 0x0001
#define NOTIFY_STOP_MASK 0x8000
#define NOTIFY_STOP (NOTIFY_OK | NOTIFY_STOP_MASK)

/* A callback in a chain; the caller's memory, left alone while it is registered. `data` of an
 * out-of-memory notifier points to an unsigned long, to which it adds the pages that it freed;
 * `action` is 0. */
struct notifier_block {
    int (*notifier_call)(struct notifier_block *block, unsigned long action, void *data);
    struct notifier_block *next;
    int priority; /* higher ones first */
};

/* The last resort of an allocation with GFP_KERNEL of at most 32 KiB, or with __GFP_NOFAIL, when
 * reclaim frees nothing any more: before it fails (or goes on waiting) each notifier is called, one
 * thread at a time, as shrinkers are. If any adds to the count, the allocation is tried again. Not
 * for allocations without __GFP_FS, or with __GFP_NORETRY or __GFP_RETRY_MAYFAIL.
 * Registering returns 0, or -EEXIST where the block is registered already; may block shortly. */
int pagoda_register_oom_notifier(struct notifier_block *block);
/* The block is not called when this returns (it waits while that runs on another thread), and may
 * be freed. Returns 0, or -ENOENT where it was not registered. May block. */
int pagoda_unregister_oom_notifier(struct notifier_block *block);
static inline int register_oom_notifier(struct notifier_block *block) {
    return pagoda_register_oom_notifier(block);
}
static inline int unregister_oom_notifier(struct notifier_block *block) {
    return pagoda_unregister_oom_notifier(block);
}

#ifdef __cplusplus
}
#endif

#endif
