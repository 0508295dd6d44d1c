// The one place that talks to the kernel. Raw system calls: they neither touch errno nor pass
// through a program's own mmap or madvise wrappers. Each function states what it does with errors.
#pragma once

#include "hugepage/base.h"

#include <atomic>

namespace pagoda::sys {

// Result of a raw call: a value, or -errno in [-4095, -1].
constexpr bool failed(long r) {
    return static_cast<unsigned long>(r) >= static_cast<unsigned long>(-4095L);
}

// Memory.
// Private anonymous read-write pages exactly at `at`, where nothing is mapped. 0, or -EEXIST when
// something is mapped there (the caller looks elsewhere), -ENOMEM at a limit, -EPERM, -EAGAIN.
int map_at(uintptr_t at, size_t len);
// The same, backed by hugetlb pages of 1 << shift bytes; the pool's pages are reserved at once.
int map_hugetlb_at(uintptr_t at, size_t len, unsigned shift);
// Inaccessible placeholder at `at`, where nothing is mapped. Same errors as map_at.
int reserve_at(uintptr_t at, size_t len);
// Makes the mapping that ends at `end` longer in place, keeping its name and hints. 0 or -errno.
int extend(uintptr_t end, size_t grow);
// The same pages as map_at's, over what is mapped at `at`, which is the caller's. 0 or -errno.
int map_over(uintptr_t at, size_t len);
// Moves page tables: the pages [from, from+len) become the first of [to, to+to_len); whatever is
// mapped at `to` is replaced. 0 or -errno (nothing changed).
int move_pages(uintptr_t from, size_t len, uintptr_t to, size_t to_len);
// Unmaps. Failure (a VMA split at vm.max_map_count) leaves the range mapped: -errno.
int unmap(uintptr_t at, size_t len);
// Gives the contents back to the kernel. 0: a private anonymous page reads as zero afterwards;
// -errno (mlocked memory): the old bytes are still there.
int discard(uintptr_t at, size_t len);
// Marks pages as the first to be swapped out, or swaps them out now. 0 or -errno.
int make_cold(uintptr_t at, size_t len, bool now);
// Touches every page for writing in one call. 0, or -errno where the kernel is too old or out of
// memory; nothing depends on it.
int populate(uintptr_t at, size_t len);
// The same for reading: maps what is in the page cache or is zero.
int populate_read(uintptr_t at, size_t len);
// THP hints; failure is ignored: a kernel without THP has base pages, which is what it has.
void hint_huge(uintptr_t at, size_t len, bool on);
// Leaves the range out of the children of fork. 0 or -errno.
int keep_from_children(uintptr_t at, size_t len);
// Shows `name` in /proc/self/maps where the kernel can (5.17); otherwise nothing happens.
void name_range(uintptr_t at, size_t len, const char *name);

// Waiting.
void futex_wait(std::atomic<uint32_t> &word, uint32_t expected); // spurious returns are normal
// The same for at most `ms` milliseconds.
void futex_wait_for(std::atomic<uint32_t> &word, uint32_t expected, uint32_t ms);
void futex_wake(std::atomic<uint32_t> &word, int count);
void nap(uint32_t us); // about; a signal may end it early

// The machine and the process.
size_t page_size();   // of the OS, read at run time
uint32_t cpu_slots(); // an upper bound of every CPU number and mm_cid + 1
// The last CPU of a list as in /sys ("0-3,8-11") + 1; 0 for none.
uint32_t cpus_in_list(const char *list, long length);
bool single_node();      // false where memory is not uniform, or when that cannot be known
uint64_t total_memory(); // of the machine, with swap, in bytes
unsigned long auxv(unsigned long type); // getauxval
uint64_t random_bits();                 // for address space layout only
uint64_t now_ms();                      // monotonic, coarse: no system call where there is a vDSO
int pid();
// The soft limit of an RLIMIT_* in bytes; all ones where there is none.
uint64_t resource_limit(int resource);
// Whether this process is without a seccomp filter, as far as can be known by openat and read,
// which glibc's malloc calls too. Where there is one, any call that glibc's malloc does not make
// may be the end of the process.
bool unfiltered();
// membarrier(PRIVATE_EXPEDITED_RSEQ): after it no rseq section that began earlier can commit.
// False when the kernel has no such call.
bool rseq_fence();

// Memory with a file behind it, which can be mapped more than once.
// An empty file in memory that closes on exec. Its descriptor (3 or above) or -errno.
int memfd(const char *name);
// The same of hugetlb pages of 1 << shift bytes, which reserve_in_file() takes from the pool.
int memfd_hugetlb(const char *name, unsigned shift);
int duplicate(int fd);     // likewise
int64_t file_size(int fd); // or -errno
int set_file_size(int fd, uint64_t bytes);
// Memory for a part of the file, now: touching it later cannot fail. 0 or -errno (-ENOSPC too).
int reserve_in_file(int fd, uint64_t offset, uint64_t bytes);
// Gives the memory of a part of the file back, which reads as zero afterwards. 0 or -errno.
int discard_in_file(int fd, uint64_t offset, uint64_t bytes);
// Shared pages of the file at `at`; what is mapped there, which is the caller's, is replaced.
// 0 or -errno.
int map_file_over(uintptr_t at, size_t len, int prot, int fd, uint64_t offset);
// Inaccessible addresses of the kernel's choice. Or -errno, by failed().
long reserve_anywhere(size_t len);
// Makes a part of such a reservation inaccessible again. 0 or -errno.
int hide(uintptr_t at, size_t len);

// Copies that check addresses.
// Between this process's memory and `remote` in that process (its pid may be this one's). Bytes
// copied, fewer where an address is bad, or -errno: -EFAULT, -EPERM, -ESRCH, -ENOSYS.
long copy_process(int process, uintptr_t local, uintptr_t remote, size_t len, bool to_remote);
// Both ends close on exec. 0 or -errno.
int pipe(int ends[2]);
// Bytes or -errno; repeated where a signal came between.
long read(int fd, uintptr_t to, size_t len);
long write(int fd, uintptr_t from, size_t len);
void close(int fd);

// Files, for options and reports.
// Reads at most cap-1 bytes, ends them with 0; returns the length or -errno.
long read_file(const char *path, char *buf, size_t cap);
// The kernel's records of `pages` OS pages from `at` on, as /proc/self/pagemap has them (frame
// numbers are 0 without CAP_SYS_ADMIN). 0 or -errno.
int read_pagemap(uintptr_t at, size_t pages, uint64_t *entries);
int append_file(const char *path, const char *text, size_t len); // O_CREAT, one write
void write_stderr(const char *text, size_t len);                 // best effort
[[noreturn]] void abort_process();                               // SIGABRT, whatever is installed

// Fault injection, for tests.
// The next `skip` memory-taking calls (map_at, map_over, map_hugetlb_at, reserve_at, extend,
// move_pages, keep_from_children, memfd, memfd_hugetlb, reserve_in_file, map_file_over,
// reserve_anywhere) succeed, the `fail` after them return -ENOMEM.
void inject_failures(int skip, int fail);

} // namespace pagoda::sys
