/* Objects: kmalloc and its family, kmem_cache, and what goes with them. Names and contracts of
 * Linux 6.18; where user space makes a difference, the function says so.
 *
 * One heap serves kmalloc and malloc: kfree(malloc(n)) and free(kmalloc(n)) work, and so does
 * kfree() of a kmem_cache's object. Nothing here sets errno. What a call may wait for is in its
 * gfp_t (gfp.h); a function without one never waits for memory.
 *
 * Source: include/linux/slab.h and Documentation/core-api/memory-allocation.rst of the kernel.
 */
#ifndef PAGODA_SLAB_H
#define PAGODA_SLAB_H

#include <pagoda/gfp.h>
#include <pagoda/overflow.h>
#include <pagoda/rcupdate.h>

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* kmalloc's limits, bytes. kmalloc(0) is ZERO_SIZE_PTR: not NULL, not to be read, free to kfree. */
#define KMALLOC_MAX_SIZE ((size_t)4 << 20)
#define KMALLOC_MAX_CACHE_SIZE ((size_t)8192)
#define KMALLOC_MIN_SIZE 8
#define ARCH_KMALLOC_MINALIGN 8
#define ARCH_SLAB_MINALIGN 8
#define ZERO_SIZE_PTR ((void *)16)
#define ZERO_OR_NULL_PTR(x) ((uintptr_t)(x) <= (uintptr_t)ZERO_SIZE_PTR)

#ifndef NUMA_NO_NODE
#define NUMA_NO_NODE (-1)
#endif

#define PAGODA_ALLOCATES(size_argument)                                                            \
    __attribute__((malloc, alloc_size(size_argument), warn_unused_result))

/* kmalloc: objects of any size. */

/* `size` bytes. Aligned to the largest power of two that divides size, to size itself where that is
 * a power of two, and to 8 always. With GFP_DMA devices reach it at addresses below 2^24, naturally
 * aligned there too; a child of fork does not have it. NULL when memory is short; when size is
 * above KMALLOC_MAX_SIZE, and with GFP_DMA where no device is attached or such addresses are used
 * up (one warning unless __GFP_NOWARN). */
void *pagoda_kmalloc(size_t size, gfp_t flags) PAGODA_ALLOCATES(1);
/* pagoda_kmalloc of more than 8 bytes without any of PAGODA_GFP_SPECIAL: the caller knows. */
void *pagoda_kmalloc_plain(size_t size, gfp_t flags) PAGODA_ALLOCATES(1);
/* `node` is a preference, or with __GFP_THISNODE a condition; NUMA_NO_NODE: any. */
void *pagoda_kmalloc_node(size_t size, gfp_t flags, int node) PAGODA_ALLOCATES(1);
#define PAGODA_GFP_SPECIAL (GFP_ZONEMASK | __GFP_ZERO | __GFP_ACCOUNT | __GFP_COMP)

static inline PAGODA_ALLOCATES(1) void *kmalloc(size_t size, gfp_t flags) {
    if (__builtin_constant_p(size) && __builtin_constant_p(flags) && size > KMALLOC_MIN_SIZE &&
        (flags & PAGODA_GFP_SPECIAL) == 0)
        return pagoda_kmalloc_plain(size, flags);
    return pagoda_kmalloc(size, flags);
}
static inline PAGODA_ALLOCATES(1) void *kmalloc_node(size_t size, gfp_t flags, int node) {
    return pagoda_kmalloc_node(size, flags, node);
}
/* As kmalloc, and all of the object reads as zero. */
static inline PAGODA_ALLOCATES(1) void *kzalloc(size_t size, gfp_t flags) {
    return pagoda_kmalloc(size, flags | __GFP_ZERO);
}
static inline PAGODA_ALLOCATES(1) void *kzalloc_node(size_t size, gfp_t flags, int node) {
    return pagoda_kmalloc_node(size, flags | __GFP_ZERO, node);
}
/* Arrays: NULL when n * size overflows. */
static inline void *kmalloc_array(size_t n, size_t size, gfp_t flags) {
    return pagoda_kmalloc(size_mul(n, size), flags);
}
static inline void *kcalloc(size_t n, size_t size, gfp_t flags) {
    return pagoda_kmalloc(size_mul(n, size), flags | __GFP_ZERO);
}
static inline void *kmalloc_array_node(size_t n, size_t size, gfp_t flags, int node) {
    return pagoda_kmalloc_node(size_mul(n, size), flags, node);
}
static inline void *kcalloc_node(size_t n, size_t size, gfp_t flags, int node) {
    return pagoda_kmalloc_node(size_mul(n, size), flags | __GFP_ZERO, node);
}

/* Any context, also a handler that interrupted the allocator: only tries locks. flags: __GFP_ZERO,
 * __GFP_ACCOUNT, __GFP_NOWARN, __GFP_NOMEMALLOC only. NULL above KMALLOC_MAX_CACHE_SIZE, and when
 * there is none now: calling again will not help. Not from the reserve. */
void *pagoda_kmalloc_nolock(size_t size, gfp_t flags, int node) PAGODA_ALLOCATES(1);
/* Frees what kmalloc_nolock returned, in any context. */
void pagoda_kfree_nolock(const void *object);
static inline PAGODA_ALLOCATES(1) void *kmalloc_nolock(size_t size, gfp_t flags, int node) {
    return pagoda_kmalloc_nolock(size, flags, node);
}
static inline void kfree_nolock(const void *object) { pagoda_kfree_nolock(object); }

/* Frees what kmalloc, kmem_cache_alloc or malloc returned. NULL and ZERO_SIZE_PTR are ignored;
 * anything else is reported as free() reports it. Any context, never waits: where a lock is held
 * the work is left to its next holder. */
void pagoda_kfree(const void *object);
/* Overwrites all of the object with zeros first. Where a device uses it, which puts the free off,
 * that is done when the device is done. */
void pagoda_kfree_sensitive(const void *object);
/* NULL, ZERO_SIZE_PTR, kmalloc'd and vmalloc'd memory. */
void pagoda_kvfree(const void *object);
/* The same, its first `len` bytes zeroed; all of it where the free is put off. */
void pagoda_kvfree_sensitive(const void *object, size_t len);
static inline void kfree(const void *object) { pagoda_kfree(object); }
static inline void kfree_sensitive(const void *object) { pagoda_kfree_sensitive(object); }
static inline void kvfree(const void *object) { pagoda_kvfree(object); }
static inline void kvfree_sensitive(const void *object, size_t len) {
    pagoda_kvfree_sensitive(object, len);
}

/* Bytes of the object's bucket; 0 for ZERO_SIZE_PTR. Bytes beyond the size that was asked for must
 * not be used: ask for kmalloc_size_roundup(n) bytes instead. */
size_t pagoda_ksize(const void *object);
/* The ksize that kmalloc(size) would have; a size that kmalloc refuses is returned as it is. */
size_t pagoda_kmalloc_size_roundup(size_t size);
static inline size_t ksize(const void *object) { return pagoda_ksize(object); }
static inline size_t kmalloc_size_roundup(size_t size) { return pagoda_kmalloc_size_roundup(size); }

/* Resizes. NULL: kmalloc. size 0: kfree, and ZERO_SIZE_PTR is returned. The pointer stays where the
 * size fits its bucket and its alignment is enough. On failure NULL, and the object is as it was.
 * With __GFP_ZERO new bytes are zero if every call for this object had it. `align`: up to what
 * kmalloc(size) guarantees. A node other than the object's moves it only with __GFP_THISNODE. */
void *pagoda_krealloc(const void *object, size_t size, size_t align, gfp_t flags, int node)
    __attribute__((alloc_size(2), warn_unused_result));
static inline void *krealloc(const void *object, size_t size, gfp_t flags) {
    return pagoda_krealloc(object, size, 1, flags, NUMA_NO_NODE);
}
static inline void *krealloc_node_align(const void *object, size_t size, size_t align, gfp_t flags,
                                        int node) {
    return pagoda_krealloc(object, size, align, flags, node);
}
static inline void *krealloc_array(void *object, size_t n, size_t size, gfp_t flags) {
    size_t bytes = size_mul(n, size);
    return bytes == SIZE_MAX ? NULL : pagoda_krealloc(object, bytes, 1, flags, NUMA_NO_NODE);
}

/* kmalloc, or vmalloc where that fails or size is above KMALLOC_MAX_SIZE; vmalloc needs flags that
 * may block. NULL above INT_MAX. Freed by kvfree. */
void *pagoda_kvmalloc(size_t size, size_t align, gfp_t flags, int node) PAGODA_ALLOCATES(1);
void *pagoda_kvrealloc(const void *object, size_t size, size_t align, gfp_t flags, int node)
    __attribute__((alloc_size(2), warn_unused_result));
static inline PAGODA_ALLOCATES(1) void *kvmalloc(size_t size, gfp_t flags) {
    return pagoda_kvmalloc(size, 1, flags, NUMA_NO_NODE);
}
static inline PAGODA_ALLOCATES(1) void *kvmalloc_node(size_t size, gfp_t flags, int node) {
    return pagoda_kvmalloc(size, 1, flags, node);
}
static inline PAGODA_ALLOCATES(1) void *kvzalloc(size_t size, gfp_t flags) {
    return pagoda_kvmalloc(size, 1, flags | __GFP_ZERO, NUMA_NO_NODE);
}
static inline PAGODA_ALLOCATES(1) void *kvzalloc_node(size_t size, gfp_t flags, int node) {
    return pagoda_kvmalloc(size, 1, flags | __GFP_ZERO, node);
}
static inline void *kvmalloc_array(size_t n, size_t size, gfp_t flags) {
    return pagoda_kvmalloc(size_mul(n, size), 1, flags, NUMA_NO_NODE);
}
static inline void *kvcalloc(size_t n, size_t size, gfp_t flags) {
    return pagoda_kvmalloc(size_mul(n, size), 1, flags | __GFP_ZERO, NUMA_NO_NODE);
}
static inline void *kvrealloc(const void *object, size_t size, gfp_t flags) {
    return pagoda_kvrealloc(object, size, 1, flags, NUMA_NO_NODE);
}

/* Copies, with their terminating zero where they are strings. NULL for NULL. */
char *pagoda_kstrdup(const char *s, gfp_t flags);
char *pagoda_kstrndup(const char *s, size_t max, gfp_t flags);
void *pagoda_kmemdup(const void *source, size_t len, gfp_t flags);
void *pagoda_kvmemdup(const void *source, size_t len, gfp_t flags);
/* A copy of `len` bytes with a zero behind it. */
char *pagoda_kmemdup_nul(const char *source, size_t len, gfp_t flags);
/* A formatted string, as asprintf. */
char *pagoda_kasprintf(gfp_t flags, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *pagoda_kvasprintf(gfp_t flags, const char *format, __builtin_va_list arguments)
    __attribute__((format(printf, 2, 0)));
static inline char *kstrdup(const char *s, gfp_t flags) { return pagoda_kstrdup(s, flags); }
static inline char *kstrndup(const char *s, size_t max, gfp_t flags) {
    return pagoda_kstrndup(s, max, flags);
}
static inline void *kmemdup(const void *source, size_t len, gfp_t flags) {
    return pagoda_kmemdup(source, len, flags);
}
static inline void *kmemdup_array(const void *source, size_t count, size_t size, gfp_t flags) {
    return pagoda_kmemdup(source, size_mul(count, size), flags);
}
static inline void *kvmemdup(const void *source, size_t len, gfp_t flags) {
    return pagoda_kvmemdup(source, len, flags);
}
static inline char *kmemdup_nul(const char *source, size_t len, gfp_t flags) {
    return pagoda_kmemdup_nul(source, len, flags);
}
#define kasprintf pagoda_kasprintf
#define kvasprintf pagoda_kvasprintf

/* kmem_cache: objects of one size and type. */

typedef unsigned int slab_flags_t;
#define SLAB_CONSISTENCY_CHECKS 0x1u /* report frees that do not belong, and leak the object */
#define SLAB_RED_ZONE 0x2u           /* guard bytes around each object, checked */
/* Freed objects are filled, and checked when handed out; not with a ctor or SLAB_TYPESAFE_BY_RCU,
 * where they have to keep what they hold. */
#define SLAB_POISON 0x4u
#define SLAB_HWCACHE_ALIGN 0x10u /* align to cache lines (objects above half a line) */
#define SLAB_CACHE_DMA 0x20u     /* pages as with GFP_DMA */
#define SLAB_CACHE_DMA32 0x40u   /* pages as with GFP_DMA32 */
#define SLAB_STORE_USER 0x80u    /* remember who allocated and who freed each object */
#define SLAB_PANIC 0x100u        /* abort() when the cache cannot be created */
/* The memory of freed objects stays objects of this cache until a grace period has passed: readers
 * inside pagoda_rcu_read_lock() may look at them and check again. Objects themselves are reused at
 * once. */
#define SLAB_TYPESAFE_BY_RCU 0x200u
#define SLAB_NO_MERGE 0x1000u /* never shared with an alike cache */
#define SLAB_ACCOUNT 0x4000u  /* every allocation as if with __GFP_ACCOUNT */
/* The kernel's own matters; docs/requirements.md says what each means here. */
#define SLAB_TRACE 0x400u
#define SLAB_NOLEAKTRACE 0x800u
#define SLAB_NO_USER_FLAGS 0x8000u
#define SLAB_RECLAIM_ACCOUNT 0x10000u
#define SLAB_TEMPORARY SLAB_RECLAIM_ACCOUNT
/* Pagoda's own: reclaim and kmem_cache_shrink leave this cache's empty slabs alone. */
#define SLAB_NO_REAP 0x1000000u

struct kmem_cache;

struct kmem_cache_args {
    unsigned int align; /* power of two; 0: natural for pointers */
    unsigned int useroffset;
    unsigned int usersize;
    unsigned int freeptr_offset; /* with SLAB_TYPESAFE_BY_RCU only; nothing is stored in objects */
    bool use_freeptr_offset;
    /* Called once for each object when its slab is made; objects must be freed in the state that it
     * left. Not together with __GFP_ZERO. Constructors and destructors run inside the allocator:
     * what they allocate is served as GFP_ATOMIC, and not from this cache. */
    void (*ctor)(void *object);
    unsigned int sheaf_capacity; /* objects that a CPU keeps, at most 127; 0: by size */
    /* Pagoda's own: called once for each object when its slab goes. */
    void (*dtor)(void *object);
    /* Pagoda's own: not 0: the highest address at which devices are to reach the objects. Such
     * memory comes from libpagoda_dma's devices, as with SLAB_CACHE_DMA (2^24 - 1) and
     * SLAB_CACHE_DMA32 (2^32 - 1), which win over it. Unlike those, such a cache must not be used
     * in a child of fork: CPUs keep objects of it, whose memory is the parent's alone. */
    unsigned long long device_mask;
};

/* A cache of objects of `size` bytes, at most KMALLOC_MAX_SIZE. The name is copied; it must not be
 * empty or hold spaces. A name that another cache has is warned of, once for the process. NULL:
 * memory is short, or an argument is refused (one warning). Alike
 * caches share their slabs unless they have a ctor or dtor, a debug flag, SLAB_TYPESAFE_BY_RCU or
 * SLAB_NO_MERGE. Blocks. */
struct kmem_cache *pagoda_kmem_cache_create(const char *name, unsigned int size,
                                            const struct kmem_cache_args *args, slab_flags_t flags);
/* Also accepts NULL. Objects that are still in use are reported, and the cache is leaked. Waits for
 * kfree_rcu. */
void pagoda_kmem_cache_destroy(struct kmem_cache *cache);
/* Gives empty slabs back and sorts the others by fullness. 0: nothing is left. */
int pagoda_kmem_cache_shrink(struct kmem_cache *cache);
/* The size that the cache was created with; of alike caches that share their slabs, the largest. */
unsigned int pagoda_kmem_cache_size(struct kmem_cache *cache);
/* An object; with __GFP_ZERO (and no ctor) all zero, else in the state that the ctor or its last
 * user left. NULL when memory is short. `node` as in kmalloc_node. */
void *pagoda_kmem_cache_alloc(struct kmem_cache *cache, gfp_t flags)
    __attribute__((malloc, warn_unused_result));
void *pagoda_kmem_cache_alloc_node(struct kmem_cache *cache, gfp_t flags, int node)
    __attribute__((malloc, warn_unused_result));
/* An object of another cache is reported and leaked. Any context, never waits. */
void pagoda_kmem_cache_free(struct kmem_cache *cache, void *object);
/* All or nothing: `count`, or 0 with nothing taken. */
int pagoda_kmem_cache_alloc_bulk(struct kmem_cache *cache, gfp_t flags, size_t count,
                                 void **objects);
/* cache NULL: kfree_bulk. The array may be reordered. */
void pagoda_kmem_cache_free_bulk(struct kmem_cache *cache, size_t count, void **objects);

static inline struct kmem_cache *__kmem_cache_create_args(const char *name, unsigned int size,
                                                          struct kmem_cache_args *args,
                                                          slab_flags_t flags) {
    return pagoda_kmem_cache_create(name, size, args, flags);
}
static inline struct kmem_cache *__kmem_cache_create(const char *name, unsigned int size,
                                                     unsigned int align, slab_flags_t flags,
                                                     void (*ctor)(void *)) {
    struct kmem_cache_args args;
    memset(&args, 0, sizeof args);
    args.align = align;
    args.ctor = ctor;
    return pagoda_kmem_cache_create(name, size, &args, flags);
}
static inline struct kmem_cache *__kmem_cache_default_args(const char *name, unsigned int size,
                                                           void *args, slab_flags_t flags) {
    (void)args;
    return pagoda_kmem_cache_create(name, size, NULL, flags);
}
static inline struct kmem_cache *kmem_cache_create_usercopy(const char *name, unsigned int size,
                                                            unsigned int align, slab_flags_t flags,
                                                            unsigned int useroffset,
                                                            unsigned int usersize,
                                                            void (*ctor)(void *)) {
    struct kmem_cache_args args;
    memset(&args, 0, sizeof args);
    args.align = align;
    args.ctor = ctor;
    args.useroffset = useroffset;
    args.usersize = usersize;
    return pagoda_kmem_cache_create(name, size, &args, flags);
}
static inline void kmem_cache_destroy(struct kmem_cache *cache) {
    pagoda_kmem_cache_destroy(cache);
}
static inline int kmem_cache_shrink(struct kmem_cache *cache) {
    return pagoda_kmem_cache_shrink(cache);
}
static inline unsigned int kmem_cache_size(struct kmem_cache *cache) {
    return pagoda_kmem_cache_size(cache);
}
static inline void *kmem_cache_alloc(struct kmem_cache *cache, gfp_t flags) {
    return pagoda_kmem_cache_alloc(cache, flags);
}
static inline void *kmem_cache_zalloc(struct kmem_cache *cache, gfp_t flags) {
    return pagoda_kmem_cache_alloc(cache, flags | __GFP_ZERO);
}
static inline void *kmem_cache_alloc_node(struct kmem_cache *cache, gfp_t flags, int node) {
    return pagoda_kmem_cache_alloc_node(cache, flags, node);
}
static inline void kmem_cache_free(struct kmem_cache *cache, void *object) {
    pagoda_kmem_cache_free(cache, object);
}
static inline int kmem_cache_alloc_bulk(struct kmem_cache *cache, gfp_t flags, size_t count,
                                        void **objects) {
    return pagoda_kmem_cache_alloc_bulk(cache, flags, count, objects);
}
static inline void kmem_cache_free_bulk(struct kmem_cache *cache, size_t count, void **objects) {
    pagoda_kmem_cache_free_bulk(cache, count, objects);
}
static inline void kfree_bulk(size_t count, void **objects) {
    pagoda_kmem_cache_free_bulk(NULL, count, objects);
}

/* Charges an object of a SLAB_ACCOUNT cache that was allocated when nobody was charged to the
 * calling thread's group. True also where the thread has none, or the object is charged already.
 * False: the group is at its limit, memory is short, or it is an object of another cache, which are
 * charged only when they are allocated; it stays uncharged. */
bool pagoda_kmem_cache_charge(void *object, gfp_t flags);
static inline bool kmem_cache_charge(void *object, gfp_t flags) {
    return pagoda_kmem_cache_charge(object, flags);
}

/* Prefilled sheaves: allocations that cannot fail. */

struct slab_sheaf;
/* A private array of at least `count` objects; NULL when memory is short. More than the cache's
 * capacity is possible. */
struct slab_sheaf *pagoda_kmem_cache_prefill_sheaf(struct kmem_cache *cache, gfp_t flags,
                                                   unsigned int count);
/* The next object. Never sleeps, and never fails before the sheaf is empty. */
void *pagoda_kmem_cache_alloc_from_sheaf(struct kmem_cache *cache, gfp_t flags,
                                         struct slab_sheaf *sheaf);
/* Brings the sheaf to at least `count` objects; it may be replaced. 0, or -ENOMEM with the sheaf as
 * it was. */
int pagoda_kmem_cache_refill_sheaf(struct kmem_cache *cache, gfp_t flags, struct slab_sheaf **sheaf,
                                   unsigned int count);
void pagoda_kmem_cache_return_sheaf(struct kmem_cache *cache, gfp_t flags,
                                    struct slab_sheaf *sheaf);
unsigned int pagoda_kmem_cache_sheaf_size(struct slab_sheaf *sheaf);
static inline struct slab_sheaf *kmem_cache_prefill_sheaf(struct kmem_cache *cache, gfp_t flags,
                                                          unsigned int count) {
    return pagoda_kmem_cache_prefill_sheaf(cache, flags, count);
}
static inline void *kmem_cache_alloc_from_sheaf(struct kmem_cache *cache, gfp_t flags,
                                                struct slab_sheaf *sheaf) {
    return pagoda_kmem_cache_alloc_from_sheaf(cache, flags, sheaf);
}
static inline int kmem_cache_refill_sheaf(struct kmem_cache *cache, gfp_t flags,
                                          struct slab_sheaf **sheaf, unsigned int count) {
    return pagoda_kmem_cache_refill_sheaf(cache, flags, sheaf, count);
}
static inline void kmem_cache_return_sheaf(struct kmem_cache *cache, gfp_t flags,
                                           struct slab_sheaf *sheaf) {
    pagoda_kmem_cache_return_sheaf(cache, flags, sheaf);
}
static inline unsigned int kmem_cache_sheaf_size(struct slab_sheaf *sheaf) {
    return pagoda_kmem_cache_sheaf_size(sheaf);
}

/* Buckets: a private set of size classes, for sizes that an attacker controls. They live until the
 * process ends, as the kernel's do. */

typedef struct pagoda_kmem_buckets kmem_buckets;
/* A set whose caches are as the arguments say; NULL when memory is short or an argument is refused.
 * Blocks. */
kmem_buckets *pagoda_kmem_buckets_create(const char *name, slab_flags_t flags,
                                         unsigned int useroffset, unsigned int usersize,
                                         void (*ctor)(void *));
/* As kmalloc, from the set. Freed by kfree. */
void *pagoda_kmem_buckets_alloc(kmem_buckets *buckets, size_t size, gfp_t flags)
    PAGODA_ALLOCATES(2);
static inline kmem_buckets *kmem_buckets_create(const char *name, slab_flags_t flags,
                                                unsigned int useroffset, unsigned int usersize,
                                                void (*ctor)(void *)) {
    return pagoda_kmem_buckets_create(name, flags, useroffset, usersize, ctor);
}
static inline PAGODA_ALLOCATES(2) void *kmem_buckets_alloc(kmem_buckets *buckets, size_t size,
                                                           gfp_t flags) {
    return pagoda_kmem_buckets_alloc(buckets, size, flags);
}

/* Provenance: writes to stderr what a pointer is, "slab scullc start … offset 24 size 64", and who
 * allocated it where that is known. kmem_dump_obj is false (and silent) for what is no slab's. */
bool pagoda_kmem_dump_obj(void *object);
void pagoda_mem_dump_obj(void *object);
static inline bool kmem_dump_obj(void *object) { return pagoda_kmem_dump_obj(object); }
static inline void mem_dump_obj(void *object) { pagoda_mem_dump_obj(object); }

/* Objects by type: kmalloc_obj(struct foo) is one, kmalloc_objs(struct foo, n) an array and
 * kmalloc_flex(struct foo, tail, n) one with n elements in its flexible array `tail`. */
#define kmalloc_obj(type, flags) ((type *)kmalloc(sizeof(type), flags))
#define kmalloc_objs(type, n, flags) ((type *)kmalloc_array(n, sizeof(type), flags))
#define kmalloc_flex(type, member, n, flags)                                                       \
    ((type *)kmalloc(struct_size_t(type, member, n), flags))
#define kzalloc_obj(type, flags) kmalloc_obj(type, (flags) | __GFP_ZERO)
#define kzalloc_objs(type, n, flags) kmalloc_objs(type, n, (flags) | __GFP_ZERO)
#define kzalloc_flex(type, member, n, flags) kmalloc_flex(type, member, n, (flags) | __GFP_ZERO)
#define kvmalloc_obj(type, flags) ((type *)kvmalloc(sizeof(type), flags))
#define kvmalloc_objs(type, n, flags) ((type *)kvmalloc_array(n, sizeof(type), flags))
#define kvmalloc_flex(type, member, n, flags)                                                      \
    ((type *)kvmalloc(struct_size_t(type, member, n), flags))
#define kvzalloc_obj(type, flags) kvmalloc_obj(type, (flags) | __GFP_ZERO)
#define kvzalloc_objs(type, n, flags) kvmalloc_objs(type, n, (flags) | __GFP_ZERO)
#define kvzalloc_flex(type, member, n, flags) kvmalloc_flex(type, member, n, (flags) | __GFP_ZERO)

/* void *p __free(kfree) = kmalloc(…): freed when p goes out of scope. */
#ifndef __cplusplus
static inline void pagoda_cleanup_kfree(void *variable) { pagoda_kfree(*(void **)variable); }
static inline void pagoda_cleanup_kvfree(void *variable) { pagoda_kvfree(*(void **)variable); }
static inline void pagoda_cleanup_kfree_sensitive(void *variable) {
    pagoda_kfree_sensitive(*(void **)variable);
}
#define __free(name) __attribute__((cleanup(pagoda_cleanup_##name)))
/* Returns p and takes it from its owner: __free has nothing left to do. */
#define no_free_ptr(p)                                                                             \
    __extension__({                                                                                \
        __typeof__(p) pagoda_taken = (p);                                                          \
        (p) = NULL;                                                                                \
        pagoda_taken;                                                                              \
    })
#define return_ptr(p) return no_free_ptr(p)
#endif

#ifdef __cplusplus
}
#endif

/* Both forms of creation: (name, size, args, flags) and (name, size, align, flags, ctor). */
#ifdef __cplusplus
static inline struct kmem_cache *kmem_cache_create(const char *name, unsigned int size,
                                                   struct kmem_cache_args *args,
                                                   slab_flags_t flags) {
    return pagoda_kmem_cache_create(name, size, args, flags);
}
static inline struct kmem_cache *kmem_cache_create(const char *name, unsigned int size,
                                                   unsigned int align, slab_flags_t flags,
                                                   void (*ctor)(void *)) {
    return __kmem_cache_create(name, size, align, flags, ctor);
}
#else
#define kmem_cache_create(name, size, args, ...)                                                   \
    _Generic((args),                                                                               \
        struct kmem_cache_args *: __kmem_cache_create_args,                                        \
        void *: __kmem_cache_default_args,                                                         \
        default: __kmem_cache_create)(name, size, args, __VA_ARGS__)
#endif
#define KMEM_CACHE(type, flags)                                                                    \
    __kmem_cache_create(#type, sizeof(struct type), __alignof__(struct type), flags, NULL)
#define KMEM_CACHE_USERCOPY(type, flags, field)                                                    \
    kmem_cache_create_usercopy(#type, sizeof(struct type), __alignof__(struct type), flags,        \
                               offsetof(struct type, field), sizeof(((struct type *)0)->field),    \
                               NULL)

#endif
