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

/* One access of exactly this width to a mapping of device memory, in order with other relaxed ones
 * to the same device only. */
static inline uint8_t readb_relaxed(const volatile void __iomem *addr) {
    return *(const volatile uint8_t *)addr;
}
static inline uint16_t readw_relaxed(const volatile void __iomem *addr) {
    return *(const volatile uint16_t *)addr;
}
static inline uint32_t readl_relaxed(const volatile void __iomem *addr) {
    return *(const volatile uint32_t *)addr;
}
static inline uint64_t readq_relaxed(const volatile void __iomem *addr) {
    return *(const volatile uint64_t *)addr;
}
static inline void writeb_relaxed(uint8_t value, volatile void __iomem *addr) {
    *(volatile uint8_t *)addr = value;
}
static inline void writew_relaxed(uint16_t value, volatile void __iomem *addr) {
    *(volatile uint16_t *)addr = value;
}
static inline void writel_relaxed(uint32_t value, volatile void __iomem *addr) {
    *(volatile uint32_t *)addr = value;
}
static inline void writeq_relaxed(uint64_t value, volatile void __iomem *addr) {
    *(volatile uint64_t *)addr = value;
}

/* One read of exactly this width. What stands behind it in the program happens after it: memory
 * that the device has announced by it may be read. */
static inline uint8_t readb(const volatile void __iomem *addr) {
    uint8_t value = *(const volatile uint8_t *)addr;
    PAGODA_IO_AFTER_READ();
    return value;
}
static inline uint16_t readw(const volatile void __iomem *addr) {
    uint16_t value = *(const volatile uint16_t *)addr;
    PAGODA_IO_AFTER_READ();
    return value;
}
static inline uint32_t readl(const volatile void __iomem *addr) {
    uint32_t value = *(const volatile uint32_t *)addr;
    PAGODA_IO_AFTER_READ();
    return value;
}
static inline uint64_t readq(const volatile void __iomem *addr) {
    uint64_t value = *(const volatile uint64_t *)addr;
    PAGODA_IO_AFTER_READ();
    return value;
}

/* One write of exactly this width. The device sees it after what the program has written to memory
 * before: descriptors first, then the doorbell. */
static inline void writeb(uint8_t value, volatile void __iomem *addr) {
    PAGODA_IO_BEFORE_WRITE();
    *(volatile uint8_t *)addr = value;
    __asm__ __volatile__("" ::: "memory");
}
static inline void writew(uint16_t value, volatile void __iomem *addr) {
    PAGODA_IO_BEFORE_WRITE();
    *(volatile uint16_t *)addr = value;
    __asm__ __volatile__("" ::: "memory");
}
static inline void writel(uint32_t value, volatile void __iomem *addr) {
    PAGODA_IO_BEFORE_WRITE();
    *(volatile uint32_t *)addr = value;
    __asm__ __volatile__("" ::: "memory");
}
static inline void writeq(uint64_t value, volatile void __iomem *addr) {
    PAGODA_IO_BEFORE_WRITE();
    *(volatile uint64_t *)addr = value;
    __asm__ __volatile__("" ::: "memory");
}

/* The same register `count` times, into or out of `buffer`: a FIFO. */
static inline void readsb(const volatile void __iomem *addr, void *buffer, unsigned int count) {
    for (unsigned int i = 0; i < count; i++) {
        uint8_t value = readb_relaxed(addr);
        __builtin_memcpy((char *)buffer + i * sizeof value, &value, sizeof value);
    }
    PAGODA_IO_AFTER_READ();
}
static inline void readsw(const volatile void __iomem *addr, void *buffer, unsigned int count) {
    for (unsigned int i = 0; i < count; i++) {
        uint16_t value = readw_relaxed(addr);
        __builtin_memcpy((char *)buffer + i * sizeof value, &value, sizeof value);
    }
    PAGODA_IO_AFTER_READ();
}
static inline void readsl(const volatile void __iomem *addr, void *buffer, unsigned int count) {
    for (unsigned int i = 0; i < count; i++) {
        uint32_t value = readl_relaxed(addr);
        __builtin_memcpy((char *)buffer + i * sizeof value, &value, sizeof value);
    }
    PAGODA_IO_AFTER_READ();
}
static inline void readsq(const volatile void __iomem *addr, void *buffer, unsigned int count) {
    for (unsigned int i = 0; i < count; i++) {
        uint64_t value = readq_relaxed(addr);
        __builtin_memcpy((char *)buffer + i * sizeof value, &value, sizeof value);
    }
    PAGODA_IO_AFTER_READ();
}
static inline void writesb(volatile void __iomem *addr, const void *buffer, unsigned int count) {
    PAGODA_IO_BEFORE_WRITE();
    for (unsigned int i = 0; i < count; i++) {
        uint8_t value;
        __builtin_memcpy(&value, (const char *)buffer + i * sizeof value, sizeof value);
        writeb_relaxed(value, addr);
    }
}
static inline void writesw(volatile void __iomem *addr, const void *buffer, unsigned int count) {
    PAGODA_IO_BEFORE_WRITE();
    for (unsigned int i = 0; i < count; i++) {
        uint16_t value;
        __builtin_memcpy(&value, (const char *)buffer + i * sizeof value, sizeof value);
        writew_relaxed(value, addr);
    }
}
static inline void writesl(volatile void __iomem *addr, const void *buffer, unsigned int count) {
    PAGODA_IO_BEFORE_WRITE();
    for (unsigned int i = 0; i < count; i++) {
        uint32_t value;
        __builtin_memcpy(&value, (const char *)buffer + i * sizeof value, sizeof value);
        writel_relaxed(value, addr);
    }
}
static inline void writesq(volatile void __iomem *addr, const void *buffer, unsigned int count) {
    PAGODA_IO_BEFORE_WRITE();
    for (unsigned int i = 0; i < count; i++) {
        uint64_t value;
        __builtin_memcpy(&value, (const char *)buffer + i * sizeof value, sizeof value);
        writeq_relaxed(value, addr);
    }
}

/* The kernel's other family, by bits: as readb() and its like. Its I/O ports are not supported:
 * addresses are of mappings. */
static inline uint8_t ioread8(const volatile void __iomem *addr) { return readb(addr); }
static inline uint16_t ioread16(const volatile void __iomem *addr) { return readw(addr); }
static inline uint32_t ioread32(const volatile void __iomem *addr) { return readl(addr); }
static inline uint64_t ioread64(const volatile void __iomem *addr) { return readq(addr); }
static inline void iowrite8(uint8_t value, volatile void __iomem *addr) { writeb(value, addr); }
static inline void iowrite16(uint16_t value, volatile void __iomem *addr) { writew(value, addr); }
static inline void iowrite32(uint32_t value, volatile void __iomem *addr) { writel(value, addr); }
static inline void iowrite64(uint64_t value, volatile void __iomem *addr) { writeq(value, addr); }

/* The same register `count` times. */
static inline void ioread8_rep(const volatile void __iomem *addr, void *buffer,
                               unsigned long count) {
    readsb(addr, buffer, (unsigned int)count);
}
static inline void ioread16_rep(const volatile void __iomem *addr, void *buffer,
                                unsigned long count) {
    readsw(addr, buffer, (unsigned int)count);
}
static inline void ioread32_rep(const volatile void __iomem *addr, void *buffer,
                                unsigned long count) {
    readsl(addr, buffer, (unsigned int)count);
}
static inline void ioread64_rep(const volatile void __iomem *addr, void *buffer,
                                unsigned long count) {
    readsq(addr, buffer, (unsigned int)count);
}
static inline void iowrite8_rep(volatile void __iomem *addr, const void *buffer,
                                unsigned long count) {
    writesb(addr, buffer, (unsigned int)count);
}
static inline void iowrite16_rep(volatile void __iomem *addr, const void *buffer,
                                 unsigned long count) {
    writesw(addr, buffer, (unsigned int)count);
}
static inline void iowrite32_rep(volatile void __iomem *addr, const void *buffer,
                                 unsigned long count) {
    writesl(addr, buffer, (unsigned int)count);
}
static inline void iowrite64_rep(volatile void __iomem *addr, const void *buffer,
                                 unsigned long count) {
    writesq(addr, buffer, (unsigned int)count);
}

/* Of a big-endian register. */
static inline uint16_t ioread16be(const volatile void __iomem *addr) {
    return __builtin_bswap16(readw(addr));
}
static inline uint32_t ioread32be(const volatile void __iomem *addr) {
    return __builtin_bswap32(readl(addr));
}
static inline uint64_t ioread64be(const volatile void __iomem *addr) {
    return __builtin_bswap64(readq(addr));
}
static inline void iowrite16be(uint16_t value, volatile void __iomem *addr) {
    writew(__builtin_bswap16(value), addr);
}
static inline void iowrite32be(uint32_t value, volatile void __iomem *addr) {
    writel(__builtin_bswap32(value), addr);
}
static inline void iowrite64be(uint64_t value, volatile void __iomem *addr) {
    writeq(__builtin_bswap64(value), addr);
}

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
