#include "dma/views.h"

#include "dma/coherent.h"
#include "dma/complain.h"
#include "dma/mapping.h"
#include "dma/mutex.h"
#include "dma/os.h"

#include <pagoda/mm.h>
#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <atomic>
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

namespace pagoda::dma {

namespace {

struct view {
    view *next;
    unsigned long start; // vm_start
    void *mapped;        // whole pages of the system's, around it
    size_t bytes;
    space *in;           // NULL: it is gone
    ledger_entry memory; // what it shows
    bool freed;          // the last view gives it back
    bool parents;        // this is a fork child, which has no such mapping
};

pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
view *g_views; // the newest first

void forget_in_child() {
    pthread_mutex_init(&g_lock, nullptr);
    for (view *v = g_views; v != nullptr; v = v->next)
        v->parents = true;
}

std::atomic<bool> child_forgets{false};

bool prepare_for_fork() {
    if (child_forgets.exchange(true, std::memory_order_relaxed) ||
        pthread_atfork(nullptr, nullptr, forget_in_child) == 0)
        return true;
    child_forgets.store(false, std::memory_order_relaxed);
    return false;
}

// With the lock.
bool is_taken(uintptr_t at, size_t bytes) {
    for (const view *v = g_views; v != nullptr; v = v->next) {
        auto mapped = reinterpret_cast<uintptr_t>(v->mapped);
        if (!v->parents && at < mapped + v->bytes && mapped < at + bytes)
            return true;
    }
    return false;
}

bool is_ours(uintptr_t at) {
    auto *p = reinterpret_cast<void *>(at);
    return pagoda_virt_addr_valid(p) || is_vmalloc_addr(p);
}

int protection_of(unsigned long flags) {
    return ((flags & VM_READ) != 0 ? PROT_READ : 0) | ((flags & VM_WRITE) != 0 ? PROT_WRITE : 0);
}

// What the range asks for makes sense by itself. `length` in bytes.
int check_range(const pagoda_device_state &s, const vm_area_struct &vma, size_t *length) {
    *length = vma.vm_end - vma.vm_start;
    if (vma.vm_end > vma.vm_start && (vma.vm_start | vma.vm_end) % kPageSize == 0 &&
        protection_of(vma.vm_flags) != 0 && !is_ours(vma.vm_start) && !is_ours(vma.vm_end - 1))
        return 0;
    return fail(EINVAL,
                "%s: a view is of whole pages, with VM_READ or VM_WRITE, and not in the "
                "allocator's own memory: %#lx to %#lx cannot be one",
                s.name, vma.vm_start, vma.vm_end);
}

int explain_refusal(const pagoda_device_state &s, int error, size_t bytes) {
    if (error == -EINVAL)
        return fail(EOPNOTSUPP,
                    "%s: memory of the hugetlb pool has no views: use memory of more than 4 MiB, "
                    "which is not, or leave the pool empty when the first memory is allocated",
                    s.name);
    return fail(-error,
                "%s: %zu bytes cannot be mapped a second time: memory or mappings (%s) "
                "are short",
                s.name, bytes, "vm.max_map_count");
}

// Maps it and notes it. With the lock.
int make(const pagoda_device_state &s, view *v, vm_area_struct *vma, size_t length) {
    size_t page = os::page_size();
    auto first = reinterpret_cast<uintptr_t>(v->memory.memory) + (vma->vm_pgoff << kPageShift);
    uintptr_t from = align_down(first, page);
    v->bytes = align_up(first + length, page) - from;
    uintptr_t to = vma->vm_start == 0 ? 0 : vma->vm_start - (first - from);
    if (to % page != 0 || (to != 0 && v->bytes != length))
        return fail(EINVAL, "%s: pages of the system are larger: leave vm_start 0", s.name);
    if (to != 0 && is_taken(to, v->bytes))
        return fail(EBUSY, "%s: there is a view at %#lx already", s.name, vma->vm_start);
    int error = 0;
    v->mapped = os::map_again(reinterpret_cast<void *>(from), v->bytes,
                              reinterpret_cast<void *>(to), protection_of(vma->vm_flags), &error);
    if (v->mapped == nullptr)
        return explain_refusal(s, error, length);
    v->start = reinterpret_cast<uintptr_t>(v->mapped) + (first - from);
    vma->vm_start = v->start;
    vma->vm_end = v->start + length;
    v->next = g_views;
    g_views = v;
    return 0;
}

int show(pagoda_device_state &s, vm_area_struct *vma, size_t bytes, const void *p,
         uint64_t address) {
    size_t length;
    int error = check_usable(s);
    if (error == 0)
        error = check_range(s, *vma, &length);
    if (error != 0)
        return error;
    auto *v = static_cast<view *>(kzalloc(sizeof(view), GFP_KERNEL));
    if (v == nullptr || !prepare_for_fork()) {
        kfree(v);
        return fail(ENOMEM, "%s: no memory for the record of a view", s.name);
    }
    v->in = s.space;
    {
        locked hold(g_lock); // whoever frees the memory asks for views after it left the ledger
        size_t pages = align_up(bytes, kPageSize) >> kPageShift;
        if (!coherent_find(s, bytes, p, address, &v->memory))
            error = fail(ENXIO, "%s: %p (%zu bytes) is no memory that was allocated for it", s.name,
                         p, bytes);
        else if (vma->vm_pgoff >= pages || length >> kPageShift > pages - vma->vm_pgoff)
            error = fail(ENXIO, "%s: a view of %zu bytes from page %lu on, of memory of %zu bytes",
                         s.name, length, vma->vm_pgoff, bytes);
        else
            error = make(s, v, vma, length);
    }
    if (error != 0)
        kfree(v);
    return error;
}

// Takes it out of the list, under the lock; NULL: there is none. *last: nothing else shows memory
// that was freed.
view *take(unsigned long start, bool *last) {
    view **at = &g_views;
    while (*at != nullptr && (*at)->start != start)
        at = &(*at)->next;
    view *found = *at;
    if (found == nullptr)
        return nullptr;
    *at = found->next;
    *last = found->freed;
    for (const view *v = g_views; v != nullptr; v = v->next)
        if (v->freed && !v->parents && v->memory.memory == found->memory.memory)
            *last = false;
    return found;
}

} // namespace

bool views_put_off(const ledger_entry &entry) {
    bool any = false;
    locked hold(g_lock);
    for (view *v = g_views; v != nullptr; v = v->next)
        if (!v->parents && v->memory.memory == entry.memory && v->in == entry.in)
            any = v->freed = true;
    return any;
}

void views_forget(const space *in) {
    locked hold(g_lock);
    for (view *v = g_views; v != nullptr; v = v->next)
        if (v->in == in)
            v->in = nullptr;
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_dma_mmap(device *dev, vm_area_struct *vma, void *p, dma_addr_t handle,
                                  size_t bytes) {
    return show(*dev->state, vma, bytes, p, handle);
}

PAGODA_EXPORT int pagoda_dma_mmap_pages(device *dev, vm_area_struct *vma, size_t bytes,
                                        struct page *page) {
    pagoda_device_state &s = *dev->state;
    void *p = page_address(page);
    uint64_t address = DMA_MAPPING_ERROR;
    if (p != nullptr && bytes != 0)
        s.space->find(p, bytes, UINT64_MAX, &address); // not found: no such memory, show() says
    return show(s, vma, bytes, p, address);
}

PAGODA_EXPORT int pagoda_dma_munmap(const vm_area_struct *vma) {
    bool last = false;
    view *v = nullptr;
    {
        // To the end, for the end of the device waits for it: the memory may be mapped in its
        // space.
        locked hold(g_lock);
        v = take(vma->vm_start, &last);
        if (v != nullptr && !v->parents) {
            os::unmap(v->mapped, v->bytes);
            if (last)
                coherent_give_back(v->in, v->memory);
        }
    }
    if (v == nullptr) {
        complain("no view begins at %#lx", vma->vm_start);
        return -EINVAL;
    }
    kfree(v);
    return 0;
}
