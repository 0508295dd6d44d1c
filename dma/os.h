// The system calls of this library other than VFIO's, and the one way to VFIO's ioctls. Paths may
// be looked up below another root and ioctls answered by somebody else: tests play the kernel that
// way.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma::os {

// Descriptors close on exec. Or -errno.
int open(const char *path, int flags);
void close(int fd); // -1 is ignored
int duplicate(int fd);
int make_eventfd();
// The ioctl's result, or -errno. Repeated where a signal came between.
long ioctl(int fd, unsigned long request, uintptr_t argument);
// All of it, or -errno; fewer bytes are -EIO.
int read_at(int fd, void *to, size_t bytes, uint64_t offset);
int write_at(int fd, const void *from, size_t bytes, uint64_t offset);
// Device memory, read-write, shared, absent from fork's children. NULL: *error says why, as -errno.
void *map(int fd, uint64_t offset, size_t bytes, int *error);
void unmap(void *at, size_t bytes);
// Shared memory a second time, absent from fork's children: at `at`, in place of what is there, or
// anywhere (NULL). `protection` as mmap() has it. NULL: *error; -EINVAL for hugetlb pages.
void *map_again(void *from, size_t bytes, void *at, int protection, int *error);
// `protection` as mmap() has it, for whole pages. False: the kernel refuses.
bool protect(void *at, size_t bytes, int protection);
size_t page_size();

// A small file's text without its last newline, ended with 0. Length, or -errno.
int read_text(const char *path, char *text, size_t capacity);
// A number in a file, in any base that strtoull() tells apart; `otherwise` where there is none.
uint64_t read_number(const char *path, uint64_t otherwise);
// The last component of what the link points at. 0 or -errno.
int link_name(const char *path, char *name, size_t capacity);
// Calls for each entry that does not begin with a dot, until it returns false. 0 or -errno.
int each_entry(const char *path, bool (*entry)(void *data, const char *name), void *data);

// RLIMIT_MEMLOCK in bytes; UINT64_MAX: none.
uint64_t memlock_limit();
// A figure of /proc/self/status in bytes: "VmLck", "VmPin".
uint64_t status_figure(const char *key);

// For tests: paths are looked up below `root` ("": the system's), ioctls go to `ioctl` (NULL: the
// kernel's).
void play(const char *root, long (*ioctl)(int fd, unsigned long request, uintptr_t argument));

} // namespace pagoda::dma::os
