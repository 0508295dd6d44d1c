/* memblock: the boot stage of memory. Before a program's work begins, memory is set aside that no
 * other allocation ever falls into; memblock hands it out piece by piece, and memblock_free_all
 * gives what is left to the page allocator and closes the stage.
 *
 * Memory is set aside by pagoda_boot_reserve, which a linked program calls in a constructor or
 * early in main, or by the option boot=SIZE, which serves a preloaded library as well.
 *
 * A "physical" address is here the distance of a byte from the start of Pagoda's zone: contiguous
 * in this process's addresses, and where huge pages back it, in the machine's memory inside each of
 * them. The machine's own physical address is another matter. There are no nodes: a node id is
 * kept with its range and chooses nothing.
 *
 * As in the kernel, one thread at a time: nothing here takes a lock. Everything may block.
 *
 * Source: include/linux/memblock.h, Documentation/core-api/boot-time-mm.rst of the kernel.
 */
#ifndef PAGODA_MEMBLOCK_H
#define PAGODA_MEMBLOCK_H

#include <pagoda/layout.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef NUMA_NO_NODE
#define NUMA_NO_NODE (-1)
#endif

enum memblock_flags {
    MEMBLOCK_NONE = 0x0,
    MEMBLOCK_HOTPLUG = 0x1,
    MEMBLOCK_MIRROR = 0x2,
    MEMBLOCK_NOMAP = 0x4 /* never handed out, nor given to the page allocator */
};

/* Upper bounds: the current limit; none at all. */
#define MEMBLOCK_ALLOC_ACCESSIBLE ((phys_addr_t)0)
#define MEMBLOCK_ALLOC_ANYWHERE (~(phys_addr_t)0)
#define MEMBLOCK_LOW_LIMIT ((phys_addr_t)0)
/* Bound of memblock_alloc_low, bytes. */
#define ARCH_LOW_ADDRESS_LIMIT ((phys_addr_t)0xffffffff)
/* Alignment where 0 is given. */
#define PAGODA_MEMBLOCK_ALIGN ((phys_addr_t)64)

/* Setting memory aside. */

/* Takes `bytes`, rounded up to 2 MiB, in one piece from the zone (from the hugetlb pool where the
 * option hugetlb gives it one) and adds them to memblock's memory, or as much of them as the option
 * mem=SIZE allows. 0, -EINVAL (no bytes), -ENOMEM, or -EBUSY after memblock_free_all. */
int pagoda_boot_reserve(size_t bytes);
/* What was set aside and is not memblock's because of mem=SIZE: the last piece's end, for an
 * allocator of the program's own. Pagoda never touches it. NULL and 0 bytes where there is none. */
void *pagoda_boot_unmanaged(size_t *bytes);
/* The byte at a "physical" address, and the other way round. */
void *pagoda_memblock_virt(phys_addr_t address);
phys_addr_t pagoda_memblock_phys(const void *p);

/* Ranges. */

/* Adds what was set aside (and was removed before) to memblock's memory. 0; -EINVAL when the range
 * was not set aside; -ENOMEM; -EBUSY after memblock_free_all. Ranges that touch and have the same
 * flags become one. */
int pagoda_memblock_add(phys_addr_t base, phys_addr_t size, int nid, unsigned int flags);
/* Takes a range out of memblock's memory. It is never handed out, and the page allocator does not
 * get it. 0, -ENOMEM or -EBUSY. */
int pagoda_memblock_remove(phys_addr_t base, phys_addr_t size);
/* Marks a range, in memory or not, as in use: no allocation falls into it. 0, -ENOMEM or -EBUSY. */
int pagoda_memblock_reserve(phys_addr_t base, phys_addr_t size);
/* Ends that, and frees what an allocation returned. 0, -ENOMEM or -EBUSY. */
int pagoda_memblock_phys_free(phys_addr_t base, phys_addr_t size);
/* Sets or clears a flag of a range of memory. 0, -ENOMEM or -EBUSY. */
int pagoda_memblock_mark(phys_addr_t base, phys_addr_t size, unsigned int flag, bool set);
/* Memory beyond the first `limit` bytes is removed. */
void pagoda_memblock_enforce_memory_limit(phys_addr_t limit);

enum pagoda_memblock_type {
    PAGODA_MEMBLOCK_MEMORY,
    PAGODA_MEMBLOCK_RESERVED,
    PAGODA_MEMBLOCK_FREE /* memory that is not reserved and not MEMBLOCK_NOMAP */
};
/* The range of that type with number *i, which grows by one; false behind the last one. `start`,
 * `end` (first address behind it) and `nid` may be NULL. */
bool pagoda_memblock_next(enum pagoda_memblock_type type, uint64_t *i, phys_addr_t *start,
                          phys_addr_t *end, int *nid);
/* True when all of [base, base + size) is in ranges of that type. */
bool pagoda_memblock_covers(enum pagoda_memblock_type type, phys_addr_t base, phys_addr_t size);
/* True when any byte of it is. */
bool pagoda_memblock_overlaps(enum pagoda_memblock_type type, phys_addr_t base, phys_addr_t size);
/* Bytes in ranges of that type. */
phys_addr_t pagoda_memblock_bytes(enum pagoda_memblock_type type);

/* Allocating. */

/* The highest `size` bytes at a multiple of `align` (a power of two; 0: 64) in [min, max) that are
 * memory, not reserved and not MEMBLOCK_NOMAP, from now on reserved; the lowest ones after
 * memblock_set_bottom_up(true). max 0: the current limit. 0 when there are none; after
 * memblock_free_all 0 and one line on stderr. */
phys_addr_t pagoda_memblock_phys_alloc(phys_addr_t size, phys_addr_t align, phys_addr_t min,
                                       phys_addr_t max);
/* The same as a pointer, never above the current limit, NULL for 0. `min` is a wish: where nothing
 * is left above it, it is 0. `zero`: the bytes are zero. */
void *pagoda_memblock_alloc(phys_addr_t size, phys_addr_t align, phys_addr_t min, phys_addr_t max,
                            bool zero);
/* The same; aborts with one line on stderr that names the caller where there is none. */
void *pagoda_memblock_alloc_or_panic(phys_addr_t size, phys_addr_t align, const char *caller);
/* Gives all whole pages of free memory to the page allocator, and closes the stage: afterwards
 * memblock answers questions, and memblock_free_late works, but nothing else. Returns bytes. */
size_t pagoda_memblock_free_all(void);
/* After memblock_free_all: gives the whole pages of a reserved range to the page allocator. 0, or
 * -EINVAL when it is not all reserved memory. */
int pagoda_memblock_free_late(phys_addr_t base, phys_addr_t size);
phys_addr_t pagoda_memblock_current_limit(void);
void pagoda_memblock_set_current_limit(phys_addr_t limit);
bool pagoda_memblock_bottom_up(void);
void pagoda_memblock_set_bottom_up(bool bottom_up);

/* The kernel's names. */

static inline int memblock_add(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_add(base, size, 0, MEMBLOCK_NONE);
}
static inline int memblock_add_node(phys_addr_t base, phys_addr_t size, int nid,
                                    enum memblock_flags flags) {
    return pagoda_memblock_add(base, size, nid, (unsigned int)flags);
}
static inline int memblock_remove(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_remove(base, size);
}
static inline int memblock_reserve(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_reserve(base, size);
}
static inline int memblock_phys_free(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_phys_free(base, size);
}
static inline void memblock_free(void *p, size_t size) {
    if (p != NULL)
        (void)pagoda_memblock_phys_free(pagoda_memblock_phys(p), size);
}
static inline void memblock_free_late(phys_addr_t base, phys_addr_t size) {
    (void)pagoda_memblock_free_late(base, size);
}
static inline void memblock_free_all(void) { (void)pagoda_memblock_free_all(); }
static inline int memblock_mark_nomap(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_mark(base, size, MEMBLOCK_NOMAP, true);
}
static inline int memblock_clear_nomap(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_mark(base, size, MEMBLOCK_NOMAP, false);
}
static inline void memblock_enforce_memory_limit(phys_addr_t limit) {
    pagoda_memblock_enforce_memory_limit(limit);
}

static inline phys_addr_t memblock_phys_alloc_range(phys_addr_t size, phys_addr_t align,
                                                    phys_addr_t start, phys_addr_t end) {
    return pagoda_memblock_phys_alloc(size, align, start, end);
}
static inline phys_addr_t memblock_phys_alloc(phys_addr_t size, phys_addr_t align) {
    return pagoda_memblock_phys_alloc(size, align, 0, MEMBLOCK_ALLOC_ACCESSIBLE);
}
static inline phys_addr_t memblock_phys_alloc_try_nid(phys_addr_t size, phys_addr_t align,
                                                      int nid) {
    (void)nid;
    return pagoda_memblock_phys_alloc(size, align, 0, MEMBLOCK_ALLOC_ACCESSIBLE);
}
static inline void *memblock_alloc_try_nid(phys_addr_t size, phys_addr_t align,
                                           phys_addr_t min_addr, phys_addr_t max_addr, int nid) {
    (void)nid;
    return pagoda_memblock_alloc(size, align, min_addr, max_addr, true);
}
static inline void *memblock_alloc_try_nid_raw(phys_addr_t size, phys_addr_t align,
                                               phys_addr_t min_addr, phys_addr_t max_addr,
                                               int nid) {
    (void)nid;
    return pagoda_memblock_alloc(size, align, min_addr, max_addr, false);
}
static inline void *memblock_alloc(phys_addr_t size, phys_addr_t align) {
    return pagoda_memblock_alloc(size, align, 0, MEMBLOCK_ALLOC_ACCESSIBLE, true);
}
static inline void *memblock_alloc_raw(phys_addr_t size, phys_addr_t align) {
    return pagoda_memblock_alloc(size, align, 0, MEMBLOCK_ALLOC_ACCESSIBLE, false);
}
static inline void *memblock_alloc_from(phys_addr_t size, phys_addr_t align, phys_addr_t min_addr) {
    return pagoda_memblock_alloc(size, align, min_addr, MEMBLOCK_ALLOC_ACCESSIBLE, true);
}
static inline void *memblock_alloc_low(phys_addr_t size, phys_addr_t align) {
    return pagoda_memblock_alloc(size, align, 0, ARCH_LOW_ADDRESS_LIMIT, true);
}
static inline void *memblock_alloc_node(phys_addr_t size, phys_addr_t align, int nid) {
    return memblock_alloc_try_nid(size, align, 0, MEMBLOCK_ALLOC_ACCESSIBLE, nid);
}
#define memblock_alloc_or_panic(size, align) pagoda_memblock_alloc_or_panic(size, align, __func__)

static inline bool memblock_is_memory(phys_addr_t address) {
    return pagoda_memblock_covers(PAGODA_MEMBLOCK_MEMORY, address, 1);
}
static inline bool memblock_is_reserved(phys_addr_t address) {
    return pagoda_memblock_covers(PAGODA_MEMBLOCK_RESERVED, address, 1);
}
/* Memory that is not MEMBLOCK_NOMAP. */
bool pagoda_memblock_is_map_memory(phys_addr_t address);
static inline bool memblock_is_map_memory(phys_addr_t address) {
    return pagoda_memblock_is_map_memory(address);
}
static inline bool memblock_is_region_memory(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_covers(PAGODA_MEMBLOCK_MEMORY, base, size);
}
static inline bool memblock_is_region_reserved(phys_addr_t base, phys_addr_t size) {
    return pagoda_memblock_overlaps(PAGODA_MEMBLOCK_RESERVED, base, size);
}
static inline phys_addr_t memblock_phys_mem_size(void) {
    return pagoda_memblock_bytes(PAGODA_MEMBLOCK_MEMORY);
}
static inline phys_addr_t memblock_reserved_size(void) {
    return pagoda_memblock_bytes(PAGODA_MEMBLOCK_RESERVED);
}
/* The first address of memory, and the one behind its last; 0 where there is none. */
phys_addr_t pagoda_memblock_start(void);
phys_addr_t pagoda_memblock_end(void);
static inline phys_addr_t memblock_start_of_DRAM(void) { return pagoda_memblock_start(); }
static inline phys_addr_t memblock_end_of_DRAM(void) { return pagoda_memblock_end(); }
static inline phys_addr_t memblock_get_current_limit(void) {
    return pagoda_memblock_current_limit();
}
static inline void memblock_set_current_limit(phys_addr_t limit) {
    pagoda_memblock_set_current_limit(limit);
}
static inline bool memblock_bottom_up(void) { return pagoda_memblock_bottom_up(); }
static inline void memblock_set_bottom_up(bool enable) { pagoda_memblock_set_bottom_up(enable); }

/* Loops over ranges in ascending order. i is a uint64_t of the caller's, p_start, p_end and p_nid
 * are pointers that may be NULL. Ranges must not be changed inside. */
#define for_each_mem_range(i, p_start, p_end)                                                      \
    for ((i) = 0; pagoda_memblock_next(PAGODA_MEMBLOCK_MEMORY, &(i), p_start, p_end, NULL);)
#define for_each_reserved_mem_range(i, p_start, p_end)                                             \
    for ((i) = 0; pagoda_memblock_next(PAGODA_MEMBLOCK_RESERVED, &(i), p_start, p_end, NULL);)
/* `nid` and `flags` choose nothing. */
#define for_each_free_mem_range(i, nid, flags, p_start, p_end, p_nid)                              \
    for ((i) = 0; pagoda_memblock_next(PAGODA_MEMBLOCK_FREE, &(i), p_start, p_end, p_nid);)

/* The contiguous area: memory for large buffers that come and go while the program runs, in one
 * piece that was set aside before anything could break it up. */

/* Sets `bytes` (rounded up to 2 MiB) aside as the contiguous area, as the option contig=SIZE does
 * at start. 0, -EINVAL (no bytes), -ENOMEM, or -EBUSY when there is one. Blocks. */
int pagoda_contig_reserve(size_t bytes);
/* `bytes`, rounded up to pages, at a multiple of `align` (a power of two up to 1 GiB; a page at
 * least); the lowest there are. Contents are what was there before. NULL when there is no such
 * room. Any context. */
void *pagoda_contig_alloc(size_t bytes, size_t align)
    __attribute__((malloc, alloc_size(1), warn_unused_result));
/* Takes it back. NULL is ignored; anything else that contig_alloc did not return is reported as
 * misuse. Any context. */
void pagoda_contig_free(void *p);
/* Bytes that are free, and the largest allocation that would succeed. */
size_t pagoda_contig_avail(void);
size_t pagoda_contig_largest(void);

#ifdef __cplusplus
}
#endif

#endif
