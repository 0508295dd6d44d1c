#include "dma/pool.h"

#include "dma/complain.h"
#include "dma/managed.h"
#include "dma/mapping.h"
#include "dma/mutex.h"
#include "dma/pool_checks.h"
#include "hugepage/base.h"

#include <errno.h>
#include <limits.h>
#include <new>
#include <stdio.h>
#include <string.h>

namespace pagoda::dma {

namespace {

constexpr size_t kSmallestBlock = 16;
constexpr size_t kLargestBlock = kPageblockSize;

struct pool : ::dma_pool {
    kmem_cache *blocks;
    pagoda_device_state *device; // NULL: closed
    space *in;
    size_t size;
    uint64_t mask;       // the coherent one of when it was created
    pool_checks *checks; // NULL: none
    pool *next;
    char name[32];
};

pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER; // the list, and windows
pool *pools;
bool fork_handled;
std::atomic<bool> checks_wanted{kDebug};

pool &internal(::dma_pool *p) { return *static_cast<pool *>(p); }
unsigned long long number(uint64_t address) { return address; }

// No block is had in the short way any more, and none is had at all where the space is gone.
void close_window(pool &p) {
    p.cache = nullptr;
    __atomic_store_n(&p.window_bytes, 0, __ATOMIC_RELEASE);
}

void in_fork_child() {
    pthread_mutex_init(&pools_lock, nullptr);
    for (pool *p = pools; p != nullptr; p = p->next) {
        close_window(*p);
        if (p->checks != nullptr)
            p->checks->reset_lock();
    }
}

// So that no pool is half on the list in a child.
int handle_fork() {
    if (fork_handled)
        return 0;
    int error = pthread_atfork([] { pthread_mutex_lock(&pools_lock); },
                               [] { pthread_mutex_unlock(&pools_lock); }, in_fork_child);
    fork_handled = error == 0;
    return -error;
}

// The granule of the first block that is placed becomes the window; it stays where it is, because
// the pool keeps pages of it.
void open_window(pool &p, void *block, uint64_t address) {
    locked hold(pools_lock);
    if (p.window_bytes != 0 || p.cache == nullptr)
        return;
    auto at = reinterpret_cast<uintptr_t>(block);
    uintptr_t inside = at & (kPageblockSize - 1);
    p.window = at - inside;
    p.window_address = address - inside;
    __atomic_store_n(&p.window_bytes, kPageblockSize, __ATOMIC_RELEASE);
}

void *place(pool &p, void *block, uint64_t *handle) {
    if (block == nullptr)
        return nullptr;
    if (p.device == nullptr || !p.in->find(block, p.size, p.mask, handle)) {
        pagoda_kmem_cache_free(p.blocks, block);
        return nullptr;
    }
    open_window(p, block, *handle);
    return block;
}

// A block that was freed is as it was left; then it looks used, but not initialised.
void check_poison(pool &p, uint8_t *block) {
    if (block[0] == kPoisonFreed && memcmp(block, block + 1, p.size - 1) == 0)
        return;
    size_t i = 0;
    while (block[i] == kPoisonFreed)
        i++;
    complain("dma_pool %s: block %p was written after it was freed: byte %zu is %#x", p.name,
             static_cast<void *>(block), i, static_cast<unsigned>(block[i]));
}

void *checked_alloc(pool &p, gfp_t flags, uint64_t *handle) {
    gfp_t plain = flags & ~__GFP_ZERO; // what is in it is looked at first
    void *block = place(p, pagoda_kmem_cache_alloc(p.blocks, plain), handle);
    if (block == nullptr)
        return nullptr;
    if (p.checks->state_of(block) == pool_checks::state::free)
        check_poison(p, static_cast<uint8_t *>(block));
    if (!p.checks->set(block, pool_checks::state::used, plain & ~GFP_ZONEMASK)) {
        pagoda_kmem_cache_free(p.blocks, block);
        return nullptr;
    }
    return memset(block, (flags & __GFP_ZERO) != 0 ? 0 : kPoisonAllocated, p.size);
}

// False: it is not to be freed.
bool check_free(pool &p, void *block, uint64_t address) {
    pool_checks::state is = p.checks->state_of(block);
    if (is != pool_checks::state::used) {
        complain(is == pool_checks::state::free
                     ? "dma_pool %s: block %p (%#llx) is freed and is free already"
                     : "dma_pool %s: %p (%#llx) is freed and is no block of the pool",
                 p.name, block, number(address));
        return false;
    }
    return true;
}

bool is_right_address(const pool &p, const void *block, uint64_t address) {
    uint64_t is = 0;
    // Without its device there is nothing to compare with.
    if (p.device == nullptr || (p.in->find(block, p.size, UINT64_MAX, &is) && is == address))
        return true;
    complain("dma_pool %s: block %p is freed with the address %#llx, which is not its own", p.name,
             block, number(address));
    return false;
}

// A name for the cache: those have no spaces.
void cache_name(char (&out)[40], const char *name) {
    snprintf(out, sizeof out, "dma-pool-%s", name);
    for (char &c : out)
        if (c == ' ')
            c = '_';
}

// The size of blocks; 0: the arguments are refused.
size_t block_size(size_t size, size_t align, size_t boundary) {
    if (size == 0 || size > INT_MAX || (align & (align - 1)) != 0)
        return 0;
    size = align_up(max_of(size, kSmallestBlock), max_of<size_t>(align, 1));
    if (boundary != 0 && (boundary < size || (boundary & (boundary - 1)) != 0))
        return 0;
    return size <= kLargestBlock ? size : 0;
}

size_t power_of_two(size_t size) { return size_t{1} << order_of(size); }

void report_used(void *context, void *block) {
    complain("dma_pool %s: block %p is still in use", static_cast<pool *>(context)->name, block);
}

pool *take_out(pool *p) {
    locked hold(pools_lock);
    for (pool **link = &pools; *link != nullptr; link = &(*link)->next)
        if (*link == p) {
            *link = p->next;
            return p;
        }
    return nullptr;
}

void free_pool(pool *p) {
    if (p->checks != nullptr)
        p->checks->~pool_checks();
    kfree(p->checks);
    kfree(p);
}

} // namespace

void pools_forget(pagoda_device_state &s) {
    locked hold(pools_lock);
    for (pool *p = pools; p != nullptr; p = p->next)
        if (p->device == &s) {
            complain("%s is closed and its dma_pool %s is not destroyed", s.name, p->name);
            close_window(*p);
            p->device = nullptr;
        }
}

} // namespace pagoda::dma

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT dma_pool *pagoda_dma_pool_create(const char *name, device *dev, size_t size,
                                               size_t align, size_t boundary) {
    size_t bytes = block_size(size, align, boundary);
    if (name == nullptr || dev == nullptr || bytes == 0) {
        fail(EINVAL,
             "a dma_pool needs a name, a device, a size of 1 byte to 2 MiB, and powers of two for "
             "alignment and boundary, which is at least the size");
        return nullptr;
    }
    pagoda_device_state &s = *dev->state;
    if (check_usable(s) != 0)
        return nullptr;
    auto *p = static_cast<pool *>(kzalloc(sizeof(pool), GFP_KERNEL));
    bool checked = checks_wanted.load(std::memory_order_relaxed);
    void *checks = checked ? kmalloc(sizeof(pool_checks), GFP_KERNEL) : nullptr;
    kmem_cache_args args = {};
    args.align = static_cast<unsigned>(power_of_two(bytes));
    args.device_mask = s.coherent_mask;
    char label[40];
    cache_name(label, name);
    kmem_cache *blocks = p == nullptr
                             ? nullptr
                             : pagoda_kmem_cache_create(label, static_cast<unsigned>(bytes), &args,
                                                        SLAB_NO_MERGE | SLAB_NO_REAP);
    bool ready = blocks != nullptr && (checks != nullptr || !checked);
    if (ready) {
        p->blocks = blocks;
        p->cache = checks == nullptr ? blocks : nullptr;
        p->device = &s;
        p->in = s.space;
        p->size = bytes;
        p->mask = args.device_mask;
        p->checks = checks == nullptr ? nullptr : new (checks) pool_checks();
        strncpy(p->name, name, sizeof p->name - 1);
        locked hold(pools_lock);
        ready = handle_fork() == 0;
        if (ready) {
            p->next = pools;
            pools = p;
        }
    }
    if (ready)
        return p;
    if (blocks != nullptr)
        pagoda_kmem_cache_destroy(blocks);
    kfree(checks);
    kfree(p);
    fail(ENOMEM, "%s: no memory for the dma_pool %s", s.name, name);
    return nullptr;
}

PAGODA_EXPORT void pagoda_dma_pool_destroy(dma_pool *of) {
    if (of == nullptr)
        return;
    pool *p = take_out(&internal(of));
    if (p == nullptr) {
        complain("dma_pool_destroy: %p is no dma_pool", static_cast<void *>(of));
        return;
    }
    if (p->checks != nullptr)
        p->checks->each_used(report_used, p);
    pagoda_kmem_cache_destroy(p->blocks); // reports what is in use, and leaks it
    free_pool(p);
}

namespace {
void end_managed(void *of) { pagoda_dma_pool_destroy(static_cast<dma_pool *>(of)); }
} // namespace

PAGODA_EXPORT dma_pool *pagoda_dmam_pool_create(const char *name, device *dev, size_t size,
                                                size_t align, size_t boundary) {
    dma_pool *of = pagoda_dma_pool_create(name, dev, size, align, boundary);
    if (of == nullptr || managed_add(dev->state, end_managed, of) == 0)
        return of;
    int error = errno;
    pagoda_dma_pool_destroy(of);
    errno = error;
    return nullptr;
}

PAGODA_EXPORT void pagoda_dmam_pool_destroy(dma_pool *of) {
    if (of == nullptr)
        return;
    pagoda_device_state *s = internal(of).device;
    if (s != nullptr && s->space->dead())
        return; // a fork parent's: it is not there
    if (s == nullptr || !managed_remove(s, end_managed, of))
        complain("dmam_pool_destroy: %p is no managed dma_pool", static_cast<void *>(of));
    else
        pagoda_dma_pool_destroy(of);
}

PAGODA_EXPORT void pagoda_dma_pool_set_checks(bool on) {
    checks_wanted.store(on, std::memory_order_relaxed);
}

PAGODA_EXPORT void *pagoda_dma_pool_alloc(dma_pool *of, gfp_t flags, dma_addr_t *handle) {
    pool &p = internal(of);
    if (p.device == nullptr || check_usable(*p.device) != 0)
        return nullptr;
    return p.checks != nullptr ? checked_alloc(p, flags, handle)
                               : place(p, pagoda_kmem_cache_alloc(p.blocks, flags), handle);
}

PAGODA_EXPORT void *pagoda_dma_pool_place(dma_pool *of, void *block, dma_addr_t *handle) {
    return place(internal(of), block, handle);
}

PAGODA_EXPORT void pagoda_dma_pool_free(dma_pool *of, void *block, dma_addr_t address) {
    pool &p = internal(of);
    if (p.device != nullptr && p.in->dead())
        return; // a fork parent's: it is not there
    if (p.checks != nullptr && !check_free(p, block, address))
        return;
    if (!is_right_address(p, block, address))
        return;
    if (p.checks != nullptr) {
        memset(block, kPoisonFreed, p.size);
        p.checks->set(block, pool_checks::state::free, GFP_ATOMIC);
    }
    pagoda_kmem_cache_free(p.blocks, block);
}
