#include "dma/spaces.h"

#include "dma/device.h"
#include "dma/mutex.h"
#include "hugepage/base.h"
#include "hugepage/provider.h"

#include <pagoda/gfp.h>
#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {

pthread_mutex_t g_granules_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t g_granule_changed = PTHREAD_COND_INITIALIZER;

namespace {

// What the device zones have: mapped in every space.
struct provided {
    void *at;
    size_t bytes;
    uint64_t last; // of its addresses, as the allocator knows it: the highest of all spaces
    provided *next;
};

// Who has it may allocate, but only so that nothing is given back meanwhile: that would come here.
pthread_mutex_t g_provide_lock = PTHREAD_MUTEX_INITIALIZER;
space *g_spaces; // changed with both locks
provided *g_provided;
bool g_forks_handled;
bool g_registered;
const char *g_reason = "no device is open";

const pagoda_dma_provider kProvider = {
    .provide = spaces_provide,
    .withdraw = spaces_withdraw,
    .release = spaces_release,
    .reason = spaces_reason,
};

// Other threads may have had the locks when the process forked.
void forget_all() {
    pthread_mutex_init(&g_granules_lock, nullptr);
    pthread_cond_init(&g_granule_changed, nullptr);
    pthread_mutex_init(&g_provide_lock, nullptr);
    for (space *s = g_spaces; s != nullptr; s = s->next)
        s->forget();
    g_provided = nullptr; // the zones' memory is not here
    g_reason = "devices do not survive a fork in the child";
}

// Each of the two only once, also where the other one fails.
int register_once() {
    int error = 0;
    if (!g_forks_handled)
        error = -pthread_atfork(nullptr, nullptr, forget_all);
    g_forks_handled = error == 0;
    if (error == 0 && !g_registered)
        error = pagoda_dma_register(&kProvider);
    g_registered |= error == 0;
    return error;
}

space *first_alive() {
    for (space *s = g_spaces; s != nullptr; s = s->next)
        if (!s->dead())
            return s;
    return nullptr;
}

// In the spaces from g_spaces to before `end`.
bool unmap_until(const space *end, const provided *p) {
    bool done = true;
    for (space *s = g_spaces; s != end; s = s->next)
        done &= s->unmap_chunk(p->at, p->bytes);
    return done;
}

const char *sentence(int error) {
    switch (error) {
    case -ENODEV:
        return "no device is open";
    case -ERANGE:
        return "without an IOMMU, the hugetlb pool has no memory at such low physical addresses";
    case -ENOSPC:
        return "no such low device addresses are free";
    default:
        return "the IOMMU refused to map the memory";
    }
}

} // namespace

int spaces_add(space *s) {
    locked_noio scope(g_provide_lock);
    int error = register_once();
    provided *p = g_provided;
    for (; error == 0 && p != nullptr; p = p->next) {
        uint64_t address = 0;
        // Not above what the allocator compares masks with.
        error = s->map_chunk(p->at, p->bytes, log2_floor(p->last) + 1, &address);
    }
    if (error != 0)
        return error; // whoever destroys the space unmaps its chunks
    locked_noio lock(g_granules_lock);
    s->next = g_spaces;
    g_spaces = s;
    return 0;
}

void spaces_remove(space *s) {
    locked_noio scope(g_provide_lock);
    locked_noio lock(g_granules_lock);
    for (space **link = &g_spaces; *link != nullptr; link = &(*link)->next)
        if (*link == s) {
            *link = s->next;
            return;
        }
}

bool spaces_have_granule(const space *s, const void *at) {
    for (space *other = g_spaces; other != nullptr; other = other->next)
        if (other != s && other->has_granule(at))
            return true;
    return false;
}

int spaces_provide(void *at, size_t bytes, unsigned bits, uint64_t *address) {
    locked_noio scope(g_provide_lock);
    int error = first_alive() != nullptr ? 0 : -ENODEV;
    auto *p = static_cast<provided *>(kmalloc(sizeof(provided), GFP_KERNEL | __GFP_NOWARN));
    if (error == 0 && p == nullptr)
        error = -ENOMEM;
    if (error == 0)
        *p = {at, bytes, 0, g_provided};
    // Each space has an address of its own for it; the highest is what masks are compared with.
    uint64_t highest = 0;
    for (space *s = g_spaces; error == 0 && s != nullptr; s = s->next) {
        if (s->dead())
            continue;
        uint64_t one = 0;
        error = s->map_chunk(at, bytes, bits, &one);
        highest = max_of(highest, one);
        if (error != 0 && !unmap_until(s, p))
            error = -EBUSY;
    }
    if (error != 0) {
        if (first_alive() != nullptr || g_spaces == nullptr)
            g_reason = sentence(error);
        kfree(p);
        return error;
    }
    p->last = highest + bytes - 1;
    g_provided = p;
    *address = highest;
    return 0;
}

bool spaces_withdraw(void *at, size_t bytes) {
    provided *found = nullptr;
    bool done = true;
    {
        locked_noio scope(g_provide_lock);
        for (provided **link = &g_provided; *link != nullptr; link = &(*link)->next)
            if ((*link)->at == at && (*link)->bytes == bytes) {
                found = *link;
                *link = found->next;
                done = unmap_until(nullptr, found);
                break;
            }
    }
    kfree(found);
    return done;
}

bool spaces_release(void *at, size_t bytes) {
    auto first = reinterpret_cast<uintptr_t>(at) & ~(kPageblockSize - 1);
    uintptr_t end = reinterpret_cast<uintptr_t>(at) + bytes;
    locked_noio lock(g_granules_lock);
    for (space *s = g_spaces; s != nullptr; s = s->next)
        for (uintptr_t g = first; g < end; g += kPageblockSize)
            if (!s->may_unmap_granule(reinterpret_cast<void *>(g)))
                return false;
    bool done = true;
    for (space *s = g_spaces; s != nullptr; s = s->next)
        for (uintptr_t g = first; g < end; g += kPageblockSize)
            done &= s->unmap_granule(reinterpret_cast<void *>(g));
    return done;
}

const char *spaces_reason() { return g_reason; }

} // namespace pagoda::dma
