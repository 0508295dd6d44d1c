/* Grace periods of liburcu: kfree_rcu and SLAB_TYPESAFE_BY_RCU wait for the readers of a program
 * that uses it. Nothing else here needs liburcu; the program links with liburcu-bp, or with the
 * library of the flavour that it names:
 *
 *   #define PAGODA_URCU_FLAVOUR memb
 *   #include <pagoda/urcu.h>
 *
 * before the first inclusion. Other flavours than bp want each reading thread registered, as
 * liburcu's manual says. What kfree_rcu is given, liburcu's call_rcu thread frees. liburcu's
 * headers have a struct rcu_head of their own: in a file that includes both, they come before
 * Pagoda's.
 *
 * Source: liburcu's urcu-api.md.
 */
#ifndef PAGODA_URCU_H
#define PAGODA_URCU_H

#include <pagoda/rcupdate.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef PAGODA_URCU_FLAVOUR
#define PAGODA_URCU_FLAVOUR bp
#endif
/* A suffix, because liburcu's headers make macros of the names without a flavour. */
#define PAGODA_URCU_PASTE(flavour, suffix) urcu_##flavour##suffix
#define PAGODA_URCU_NAME(flavour, suffix) PAGODA_URCU_PASTE(flavour, suffix)

void PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _read_lock)(void);
void PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _read_unlock)(void);
void PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _synchronize_rcu)(void);
void PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _call_rcu)(struct rcu_head *head,
                                                      void (*fn)(struct rcu_head *head));

/* A reader's section of liburcu, in the form that pagoda_rcu_set_ops takes. Always 0. */
static inline int pagoda_urcu_read_lock(void) {
    PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _read_lock)();
    return 0;
}
/* Ends it; the argument is not used, because liburcu counts its sections itself. */
static inline void pagoda_urcu_read_unlock(int section) {
    (void)section;
    PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _read_unlock)();
}

/* Makes Pagoda wait for liburcu's readers from now on. False when grace periods are in use already:
 * call it before the first kfree_rcu and the first use of a SLAB_TYPESAFE_BY_RCU cache. */
static inline bool pagoda_urcu_bind(void) {
    static const struct pagoda_rcu_ops ops = {
        pagoda_urcu_read_lock,
        pagoda_urcu_read_unlock,
        PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _synchronize_rcu),
        PAGODA_URCU_NAME(PAGODA_URCU_FLAVOUR, _call_rcu),
    };
    return pagoda_rcu_set_ops(&ops);
}

#ifdef __cplusplus
}
#endif

#endif
