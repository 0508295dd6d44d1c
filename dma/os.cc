#include "dma/os.h"

#include <pagoda/slab.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace pagoda::dma::os {
namespace {

const char *g_root = "";
long (*g_ioctl)(int fd, unsigned long request, uintptr_t argument);

constexpr size_t kPath = 400; // of the kernel's trees; frames stay small

// A path below the root that tests choose.
struct place {
    char path[kPath];
    explicit place(const char *asked) { snprintf(path, sizeof path, "%s%s", g_root, asked); }
};

} // namespace

void play(const char *root, long (*ioctl)(int fd, unsigned long request, uintptr_t argument)) {
    g_root = root;
    g_ioctl = ioctl;
}

int open(const char *path, int flags) {
    place at(path);
    int fd = ::open(at.path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

void close(int fd) {
    if (fd >= 0)
        ::close(fd);
}

int duplicate(int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

int make_eventfd() {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

long ioctl(int fd, unsigned long request, uintptr_t argument) {
    if (g_ioctl != nullptr)
        return g_ioctl(fd, request, argument);
    for (;;) {
        int result = ::ioctl(fd, request, argument);
        if (result >= 0)
            return result;
        if (errno != EINTR)
            return -errno;
    }
}

int read_at(int fd, void *to, size_t bytes, uint64_t offset) {
    ssize_t n = pread(fd, to, bytes, static_cast<off_t>(offset));
    return n < 0 ? -errno : static_cast<size_t>(n) == bytes ? 0 : -EIO;
}

int write_at(int fd, const void *from, size_t bytes, uint64_t offset) {
    ssize_t n = pwrite(fd, from, bytes, static_cast<off_t>(offset));
    return n < 0 ? -errno : static_cast<size_t>(n) == bytes ? 0 : -EIO;
}

void *map(int fd, uint64_t offset, size_t bytes, int *error) {
    void *at =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (at == MAP_FAILED) {
        *error = -errno;
        return nullptr;
    }
    madvise(at, bytes, MADV_DONTFORK); // advice: a child that touches it is at fault either way
    return at;
}

void unmap(void *at, size_t bytes) { munmap(at, bytes); }

// No descriptor is needed: a shared mapping of no length is "moved" elsewhere, and stays.
void *map_again(void *from, size_t bytes, void *at, int protection, int *error) {
    void *to = at != nullptr ? mremap(from, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at)
                             : mremap(from, 0, bytes, MREMAP_MAYMOVE);
    if (to == MAP_FAILED) {
        *error = -errno;
        return nullptr;
    }
    if (madvise(to, bytes, MADV_DONTFORK) == 0 && mprotect(to, bytes, protection) == 0)
        return to;
    *error = -errno;
    munmap(to, bytes);
    return nullptr;
}

bool protect(void *at, size_t bytes, int protection) {
    return mprotect(at, bytes, protection) == 0;
}

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

int read_text(const char *path, char *text, size_t capacity) {
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return fd;
    ssize_t n = read(fd, text, capacity - 1);
    int error = errno;
    close(fd);
    if (n < 0)
        return -error;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = 0;
    return static_cast<int>(n);
}

uint64_t read_number(const char *path, uint64_t otherwise) {
    char text[32];
    char *end = text;
    if (read_text(path, text, sizeof text) <= 0)
        return otherwise;
    uint64_t value = strtoull(text, &end, 0);
    return end == text ? otherwise : value;
}

int link_name(const char *path, char *name, size_t capacity) {
    place at(path);
    char target[kPath];
    ssize_t n = readlink(at.path, target, sizeof target - 1);
    if (n < 0)
        return -errno;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    snprintf(name, capacity, "%s", slash != nullptr ? slash + 1 : target);
    return 0;
}

int each_entry(const char *path, bool (*entry)(void *data, const char *name), void *data) {
    place at(path);
    DIR *folder = opendir(at.path);
    if (folder == nullptr)
        return -errno;
    while (const dirent *e = readdir(folder))
        if (e->d_name[0] != '.' && !entry(data, e->d_name))
            break;
    closedir(folder);
    return 0;
}

uint64_t memlock_limit() {
    rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur;
}

uint64_t status_figure(const char *key) {
    constexpr size_t kText = 4096;
    char *text = static_cast<char *>(kmalloc(kText, GFP_KERNEL));
    uint64_t figure = 0;
    bool is_read = text != nullptr && read_text("/proc/self/status", text, kText) > 0;
    size_t length = strlen(key);
    for (const char *line = text; is_read && line != nullptr; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            figure = strtoull(line + length + 1, nullptr, 10) * 1024;
            break;
        }
    }
    kfree(text);
    return figure;
}

} // namespace pagoda::dma::os
