#include "dma/debug_guard.h"

#include "hugepage/base.h"
#include "hugepage/provider.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <string.h>

namespace pagoda::dma {

namespace {

constexpr gfp_t kQuietly = GFP_KERNEL | __GFP_NOWARN;

// Pages that are closed must not be populated by touching them, as those of a granule are before
// it is mapped. Memory of the device zones, which is in no such granule, always is.
bool hold_granules(char *p, size_t bytes) {
    for (size_t at = 0; at < bytes; at += kPageblockSize) {
        void *start;
        size_t length;
        int error = pagoda_block_hold(p + at, &start, &length);
        if (error != 0 && error != -EFAULT)
            return false;
    }
    void *start;
    size_t length;
    int error = pagoda_block_hold(p + bytes - 1, &start, &length);
    return error == 0 || error == -EFAULT;
}

} // namespace

guarded *guard_copy(void *p, size_t bytes, dma_data_direction dir, ownership *owners) {
    if (p == nullptr || bytes == 0 || dir >= DMA_NONE || !owners->reserve())
        return nullptr;
    int hold = pagoda_object_hold(p, bytes);
    if (hold != 0 && hold != -EFAULT)
        return nullptr;
    // As far into a page as the buffer is; aligned, since it is a power of two.
    size_t inside = reinterpret_cast<uintptr_t>(p) & (kPageSize - 1);
    size_t room = kPageSize << order_of((inside + bytes + kPageSize - 1) >> kPageShift);
    void *block = kvmalloc(room, kQuietly);
    auto *g =
        static_cast<guarded *>(block == nullptr ? nullptr : kmalloc(sizeof(guarded), kQuietly));
    if (g == nullptr) {
        kvfree(block);
        if (hold == 0)
            pagoda_object_release(p);
        return nullptr;
    }
    auto *memory = static_cast<char *>(p);
    *g = {memory, bytes,   dir,   static_cast<char *>(block) + inside, block, hold == 0,
          false,  nullptr, owners};
    g->closable = hold == 0 && bytes >= kPageSize && hold_granules(memory, bytes);
    fences_open(p, bytes, dir != DMA_TO_DEVICE);
    memcpy(g->copy, p, bytes);
    return g;
}

void guard_begin(guarded &g, const owned_buffer &what) {
    if (g.dir != DMA_TO_DEVICE)
        memset(g.memory, kDevicesByte, g.bytes);
    if (g.closable)
        g.pages = fence_make(what, g.dir == DMA_TO_DEVICE);
}

bool guard_pause(guarded &g) {
    bool touched = g.pages != nullptr && fence_open(g.pages);
    fences_open(g.memory, g.bytes, g.dir != DMA_TO_DEVICE); // of buffers that overlap
    return touched;
}

bool guard_open(guarded &g) {
    bool touched = guard_pause(g);
    if (g.pages != nullptr)
        fence_remove(g.pages);
    g.pages = nullptr;
    return touched;
}

size_t guard_written(const guarded &g) {
    size_t found = g.bytes;
    if (g.dir != DMA_TO_DEVICE)
        g.owners->each_of_device(0, g.bytes, [&](size_t from, size_t bytes) {
            for (size_t i = from; i < from + bytes && found == g.bytes; i++)
                if (static_cast<unsigned char>(g.memory[i]) != kDevicesByte)
                    found = i;
        });
    return found;
}

void guard_to_processor(guarded &g, size_t offset, size_t bytes) {
    // All of it: who has not written to what he was given need not give it back before he is given
    // it once more.
    if (g.dir != DMA_TO_DEVICE)
        memcpy(g.memory + offset, g.copy + offset, bytes);
}

void guard_to_device(guarded &g, size_t offset, size_t bytes) {
    if (g.dir == DMA_TO_DEVICE) {
        memcpy(g.copy + offset, g.memory + offset, bytes);
        return;
    }
    // What the device has already is not the processor's to give.
    g.owners->each_of_processor(offset, offset + bytes, [&](size_t at, size_t length) {
        if (g.dir == DMA_BIDIRECTIONAL)
            memcpy(g.copy + at, g.memory + at, length);
        memset(g.memory + at, kDevicesByte, length);
    });
}

void guard_close(guarded &g) {
    if (g.pages != nullptr && g.owners->is_all_device())
        fence_close(g.pages);
}

void guard_abandon(guarded *g) {
    if (g->dir != DMA_TO_DEVICE)
        g->owners->each_of_device(0, g->bytes, [&](size_t at, size_t length) {
            memcpy(g->memory + at, g->copy + at, length);
        });
    if (g->held)
        pagoda_object_release(g->memory);
    kfree(g);
}

void guard_end(guarded *g) {
    void *block = g->block;
    guard_abandon(g);
    kvfree(block);
}

} // namespace pagoda::dma
