#include "hugepage/sys.h"

#include "hugepage/vdso.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>

namespace pagoda::sys {
namespace {

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
constexpr int kMadvPopulateRead = 22;
constexpr int kMadvPopulateWrite = 23;
constexpr int kPrSetVma = 0x53564d41;
constexpr int kMembarrierRseq = 1 << 7;
constexpr int kMembarrierRegisterRseq = 1 << 8;

long call(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
#if defined(__x86_64__)
    long ret;
    register long r10 asm("r10") = d;
    register long r8 asm("r8") = e;
    register long r9 asm("r9") = f;
    asm volatile("syscall"
                 : "=a"(ret)
                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 asm("x8") = nr;
    register long x0 asm("x0") = a;
    register long x1 asm("x1") = b;
    register long x2 asm("x2") = c;
    register long x3 asm("x3") = d;
    register long x4 asm("x4") = e;
    register long x5 asm("x5") = f;
    asm volatile("svc 0"
                 : "+r"(x0)
                 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                 : "memory");
    return x0;
#else
#error "system calls of this architecture are not written yet"
#endif
}

long addr(uintptr_t p) { return static_cast<long>(p); }
long size(size_t n) { return static_cast<long>(n); }
template <class T> long ptr(T *p) { return reinterpret_cast<long>(p); }

std::atomic<int> inject_skip{0};
std::atomic<int> inject_fail{0};

bool injected() {
    if (PAGODA_LIKELY(inject_fail.load(std::memory_order_relaxed) == 0))
        return false;
    if (inject_skip.load() > 0 && inject_skip.fetch_sub(1) > 0)
        return false;
    return inject_fail.fetch_sub(1) > 0;
}

// mmap at a fixed place that must be free. Kernels before 4.17 ignore the flag and treat the
// address as a hint, so the answer is checked.
int map_fixed(uintptr_t at, size_t len, int prot, int flags) {
    if (injected())
        return -ENOMEM;
    long r = call(SYS_mmap, addr(at), size(len), prot,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | flags, -1, 0);
    if (failed(r))
        return static_cast<int>(r);
    if (static_cast<uintptr_t>(r) != at) {
        call(SYS_munmap, r, size(len));
        return -EEXIST;
    }
    return 0;
}

int create_memfd(const char *name, unsigned flags) {
    constexpr unsigned kNoExecSeal = 8; // 6.3
    if (injected())
        return -ENOMEM;
    flags |= MFD_CLOEXEC;
    long fd = call(SYS_memfd_create, ptr(name), flags | kNoExecSeal);
    if (fd == -EINVAL)
        fd = call(SYS_memfd_create, ptr(name), flags);
    if (fd < 0 || fd > 2)
        return static_cast<int>(fd);
    int high = duplicate(static_cast<int>(fd)); // the first three mean something to programs
    close(static_cast<int>(fd));
    return high;
}

using clock_function = int (*)(clockid_t, timespec *);
#if defined(__x86_64__)
constexpr char kClockName[] = "__vdso_clock_gettime";
#else
constexpr char kClockName[] = "__kernel_clock_gettime";
#endif

int kernel_clock(clockid_t clock, timespec *t) {
    return static_cast<int>(call(SYS_clock_gettime, clock, ptr(t)));
}

} // namespace

int map_at(uintptr_t at, size_t len) { return map_fixed(at, len, PROT_READ | PROT_WRITE, 0); }

int map_hugetlb_at(uintptr_t at, size_t len, unsigned shift) {
    return map_fixed(at, len, PROT_READ | PROT_WRITE,
                     MAP_HUGETLB | static_cast<int>(shift << MAP_HUGE_SHIFT));
}

int reserve_at(uintptr_t at, size_t len) { return map_fixed(at, len, PROT_NONE, MAP_NORESERVE); }

int extend(uintptr_t end, size_t grow) {
    if (injected())
        return -ENOMEM;
    size_t page = page_size();
    long r = call(SYS_mremap, addr(end - page), size(page), size(page + grow), 0);
    return failed(r) ? static_cast<int>(r) : 0;
}

int map_over(uintptr_t at, size_t len) {
    if (injected())
        return -ENOMEM;
    long r = call(SYS_mmap, addr(at), size(len), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return failed(r) ? static_cast<int>(r) : 0;
}

int move_pages(uintptr_t from, size_t len, uintptr_t to, size_t to_len) {
    if (injected())
        return -ENOMEM;
    long r = call(SYS_mremap, addr(from), size(len), size(to_len), MREMAP_MAYMOVE | MREMAP_FIXED,
                  addr(to));
    return failed(r) ? static_cast<int>(r) : 0;
}

int unmap(uintptr_t at, size_t len) {
    return static_cast<int>(call(SYS_munmap, addr(at), size(len)));
}

int discard(uintptr_t at, size_t len) {
    return static_cast<int>(call(SYS_madvise, addr(at), size(len), MADV_DONTNEED));
}

int make_cold(uintptr_t at, size_t len, bool now) {
    constexpr int kMadvCold = 20;
    constexpr int kMadvPageout = 21;
    return static_cast<int>(call(SYS_madvise, addr(at), size(len), now ? kMadvPageout : kMadvCold));
}

int populate(uintptr_t at, size_t len) {
    return static_cast<int>(call(SYS_madvise, addr(at), size(len), kMadvPopulateWrite));
}

int populate_read(uintptr_t at, size_t len) {
    return static_cast<int>(call(SYS_madvise, addr(at), size(len), kMadvPopulateRead));
}

void hint_huge(uintptr_t at, size_t len, bool on) {
    call(SYS_madvise, addr(at), size(len), on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

int keep_from_children(uintptr_t at, size_t len) {
    if (injected())
        return -ENOMEM;
    return static_cast<int>(call(SYS_madvise, addr(at), size(len), MADV_DONTFORK));
}

void name_range(uintptr_t at, size_t len, const char *name) {
    static std::atomic<bool> unknown{false}; // a kernel that knows no names is asked once
    if (!unknown.load(std::memory_order_relaxed) &&
        call(SYS_prctl, kPrSetVma, 0, addr(at), size(len), ptr(name)) == -EINVAL)
        unknown.store(true, std::memory_order_relaxed);
}

void futex_wait(std::atomic<uint32_t> &word, uint32_t expected) {
    call(SYS_futex, ptr(&word), FUTEX_WAIT_PRIVATE, static_cast<long>(expected));
}

void futex_wait_for(std::atomic<uint32_t> &word, uint32_t expected, uint32_t ms) {
    timespec timeout = {static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000) * 1'000'000};
    call(SYS_futex, ptr(&word), FUTEX_WAIT_PRIVATE, static_cast<long>(expected), ptr(&timeout));
}

void futex_wake(std::atomic<uint32_t> &word, int count) {
    call(SYS_futex, ptr(&word), FUTEX_WAKE_PRIVATE, count);
}

void nap(uint32_t us) {
    timespec t = {us / 1'000'000, static_cast<long>(us % 1'000'000) * 1000};
    call(SYS_nanosleep, ptr(&t), 0);
}

size_t page_size() {
    static std::atomic<size_t> cached{0};
    size_t s = cached.load(std::memory_order_relaxed);
    if (PAGODA_UNLIKELY(s == 0)) {
        s = getauxval(AT_PAGESZ);
        s = s != 0 ? s : kPageSize;
        cached.store(s, std::memory_order_relaxed);
    }
    return s;
}

uint32_t cpu_slots() {
    // The kernel copies its whole CPU mask, which is rounded up, often to hundreds: an upper bound
    // that needs no /sys.
    static unsigned long mask[1024]; // not on a small stack; asked once, by one thread
    long bytes = call(SYS_sched_getaffinity, 0, sizeof mask, ptr(mask));
    if (failed(bytes) || bytes == 0)
        return 8192;
    uint32_t most = static_cast<uint32_t>(bytes) * 8;
    uint32_t used = most;
    while (used > 1 && (mask[(used - 1) / 64] >> ((used - 1) % 64) & 1) == 0)
        used--;
    char text[256];
    long length = read_file("/sys/devices/system/cpu/possible", text, sizeof text);
    uint32_t possible = cpus_in_list(text, length);
    // A container may be shown fewer than there are; then it runs on others than these.
    return possible >= used && possible < most ? possible : most;
}

uint32_t cpus_in_list(const char *list, long length) {
    uint32_t last = 0;
    bool digit = false;
    for (long i = 0; i < length; i++) {
        bool is_digit = list[i] >= '0' && list[i] <= '9';
        if (is_digit)
            last = (digit ? last * 10 : 0) + static_cast<uint32_t>(list[i] - '0');
        digit = is_digit;
    }
    return length > 0 ? last + 1 : 0;
}

bool single_node() {
    unsigned long nodes[16] = {};
    int mode = 0;
    long r =
        call(SYS_get_mempolicy, ptr(&mode), ptr(nodes), sizeof nodes * 8, 0, MPOL_F_MEMS_ALLOWED);
    if (failed(r))
        return r == -ENOSYS; // a kernel without NUMA has one node
    int count = 0;
    for (unsigned long w : nodes)
        count += count_bits(w);
    return count <= 1;
}

uint64_t total_memory() {
    struct sysinfo info = {};
    call(SYS_sysinfo, ptr(&info));
    return (uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
}

unsigned long auxv(unsigned long type) { return getauxval(type); }

uint64_t random_bits() {
    uint64_t bits = 0;
    if (const void *at_random = reinterpret_cast<const void *>(getauxval(AT_RANDOM)))
        __builtin_memcpy(&bits, at_random, sizeof bits);
    // Those 16 bytes are also the stack protector's canary: never show them unmixed.
    bits ^= bits >> 33;
    bits *= 0xff51afd7ed558ccdULL;
    bits ^= bits >> 33;
    bits *= 0xc4ceb9fe1a85ec53ULL;
    return bits ^ (bits >> 33);
}

uint64_t now_ms() {
    static std::atomic<clock_function> clock{nullptr};
    clock_function read = clock.load(std::memory_order_relaxed);
    if (PAGODA_UNLIKELY(read == nullptr)) {
        read = reinterpret_cast<clock_function>(vdso_symbol(kClockName));
        read = read != nullptr ? read : kernel_clock;
        clock.store(read, std::memory_order_relaxed);
    }
    timespec t = {};
    read(CLOCK_MONOTONIC_COARSE, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000 + static_cast<uint64_t>(t.tv_nsec) / 1000000;
}

int pid() { return static_cast<int>(call(SYS_getpid)); }

uint64_t resource_limit(int resource) {
    struct {
        uint64_t soft;
        uint64_t hard;
    } limit = {~uint64_t{0}, 0};
    call(SYS_prlimit64, 0, resource, 0, ptr(&limit));
    return limit.soft;
}

bool unfiltered() {
    constexpr char kNone[] = "\nSeccomp:\t0\n";
    constexpr size_t kLength = sizeof kNone - 1;
    long fd = call(SYS_openat, AT_FDCWD, ptr("/proc/self/status"), O_RDONLY | O_CLOEXEC);
    if (failed(fd))
        return false;
    // In pieces: whoever is short of memory may be short of stack too.
    char piece[256];
    size_t matched = 0;
    for (long n; matched < kLength && (n = call(SYS_read, fd, ptr(piece), sizeof piece)) != 0;) {
        if (n == -EINTR)
            continue;
        if (failed(n))
            break;
        for (long at = 0; at < n && matched < kLength; at++) // a match begins with a new line only
            matched = piece[at] == kNone[matched] ? matched + 1 : piece[at] == '\n';
    }
    call(SYS_close, fd);
    return matched == kLength;
}

bool rseq_fence() {
    // Registration is per address space and idempotent; a fork child has lost its parent's.
    if (failed(call(SYS_membarrier, kMembarrierRegisterRseq)))
        return false;
    return !failed(call(SYS_membarrier, kMembarrierRseq));
}

int memfd(const char *name) { return create_memfd(name, 0); }

int memfd_hugetlb(const char *name, unsigned shift) {
    return create_memfd(name, MFD_HUGETLB | shift << MFD_HUGE_SHIFT);
}

int duplicate(int fd) { return static_cast<int>(call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3)); }

int64_t file_size(int fd) {
    struct stat status;
    long r = call(SYS_fstat, fd, ptr(&status));
    return failed(r) ? r : status.st_size;
}

int set_file_size(int fd, uint64_t bytes) {
    if (bytes > resource_limit(RLIMIT_FSIZE))
        return -EFBIG; // the call would be answered with SIGXFSZ
    return static_cast<int>(call(SYS_ftruncate, fd, size(bytes)));
}

int reserve_in_file(int fd, uint64_t offset, uint64_t bytes) {
    if (injected())
        return -ENOMEM;
    // In pieces: a signal undoes the one it interrupts.
    constexpr uint64_t kPiece = kPageblockSize;
    for (uint64_t end = offset + bytes; offset < end;) {
        uint64_t piece = min_of(kPiece, end - offset);
        long r = call(SYS_fallocate, fd, 0, size(offset), size(piece));
        if (r == -EINTR)
            continue;
        if (r != 0)
            return static_cast<int>(r);
        offset += piece;
    }
    return 0;
}

int discard_in_file(int fd, uint64_t offset, uint64_t bytes) {
    return static_cast<int>(call(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 size(offset), size(bytes)));
}

int map_file_over(uintptr_t at, size_t len, int prot, int fd, uint64_t offset) {
    if (injected())
        return -ENOMEM;
    long r = call(SYS_mmap, addr(at), size(len), prot, MAP_SHARED | MAP_FIXED, fd, size(offset));
    return failed(r) ? static_cast<int>(r) : 0;
}

long reserve_anywhere(size_t len) {
    if (injected())
        return -ENOMEM;
    return call(SYS_mmap, 0, size(len), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                0);
}

int hide(uintptr_t at, size_t len) {
    long r = call(SYS_mmap, addr(at), size(len), PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return failed(r) ? static_cast<int>(r) : 0;
}

long copy_process(int process, uintptr_t local, uintptr_t remote, size_t len, bool to_remote) {
    iovec mine = {reinterpret_cast<void *>(local), len};
    iovec theirs = {reinterpret_cast<void *>(remote), len};
    return call(to_remote ? SYS_process_vm_writev : SYS_process_vm_readv, process, ptr(&mine), 1,
                ptr(&theirs), 1, 0);
}

int pipe(int ends[2]) { return static_cast<int>(call(SYS_pipe2, ptr(ends), O_CLOEXEC)); }

long read(int fd, uintptr_t to, size_t len) {
    long r;
    do
        r = call(SYS_read, fd, addr(to), size(len));
    while (r == -EINTR);
    return r;
}

long write(int fd, uintptr_t from, size_t len) {
    long r;
    do
        r = call(SYS_write, fd, addr(from), size(len));
    while (r == -EINTR);
    return r;
}

void close(int fd) { call(SYS_close, fd); }

long read_file(const char *path, char *buf, size_t cap) {
    long fd = call(SYS_openat, AT_FDCWD, ptr(path), O_RDONLY | O_CLOEXEC);
    if (failed(fd))
        return fd;
    size_t have = 0;
    while (have < cap - 1) {
        long n = call(SYS_read, fd, ptr(buf + have), size(cap - 1 - have));
        if (n == -EINTR)
            continue;
        if (n <= 0)
            break;
        have += static_cast<size_t>(n);
    }
    call(SYS_close, fd);
    buf[have] = 0;
    return size(have);
}

int read_pagemap(uintptr_t at, size_t pages, uint64_t *entries) {
    long fd = call(SYS_openat, AT_FDCWD, ptr("/proc/self/pagemap"), O_RDONLY | O_CLOEXEC);
    if (failed(fd))
        return static_cast<int>(fd);
    size_t bytes = pages * sizeof *entries;
    long n =
        call(SYS_pread64, fd, ptr(entries), size(bytes), size(at / page_size() * sizeof *entries));
    call(SYS_close, fd);
    if (failed(n))
        return static_cast<int>(n);
    return size(bytes) == n ? 0 : -EIO;
}

int append_file(const char *path, const char *text, size_t len) {
    long fd =
        call(SYS_openat, AT_FDCWD, ptr(path), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (failed(fd))
        return static_cast<int>(fd);
    long n = call(SYS_write, fd, ptr(text), size(len));
    call(SYS_close, fd);
    return failed(n) ? static_cast<int>(n) : 0;
}

void write_stderr(const char *text, size_t len) { call(SYS_write, 2, ptr(text), size(len)); }

void abort_process() {
    // A handler the program installed runs first, as with abort(3); then the default action.
    long tid = call(SYS_gettid);
    call(SYS_tgkill, call(SYS_getpid), tid, SIGABRT);
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        unsigned long mask;
    } act = {};
    call(SYS_rt_sigaction, SIGABRT, ptr(&act), 0, 8);
    unsigned long set = 1UL << (SIGABRT - 1);
    call(SYS_rt_sigprocmask, SIG_UNBLOCK, ptr(&set), 0, 8);
    call(SYS_tgkill, call(SYS_getpid), tid, SIGABRT);
    __builtin_trap();
}

void inject_failures(int skip, int fail) {
    inject_skip.store(skip);
    inject_fail.store(fail);
}

} // namespace pagoda::sys
