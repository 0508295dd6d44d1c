/* Copies that survive bad addresses: what the kernel's *_user() functions are to a driver. "User"
 * memory is memory whose address the caller does not trust, in this process; there is no second
 * address space. An address that is not mapped, or not mapped for this access, ends the copy
 * instead of the process. No signal handler is installed: the system's own checked copy
 * (process_vm_readv) does it, at the price of system calls: 1.8 microseconds for 64 bytes in a VM.
 *
 * The trusted side is the caller's own and must be valid, as in the kernel.
 *
 * Memory that the system does not copy for others counts as bad: mapped device registers (a VFIO
 * BAR), memfd_secret. Where a sandbox refuses process_vm_readv with an error, a pipe serves
 * instead; where it refuses that as well, nothing is copied.
 *
 * Any context, signal handlers too: no function here takes a lock or allocates. None sets errno.
 *
 * Source: include/linux/uaccess.h of the kernel and "Unreliable Guide To Hacking The Linux Kernel".
 */
#ifndef PAGODA_UACCESS_H
#define PAGODA_UACCESS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Marks an untrusted pointer, for readers. */
#ifndef __user
#define __user
#endif

/* Copies `n` bytes from untrusted memory. Returns how many could not be copied, 0 for success. The
 * bytes before the first bad address have been copied; the rest of `to` is zeroed. */
unsigned long pagoda_copy_from_user(void *to, const void __user *from, unsigned long n);
/* Copies `n` bytes to untrusted memory. Returns how many could not be copied. */
unsigned long pagoda_copy_to_user(void __user *to, const void *from, unsigned long n);
/* Zeroes `n` bytes of untrusted memory. Returns how many could not be zeroed. */
unsigned long pagoda_clear_user(void __user *to, unsigned long n);
static inline unsigned long copy_from_user(void *to, const void __user *from, unsigned long n) {
    return pagoda_copy_from_user(to, from, n);
}
static inline unsigned long copy_to_user(void __user *to, const void *from, unsigned long n) {
    return pagoda_copy_to_user(to, from, n);
}
static inline unsigned long clear_user(void __user *to, unsigned long n) {
    return pagoda_clear_user(to, n);
}

/* Copies a string of untrusted memory into `to`, at most `count` bytes with its NUL. Returns its
 * length without the NUL; `count` where that many bytes hold no NUL (`to` is not terminated then);
 * -EFAULT where a bad address comes first. What lies in `to` behind the NUL is unspecified. */
long pagoda_strncpy_from_user(char *to, const char __user *from, long count);
/* The size of a string of untrusted memory with its NUL; more than `count` where that many bytes
 * hold no NUL; 0 where a bad address comes first. */
long pagoda_strnlen_user(const char __user *string, long count);
static inline long strncpy_from_user(char *to, const char __user *from, long count) {
    return pagoda_strncpy_from_user(to, from, count);
}
static inline long strnlen_user(const char __user *string, long count) {
    return pagoda_strnlen_user(string, count);
}

/* A structure that has grown over time: `ksize` bytes are known here, the caller passed `usize`.
 * What the caller does not have reads as zero; what is not known here must be zero.
 * 0, -EFAULT, or -E2BIG for a later version's field that is set. */
int pagoda_copy_struct_from_user(void *to, size_t ksize, const void __user *from, size_t usize);
static inline int copy_struct_from_user(void *to, size_t ksize, const void __user *from,
                                        size_t usize) {
    return pagoda_copy_struct_from_user(to, ksize, from, usize);
}

/* Reads one integer or pointer of 1, 2, 4 or 8 bytes from untrusted memory into x.
 * 0, or -EFAULT and x is 0. */
#define get_user(x, pointer)                                                                       \
    __extension__({                                                                                \
        typedef __typeof__(*(pointer)) __attribute__((may_alias)) pagoda_type_;                    \
        unsigned char pagoda_bytes_[sizeof(pagoda_type_)] __attribute__((aligned));                \
        unsigned long pagoda_left_ =                                                               \
            pagoda_copy_from_user(pagoda_bytes_, (pointer), sizeof(pagoda_type_));                 \
        if (pagoda_left_ != 0)                                                                     \
            memset(pagoda_bytes_, 0, sizeof pagoda_bytes_);                                        \
        (x) = *(const pagoda_type_ *)(const void *)pagoda_bytes_;                                  \
        pagoda_left_ == 0 ? 0 : -EFAULT;                                                           \
    })
/* Writes x to untrusted memory, as a value of the type that pointer points to. 0 or -EFAULT. */
#define put_user(x, pointer)                                                                       \
    __extension__({                                                                                \
        __typeof__(*(pointer)) pagoda_value_ = (x);                                                \
        pagoda_copy_to_user((pointer), &pagoda_value_, sizeof pagoda_value_) == 0 ? 0 : -EFAULT;   \
    })

/* 0 or -EFAULT, all bytes or an unspecified part of them: for debuggers and walkers of lists that
 * may be broken. */
static inline long copy_from_kernel_nofault(void *to, const void *from, size_t size) {
    return pagoda_copy_from_user(to, from, size) == 0 ? 0 : -EFAULT;
}
static inline long copy_to_kernel_nofault(void *to, const void *from, size_t size) {
    return pagoda_copy_to_user(to, from, size) == 0 ? 0 : -EFAULT;
}
static inline long copy_from_user_nofault(void *to, const void __user *from, size_t size) {
    return copy_from_kernel_nofault(to, from, size);
}
static inline long copy_to_user_nofault(void __user *to, const void *from, size_t size) {
    return copy_to_kernel_nofault(to, from, size);
}

/* False only where [address, address + size) wraps around or leaves the addresses that a process
 * can have; whether memory is there is found by the copy alone. */
static inline bool access_ok(const void __user *address, unsigned long size) {
    const unsigned long limit = ~0UL >> (sizeof(long) == 8 ? 8 : 0);
    return size <= limit && (uintptr_t)address <= limit - size;
}

/* Another process's memory. Bytes copied: fewer than `n` where a bad address follows; -EFAULT where
 * the first one is bad, -ESRCH for no such process, -EPERM where ptrace(2)'s rules forbid it, and
 * -ENOSYS where the system has no such call. */
ssize_t pagoda_copy_from_process(pid_t process, void *to, const void *from, size_t n);
ssize_t pagoda_copy_to_process(pid_t process, void *to, const void *from, size_t n);

#ifdef __cplusplus
}
#endif

#endif
