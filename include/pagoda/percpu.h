/* Memory with a copy for each CPU, for counters and caches that threads update without disturbing
 * each other.
 *
 * A CPU is here what Pagoda's own caches are indexed by (option percpu): the kernel's concurrency
 * id of a running thread, or its CPU's number. Numbers run from 0 to num_possible_cpus() - 1. The
 * last one is no CPU's: threads that the kernel has no rseq area for share it, and their operations
 * are atomic instructions. Where no thread has one, each thread keeps to one of the numbers, which
 * others may share, in the same way.
 *
 * The operations this_cpu_* are done as a whole on the copy of the CPU that the thread is on at
 * that moment: neither another thread nor a signal handler can come in between. Integers and
 * pointers of 1, 2, 4 or 8 bytes. A pointer from this_cpu_ptr says nothing about where the thread
 * is when it is used: threads cannot switch preemption off. What is written through one may meet
 * other threads.
 *
 * Everything but allocating may be done in any context. There are no static variables per CPU
 * (DEFINE_PER_CPU); allocate at start.
 *
 * Source: include/linux/percpu.h, Documentation/core-api/this_cpu_ops.rst of the kernel.
 */
#ifndef PAGODA_PERCPU_H
#define PAGODA_PERCPU_H

#include <pagoda/gfp.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes from one CPU's copy to the next one's, and the most that one allocation can have. */
#define PAGODA_PERCPU_STRIDE ((size_t)65536)
#define PCPU_MIN_UNIT_SIZE ((size_t)32768)

#ifndef __percpu
#define __percpu
#endif

/* `size` zeroed bytes for each CPU, at a multiple of `align` (a power of two up to 4096; 16 at
 * least), backed by memory. The result is CPU 0's copy, and stands for all of them. NULL when size
 * is 0 or above PCPU_MIN_UNIT_SIZE (one warning), or memory is short. Flags that may not block have
 * what earlier allocations left. */
void *pagoda_alloc_percpu(size_t size, size_t align, gfp_t gfp)
    __attribute__((malloc, alloc_size(1), warn_unused_result));
/* Frees all copies. NULL is ignored; anything else that alloc_percpu did not return is reported as
 * misuse. Any context. */
void pagoda_free_percpu(void *ptr);
/* How many copies there are, and the number of the one that this_cpu_ptr means now. */
unsigned int pagoda_cpu_count(void);
unsigned int pagoda_cpu_number(void);

/* Operations on this CPU's copy of the `size` bytes that `ptr` stands for; `size` is 1, 2, 4 or 8.
 * add, and, or return the new value, exchange and compare_exchange the old one; compare_exchange
 * stores `desired` where the old value is `expected`. */
uint64_t pagoda_this_cpu_read(const volatile void *ptr, size_t size);
void pagoda_this_cpu_write(volatile void *ptr, size_t size, uint64_t value);
uint64_t pagoda_this_cpu_add(volatile void *ptr, size_t size, uint64_t value);
uint64_t pagoda_this_cpu_and(volatile void *ptr, size_t size, uint64_t value);
uint64_t pagoda_this_cpu_or(volatile void *ptr, size_t size, uint64_t value);
uint64_t pagoda_this_cpu_exchange(volatile void *ptr, size_t size, uint64_t value);
uint64_t pagoda_this_cpu_compare_exchange(volatile void *ptr, size_t size, uint64_t expected,
                                          uint64_t desired);

/* The kernel's names. alloc_percpu takes a type and returns a pointer to it. */
static inline void *__alloc_percpu_gfp(size_t size, size_t align, gfp_t gfp) {
    return pagoda_alloc_percpu(size, align, gfp);
}
static inline void *__alloc_percpu(size_t size, size_t align) {
    return pagoda_alloc_percpu(size, align, GFP_KERNEL);
}
#define alloc_percpu_gfp(type, gfp)                                                                \
    ((__typeof__(type) __percpu *)__alloc_percpu_gfp(sizeof(type), __alignof__(type), gfp))
#define alloc_percpu(type) alloc_percpu_gfp(type, GFP_KERNEL)
static inline void free_percpu(void __percpu *ptr) { pagoda_free_percpu(ptr); }

static inline unsigned int num_possible_cpus(void) { return pagoda_cpu_count(); }
#define nr_cpu_ids pagoda_cpu_count()
static inline unsigned int smp_processor_id(void) { return pagoda_cpu_number(); }
static inline unsigned int raw_smp_processor_id(void) { return pagoda_cpu_number(); }
/* Each CPU's number in turn; `cpu` is an integer variable of the caller's. */
#define for_each_possible_cpu(cpu)                                                                 \
    for ((cpu) = 0; (unsigned int)(cpu) < pagoda_cpu_count(); (cpu)++)

/* One CPU's copy of what ptr stands for. */
static inline void *pagoda_per_cpu(const volatile void *ptr, size_t cpu) {
    return (void *)((uintptr_t)ptr + cpu * PAGODA_PERCPU_STRIDE);
}
#ifdef __cplusplus
extern "C++" template <class T> inline T *per_cpu_ptr(T *ptr, size_t cpu) {
    return (T *)pagoda_per_cpu(ptr, cpu);
}
#else
#define per_cpu_ptr(ptr, cpu) ((__typeof__(1 ? (ptr) : (ptr)))pagoda_per_cpu(ptr, (size_t)(cpu)))
#endif
#define raw_cpu_ptr(ptr) per_cpu_ptr(ptr, pagoda_cpu_number())
#define this_cpu_ptr(ptr) raw_cpu_ptr(ptr)
/* As this_cpu_ptr: nothing keeps the thread where it is until put_cpu_ptr. */
#define get_cpu_ptr(ptr) raw_cpu_ptr(ptr)
#define put_cpu_ptr(ptr) ((void)(ptr))

/* Operations on a variable per CPU: an lvalue reached through the pointer that alloc_percpu
 * returned, as in this_cpu_inc(stats->packets). */
#define this_cpu_read(pcp) ((__typeof__(pcp))pagoda_this_cpu_read(&(pcp), sizeof(pcp)))
#define this_cpu_write(pcp, value) pagoda_this_cpu_write(&(pcp), sizeof(pcp), (uint64_t)(value))
#define this_cpu_add(pcp, value) ((void)this_cpu_add_return(pcp, value))
#define this_cpu_sub(pcp, value) this_cpu_add(pcp, 0 - (uint64_t)(value))
#define this_cpu_inc(pcp) this_cpu_add(pcp, 1)
#define this_cpu_dec(pcp) this_cpu_sub(pcp, 1)
#define this_cpu_and(pcp, value) ((void)pagoda_this_cpu_and(&(pcp), sizeof(pcp), (uint64_t)(value)))
#define this_cpu_or(pcp, value) ((void)pagoda_this_cpu_or(&(pcp), sizeof(pcp), (uint64_t)(value)))
#define this_cpu_add_return(pcp, value)                                                            \
    ((__typeof__(pcp))pagoda_this_cpu_add(&(pcp), sizeof(pcp), (uint64_t)(value)))
#define this_cpu_sub_return(pcp, value) this_cpu_add_return(pcp, 0 - (uint64_t)(value))
#define this_cpu_inc_return(pcp) this_cpu_add_return(pcp, 1)
#define this_cpu_dec_return(pcp) this_cpu_sub_return(pcp, 1)
#define this_cpu_xchg(pcp, value)                                                                  \
    ((__typeof__(pcp))pagoda_this_cpu_exchange(&(pcp), sizeof(pcp), (uint64_t)(value)))
#define this_cpu_cmpxchg(pcp, expected, desired)                                                   \
    ((__typeof__(pcp))pagoda_this_cpu_compare_exchange(&(pcp), sizeof(pcp), (uint64_t)(expected),  \
                                                       (uint64_t)(desired)))
/* The kernel's forms for callers that have switched preemption off: no cheaper here. */
#define raw_cpu_read(pcp) this_cpu_read(pcp)
#define raw_cpu_write(pcp, value) this_cpu_write(pcp, value)
#define raw_cpu_add(pcp, value) this_cpu_add(pcp, value)
#define raw_cpu_inc(pcp) this_cpu_inc(pcp)
#define raw_cpu_dec(pcp) this_cpu_dec(pcp)
#define __this_cpu_read(pcp) this_cpu_read(pcp)
#define __this_cpu_write(pcp, value) this_cpu_write(pcp, value)
#define __this_cpu_add(pcp, value) this_cpu_add(pcp, value)
#define __this_cpu_inc(pcp) this_cpu_inc(pcp)
#define __this_cpu_dec(pcp) this_cpu_dec(pcp)

#ifdef __cplusplus
}
#endif

#endif
