/* Grace periods: freeing what readers may still look at. Readers mark the sections in which they
 * follow pointers; what kfree_rcu is given stays readable until all sections that were open have
 * ended. Nothing here sets errno. The readers' and synchronize_rcu's own names are left to liburcu,
 * whose macros they are.
 *
 * Source: include/linux/rcupdate.h and Documentation/RCU/whatisRCU.rst of the kernel.
 */
#ifndef PAGODA_RCUPDATE_H
#define PAGODA_RCUPDATE_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kmem_cache;

/* Readers: short sections that nest, on any thread. What was reachable inside one and freed by
 * kfree_rcu stays until the section ends. A child of fork() is inside no section. Any context. */
int pagoda_rcu_read_lock(void);
/* Takes what the matching lock returned. */
void pagoda_rcu_read_unlock(int section);
/* Waits until every section that was open has ended. Not inside one. Blocks. */
void pagoda_synchronize_rcu(void);
/* What kfree_rcu needs of an object: two words, Pagoda's from then on. (liburcu has a struct of
 * this name and size, too: include its headers first, or define PAGODA_OTHER_RCU_HEAD.) */
#if !defined(PAGODA_OTHER_RCU_HEAD) && !defined(_URCU_CALL_RCU_H)
struct rcu_head {
    void *pagoda_words[2];
};
#else
struct rcu_head;
#endif

/* Another implementation of grace periods, liburcu for one (pagoda/urcu.h). `synchronize` waits for
 * a grace period and may block; `call` calls fn(head) after one, on any thread. Only before the
 * first kfree_rcu, synchronize and SLAB_TYPESAFE_BY_RCU slab; false: too late. */
struct pagoda_rcu_ops {
    int (*read_lock)(void);
    void (*read_unlock)(int section);
    void (*synchronize)(void);
    void (*call)(struct rcu_head *head, void (*fn)(struct rcu_head *head));
};
bool pagoda_rcu_set_ops(const struct pagoda_rcu_ops *ops);

/* Frees `object` (kmalloc'd, of a cache, or vmalloc'd) after a grace period. `field`: its rcu_head,
 * in its first 4095 bytes; elsewhere it is reported and the object leaked. Any context, never
 * waits. */
void pagoda_kfree_rcu(const void *object, void *field);
#define kfree_rcu(object, field) pagoda_kfree_rcu(object, &(object)->field)
#define kvfree_rcu(object, field) kfree_rcu(object, field)
/* The same for objects without such a field. May block. */
void pagoda_kfree_rcu_mightsleep(const void *object);
/* Waits until everything given to kfree_rcu is free. Not inside a section. Blocks. */
void pagoda_kvfree_rcu_barrier(void);
static inline void kfree_rcu_mightsleep(const void *object) { pagoda_kfree_rcu_mightsleep(object); }
static inline void kvfree_rcu_mightsleep(const void *object) {
    pagoda_kfree_rcu_mightsleep(object);
}
static inline void kvfree_rcu_barrier(void) { pagoda_kvfree_rcu_barrier(); }
static inline void kvfree_rcu_barrier_on_cache(struct kmem_cache *cache) {
    (void)cache;
    pagoda_kvfree_rcu_barrier();
}

#ifdef __cplusplus
}
#endif

#endif
