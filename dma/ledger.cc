#include "dma/ledger.h"

#include "dma/mutex.h"
#include "hugepage/base.h"
#include "hugepage/provider.h"

#include <pagoda/slab.h>

#include <atomic>
#include <errno.h>
#include <pthread.h>

namespace pagoda::dma {

namespace {

struct node {
    node *next;
    ledger_entry entry;
};

struct bucket {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    node *first = nullptr;
};
constexpr unsigned kBucketBits = 8;
bucket buckets[1u << kBucketBits];

bucket &bucket_of(uint64_t address) {
    return buckets[(address >> kPageShift) * 0x9e3779b97f4a7c15 >> (64 - kBucketBits)];
}

// Whoever had a lock in the parent is not here, and neither are the devices.
void forget_in_child() {
    for (bucket &b : buckets) {
        pthread_mutex_init(&b.lock, nullptr);
        b.first = nullptr;
    }
}

std::atomic<bool> child_forgets{false};

bool same(const ledger_entry &a, const ledger_entry &b) {
    return a.in == b.in && a.address == b.address && a.memory == b.memory && a.bytes == b.bytes &&
           a.kind == b.kind;
}

} // namespace

int ledger_add(const ledger_entry &entry, bool may_block) {
    if (!child_forgets.load(std::memory_order_relaxed) &&
        !child_forgets.exchange(true, std::memory_order_relaxed) &&
        pthread_atfork(nullptr, nullptr, forget_in_child) != 0) {
        child_forgets.store(false, std::memory_order_relaxed);
        return -ENOMEM;
    }
    auto *n = static_cast<node *>(
        kmalloc(sizeof(node), may_block ? GFP_KERNEL : GFP_ATOMIC | __GFP_NOWARN));
    if (n == nullptr)
        return -ENOMEM;
    n->entry = entry;
    bucket &b = bucket_of(entry.address);
    locked hold(b.lock);
    n->next = b.first;
    b.first = n;
    return 0;
}

bool ledger_find(const space *in, uint64_t address, ledger_entry *entry) {
    bucket &b = bucket_of(address);
    locked hold(b.lock);
    for (node *n = b.first; n != nullptr; n = n->next)
        if (n->entry.in == in && n->entry.address == address) {
            *entry = n->entry;
            return true;
        }
    return false;
}

bool ledger_remove(const ledger_entry &entry) {
    node *found = nullptr;
    {
        bucket &b = bucket_of(entry.address);
        locked hold(b.lock);
        for (node **at = &b.first; *at != nullptr; at = &(*at)->next)
            if (same((*at)->entry, entry)) {
                found = *at;
                *at = found->next;
                break;
            }
    }
    kfree(found);
    return found != nullptr;
}

uint64_t ledger_forget(const space *in) {
    uint64_t count = 0;
    for (bucket &b : buckets)
        for (bool more = true; more;) {
            node *found = nullptr;
            {
                locked hold(b.lock);
                for (node **at = &b.first; *at != nullptr; at = &(*at)->next)
                    if ((*at)->entry.in == in) {
                        found = *at;
                        *at = found->next;
                        break;
                    }
            }
            more = found != nullptr;
            count += more;
            if (more && found->entry.held)
                pagoda_object_release(found->entry.memory);
            kfree(found);
        }
    return count;
}

} // namespace pagoda::dma
