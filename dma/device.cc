#include "dma/device.h"

#include "dma/complain.h"
#include "dma/debug.h"
#include "dma/ledger.h"
#include "dma/managed.h"
#include "dma/mapping.h"
#include "dma/pool.h"
#include "dma/views.h"
#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <new>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace pagoda::dma {
namespace {

constexpr int kNoNode = -1;

thread_local char g_error[320];
thread_local int g_kept; // the error that the sentence in there is the best one for; 0: none

} // namespace

int fail(int error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(g_error, sizeof g_error, format, arguments);
    va_end(arguments);
    g_kept = 0;
    errno = error;
    return -error;
}

void keep_sentence(int error) { g_kept = error; }

void forget_sentence() { g_kept = 0; }

bool sentence_is_kept(int error) {
    bool kept = g_kept == error;
    g_kept = 0;
    if (kept)
        errno = error;
    return kept;
}

pagoda_device_state *device_create(space *s, pagoda_iommu kind, const char *name) {
    void *memory = kzalloc(sizeof(pagoda_device_state), GFP_KERNEL);
    if (memory == nullptr)
        return nullptr;
    auto *state = new (memory) pagoda_device_state();
    strncpy(state->name, name, sizeof state->name - 1);
    state->dev.name = state->name;
    state->dev.numa_node = kNoNode;
    state->dev.state = state;
    state->space = s;
    state->kind = kind;
    state->mask = UINT32_MAX;
    state->coherent_mask = UINT32_MAX;
    state->max_segment = 65536;
    state->boundary = UINT64_MAX;
    s->attach(state);
    debug_begin(*state);
    return state;
}

void device_destroy(pagoda_device_state *state) {
    space *s = state->space;
    state->set_gone();
    debug_forget(*state);
    if (uint64_t live = mappings_forget(*state); live != 0)
        complain("%s is closed with %llu streaming mappings that were not undone", state->name,
                 static_cast<unsigned long long>(live));
    if (s->detach(state)) {
        spaces_remove(s);
        // The memory itself stays: the program may still use it.
        views_forget(s);
        s->end();
        if (uint64_t left = ledger_forget(s); left != 0)
            complain("%s is closed with %llu pieces of memory for it that were not freed",
                     state->name, static_cast<unsigned long long>(left));
        space::destroy(s);
    }
    kfree(state);
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT void pagoda_device_close(device *dev) {
    if (dev == nullptr)
        return;
    pagoda_device_state *state = dev->state;
    // A parent's: its memory, descriptors and callbacks are not this process's business, and
    // another thread may have had its locks.
    if (state->space->dead())
        return;
    if (state->on_close != nullptr) {
        state->on_close(state);
        return;
    }
    managed_release(state);
    pools_forget(*state);
    device_destroy(state);
}

PAGODA_EXPORT const char *pagoda_device_error() { return g_error; }

PAGODA_EXPORT pagoda_iommu pagoda_device_iommu(const device *dev) { return dev->state->kind; }

PAGODA_EXPORT int pagoda_device_windows(const device *dev, uint64_t *first, uint64_t *last,
                                        int capacity) {
    iova_window window[kMaxSpaceWindows];
    int count = dev->state->space->windows(window, kMaxSpaceWindows);
    for (int i = 0; i < count && i < capacity; i++) {
        first[i] = window[i].first;
        last[i] = window[i].last;
    }
    return count;
}
