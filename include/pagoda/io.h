/* Device memory: mapping BARs, reading and writing registers, barriers.
 *
 * What is mapped here is uncached memory of a device: every access is one transaction of exactly
 * its width, never merged, repeated or left out. A read of a register (readl) is complete before
 * anything that follows it in the program; a write (writel) reaches the device after everything
 * that precedes it, stores to ordinary memory included: fill in a descriptor, then ring the
 * doorbell. The _relaxed forms are ordered among themselves for one device alone. Values are
 * little-endian, as PCI is; the be forms swap.
 *
 * Source: include/linux/io.h, include/asm-generic/io.h and Documentation/memory-barriers.txt of the
 * kernel.
 */
#ifndef PAGODA_IO_H
#define PAGODA_IO_H

#include <pagoda/device.h>
#include <pagoda/ioport.h>

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "device registers are little-endian, and so must the processor be"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifndef __iomem
#define __iomem
#endif

/* Mapping. `phys` is the bus address of a BAR of an open device (pci_resource_start), or lies in
 * one; all of the range must. Other physical addresses belong to the kernel and are refused. */

/* An uncached mapping of `size` bytes. NULL: not in a BAR (ENXIO), or one that cannot be mapped
 * (EOPNOTSUPP: ports, less than a page, the MSI-X table); pagoda_device_error() says what to do.
 * Each call makes a mapping of its own. May block. */
void *pagoda_ioremap(resource_size_t phys, size_t size);
/* A write-combining one: stores to it are gathered until wmb(). VFIO itself maps uncached only, so
 * this needs the system's resourceN_wc file (a prefetchable BAR, and permission). NULL with
 * EOPNOTSUPP where that is not to be had: use the uncached one. May block. */
void *pagoda_ioremap_wc(resource_size_t phys, size_t size);
/* Refuses, always, with EOPNOTSUPP: device memory is never cached here. */
void *pagoda_ioremap_cached(resource_size_t phys, size_t size);
/* Ends a mapping of ioremap, pci_iomap and the like; NULL is ignored. Of anything else it says
 * EINVAL and leaves it alone. May block. */
void pagoda_iounmap(const volatile void *addr);

/* Copies with accesses of 4 bytes, naturally aligned on the device's side, and of 1 and 2 bytes up
 * to the first and after the last such place: what every device understands. No vector registers,
 * no string instructions, any alignment in memory. */
void pagoda_memcpy_fromio(void *to, const volatile void __iomem *from, size_t count);
void pagoda_memcpy_toio(volatile void __iomem *to, const void *from, size_t count);
void pagoda_memset_io(volatile void __iomem *at, int value, size_t count);

/* Barriers. mb, rmb and wmb order all accesses, those to devices and write-combining memory
 * included; the dma_ ones order accesses to memory that a device shares coherently. */
#if defined(__x86_64__) || defined(__i386__)
#define mb() __asm__ __volatile__("mfence" ::: "memory")
#define rmb() __asm__ __volatile__("lfence" ::: "memory")
#define wmb() __asm__ __volatile__("sfence" ::: "memory")
#define dma_rmb() __asm__ __volatile__("" ::: "memory")
#define dma_wmb() __asm__ __volatile__("" ::: "memory")
#define dma_mb() mb()
/* Between a read of a device and what follows, between what precedes and a write to one: the
 * processor keeps these orders by itself for uncached memory. */
#define PAGODA_IO_AFTER_READ() __asm__ __volatile__("" ::: "memory")
#define PAGODA_IO_BEFORE_WRITE() __asm__ __volatile__("" ::: "memory")
#elif defined(__aarch64__)
#define mb() __asm__ __volatile__("dsb sy" ::: "memory")
#define rmb() __asm__ __volatile__("dsb ld" ::: "memory")
#define wmb() __asm__ __volatile__("dsb st" ::: "memory")
#define dma_rmb() __asm__ __volatile__("dmb oshld" ::: "memory")
#define dma_wmb() __asm__ __volatile__("dmb oshst" ::: "memory")
#define dma_mb() __asm__ __volatile__("dmb osh" ::: "memory")
#define PAGODA_IO_AFTER_READ() __asm__ __volatile__("dmb oshld" ::: "memory")
#define PAGODA_IO_BEFORE_WRITE() __asm__ __volatile__("dmb oshst" ::: "memory")
#else
#define mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define rmb() mb()
#define wmb() mb()
#define dma_rmb() mb()
#define dma_wmb() mb()
#define dma_mb() mb()
#define PAGODA_IO_AFTER_READ() mb()
#define PAGODA_IO_BEFORE_WRITE() mb()
#endif
/* Writes to a device made under a lock reach it in the order of the lock: nothing is needed here.
 */
#define mmiowb() ((void)0)

/* One access of exactly this width. */
#define PAGODA_IO_ACCESS(letter, type)                                                             \
    static inline type read##letter##_relaxed(const volatile void __iomem *addr) {                 \
        return *(const volatile type *)addr;                                                       \
    }                                                                                              \
    static inline void write##letter##_relaxed(type value, volatile void __iomem *addr) {          \
        *(volatile type *)addr = value;                                                            \
    }                                                                                              \
    static inline type read##letter(const volatile void __iomem *addr) {                           \
        type value = *(const volatile type *)addr;                                                 \
        PAGODA_IO_AFTER_READ();                                                                    \
        return value;                                                                              \
    }                                                                                              \
    static inline void write##letter(type value, volatile void __iomem *addr) {                    \
        PAGODA_IO_BEFORE_WRITE();                                                                  \
        *(volatile type *)addr = value;                                                            \
        __asm__ __volatile__("" ::: "memory");                                                     \
    }                                                                                              \
    /* The same register `count` times: a FIFO. */                                                 \
    static inline void reads##letter(const volatile void __iomem *addr, void *buffer,              \
                                     unsigned int count) {                                         \
        for (unsigned int i = 0; i < count; i++) {                                                 \
            type value = read##letter##_relaxed(addr);                                             \
            __builtin_memcpy((char *)buffer + i * sizeof value, &value, sizeof value);             \
        }                                                                                          \
        PAGODA_IO_AFTER_READ();                                                                    \
    }                                                                                              \
    static inline void writes##letter(volatile void __iomem *addr, const void *buffer,             \
                                      unsigned int count) {                                        \
        PAGODA_IO_BEFORE_WRITE();                                                                  \
        for (unsigned int i = 0; i < count; i++) {                                                 \
            type value;                                                                            \
            __builtin_memcpy(&value, (const char *)buffer + i * sizeof value, sizeof value);       \
            write##letter##_relaxed(value, addr);                                                  \
        }                                                                                          \
    }
PAGODA_IO_ACCESS(b, uint8_t)
PAGODA_IO_ACCESS(w, uint16_t)
PAGODA_IO_ACCESS(l, uint32_t)
PAGODA_IO_ACCESS(q, uint64_t)
#undef PAGODA_IO_ACCESS

/* The kernel's other family, by bits. Its I/O ports are not supported: addresses are of mappings.
 */
#define PAGODA_IO_BITS(bits, letter, swap)                                                         \
    static inline uint##bits##_t ioread##bits(const volatile void __iomem *addr) {                 \
        return read##letter(addr);                                                                 \
    }                                                                                              \
    static inline void iowrite##bits(uint##bits##_t value, volatile void __iomem *addr) {          \
        write##letter(value, addr);                                                                \
    }                                                                                              \
    static inline void ioread##bits##_rep(const volatile void __iomem *addr, void *buffer,         \
                                          unsigned long count) {                                   \
        reads##letter(addr, buffer, (unsigned int)count);                                          \
    }                                                                                              \
    static inline void iowrite##bits##_rep(volatile void __iomem *addr, const void *buffer,        \
                                           unsigned long count) {                                  \
        writes##letter(addr, buffer, (unsigned int)count);                                         \
    }                                                                                              \
    PAGODA_IO_BITS_##swap(bits, letter)
#define PAGODA_IO_BITS_none(bits, letter)
#define PAGODA_IO_BITS_swap(bits, letter)                                                          \
    static inline uint##bits##_t ioread##bits##be(const volatile void __iomem *addr) {             \
        return __builtin_bswap##bits(read##letter(addr));                                          \
    }                                                                                              \
    static inline void iowrite##bits##be(uint##bits##_t value, volatile void __iomem *addr) {      \
        write##letter(__builtin_bswap##bits(value), addr);                                         \
    }
PAGODA_IO_BITS(8, b, none)
PAGODA_IO_BITS(16, w, swap)
PAGODA_IO_BITS(32, l, swap)
PAGODA_IO_BITS(64, q, swap)
#undef PAGODA_IO_BITS
#undef PAGODA_IO_BITS_none
#undef PAGODA_IO_BITS_swap

/* The kernel's names of the functions above. */

static inline void __iomem *ioremap(resource_size_t phys, size_t size) {
    return pagoda_ioremap(phys, size);
}
static inline void __iomem *ioremap_uc(resource_size_t phys, size_t size) {
    return pagoda_ioremap(phys, size);
}
/* Non-posted writes: what the processor does with uncached memory is all there is. */
static inline void __iomem *ioremap_np(resource_size_t phys, size_t size) {
    return pagoda_ioremap(phys, size);
}
static inline void __iomem *ioremap_wc(resource_size_t phys, size_t size) {
    return pagoda_ioremap_wc(phys, size);
}
static inline void __iomem *ioremap_wt(resource_size_t phys, size_t size) {
    return pagoda_ioremap_cached(phys, size);
}
static inline void __iomem *ioremap_cache(resource_size_t phys, size_t size) {
    return pagoda_ioremap_cached(phys, size);
}
static inline void iounmap(const volatile void __iomem *addr) { pagoda_iounmap(addr); }
static inline void memcpy_fromio(void *to, const volatile void __iomem *from, size_t count) {
    pagoda_memcpy_fromio(to, from, count);
}
static inline void memcpy_toio(volatile void __iomem *to, const void *from, size_t count) {
    pagoda_memcpy_toio(to, from, count);
}
static inline void memset_io(volatile void __iomem *at, int value, size_t count) {
    pagoda_memset_io(at, value, count);
}

#ifdef __cplusplus
}
#endif

#endif
