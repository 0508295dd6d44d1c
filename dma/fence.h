// Pages that the processor may not touch while a device has them. They are closed by their
// protection; who touches one all the same is reported, with the instruction, and goes on with the
// pages open: a handler of SIGSEGV, in front of the program's own, which gets everything else.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma {

// Whose the pages are, for the report.
struct owned_buffer {
    const char *device;
    void *memory;
    size_t bytes;
    const char *direction;
    const void *caller; // of the mapping
};

struct fence;

// Closes the whole pages in the buffer: to writing alone where they may be read. The memory is the
// heap's, in use, and in held granules, for nobody else finds out that it is closed. NULL: there
// are no such pages, or the kernel closes no further ones.
fence *fence_make(const owned_buffer &what, bool may_read);
// Opens the pages. True: they were touched before, at some time.
bool fence_open(fence *f);
void fence_close(fence *f);
// Ends it, open.
void fence_remove(fence *f);
// Opens, without a word, what lies in [p, p + bytes); with `to_write`, also what can be read.
void fences_open(const void *p, size_t bytes, bool to_write);

// Open for a while, for the kernel, which is to pin what lies there.
class fences_paused {
  public:
    fences_paused(uintptr_t at, uint64_t bytes);
    ~fences_paused();
    fences_paused(const fences_paused &) = delete;
    fences_paused &operator=(const fences_paused &) = delete;

  private:
    uintptr_t at_;
    uint64_t bytes_;
    bool any_;
};

} // namespace pagoda::dma
