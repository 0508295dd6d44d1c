// Every macro of slab.h, gfp.h and overflow.h in an expression, compiled as C and as C++.

#include <pagoda/slab.h>

struct point {
    int x, y;
    struct rcu_head rcu;
};

static void construct(void *object) { memset(object, 0, sizeof(struct point)); }

int use_sizes(void);
int use_sizes(void) {
    return ZERO_OR_NULL_PTR(kmalloc(0, GFP_KERNEL)) && KMALLOC_MAX_SIZE > KMALLOC_MAX_CACHE_SIZE &&
           KMALLOC_MIN_SIZE <= ARCH_KMALLOC_MINALIGN && ARCH_SLAB_MINALIGN > 0 &&
           array3_size(2, 3, 4) == 24 && size_sub(1, 2) == SIZE_MAX && NUMA_NO_NODE < 0;
}

struct kmem_cache *use_creation(int which);
struct kmem_cache *use_creation(int which) {
    struct kmem_cache_args args;
    memset(&args, 0, sizeof args);
    args.ctor = construct;
    switch (which) {
    case 0:
        return kmem_cache_create("point", sizeof(struct point), &args, SLAB_HWCACHE_ALIGN);
    case 1:
        return kmem_cache_create("point", sizeof(struct point), NULL, SLAB_PANIC);
    case 2:
        return kmem_cache_create("point", sizeof(struct point), 0, SLAB_NO_REAP, construct);
    case 3:
        return kmem_cache_create("point", sizeof(struct point), 64, SLAB_ACCOUNT, NULL);
    case 4:
        return KMEM_CACHE(point, SLAB_TYPESAFE_BY_RCU | SLAB_NO_MERGE);
    default:
        return KMEM_CACHE_USERCOPY(point, 0, y);
    }
}

void use_typed_objects(void);
void use_typed_objects(void) {
    struct point *one = kmalloc_obj(struct point, GFP_KERNEL);
    struct point *many = kzalloc_objs(struct point, 3, GFP_KERNEL);
    struct point *large = kvmalloc_objs(struct point, 3, GFP_KERNEL | __GFP_NOWARN);
    struct point *zeroed = kvzalloc_obj(struct point, GFP_NOFS);
    if (one)
        kfree_rcu(one, rcu);
    if (zeroed)
        kvfree_rcu(zeroed, rcu);
    kfree(many);
    kvfree(large);
    kfree(kasprintf(GFP_KERNEL, "%d of %s", 1, "two"));
    kfree(kmalloc_objs(struct point, 3, GFP_KERNEL));
    kfree(kzalloc_obj(struct point, GFP_ATOMIC));
    kvfree(kvmalloc_obj(struct point, GFP_NOIO));
    kvfree(kvzalloc_objs(struct point, 3, GFP_USER));
}

#ifndef __cplusplus
struct tailed {
    size_t count;
    int tail[];
};

struct tailed *use_tails(size_t n);
struct tailed *use_tails(size_t n) {
    struct tailed *p __free(kfree) = kmalloc_flex(struct tailed, tail, n, GFP_KERNEL);
    struct tailed *zeroed __free(kfree_sensitive) =
        kzalloc_flex(struct tailed, tail, n, GFP_KERNEL);
    struct tailed *large __free(kvfree) = kvmalloc_flex(struct tailed, tail, n, GFP_KERNEL);
    struct tailed *both = kvzalloc_flex(struct tailed, tail, n, GFP_KERNEL);
    kvfree(both);
    if (!p || !zeroed || !large || struct_size(p, tail, n) != struct_size_t(struct tailed, tail, n))
        return no_free_ptr(zeroed);
    return_ptr(p);
}
#endif
