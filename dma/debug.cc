#include "dma/debug.h"

#include "dma/complain.h"
#include "dma/mapping.h"
#include "dma/mutex.h"
#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {

namespace {

struct record {
    record *next;
    const void *memory; // NULL: a device's
    uint64_t address;
    size_t bytes;
    dma_data_direction dir;
    const void *caller;
    bool processors; // between dma_sync_*_for_cpu and _for_device
    uint64_t sum;    // of the bytes, where the device only reads them
};

const char *name_of(dma_data_direction dir) {
    static const char *const names[] = {"DMA_BIDIRECTIONAL", "DMA_TO_DEVICE", "DMA_FROM_DEVICE"};
    return dir < DMA_NONE ? names[dir] : "DMA_NONE";
}

unsigned long long number(uint64_t address) { return address; }

uint64_t sum_of(const record &r) {
    uint64_t sum = 0xcbf29ce484222325;
    for (size_t i = 0; r.memory != nullptr && i < r.bytes; i++)
        sum = (sum ^ static_cast<const uint8_t *>(r.memory)[i]) * 0x100000001b3;
    return sum;
}

bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

bool contains(const record &r, uint64_t address, size_t bytes) {
    return address >= r.address && bytes <= r.bytes && address - r.address <= r.bytes - bytes;
}

uint64_t at(const void *p) { return reinterpret_cast<uintptr_t>(p); }

} // namespace

struct debug_table {
    pthread_mutex_t lock;
    record *first;

    // The link to the one at this address, of this size and direction where there are several.
    record **find(uint64_t address, size_t bytes, dma_data_direction dir) {
        record **found = nullptr;
        for (record **link = &first; *link != nullptr; link = &(*link)->next)
            if ((*link)->address == address) {
                found = link;
                if ((*link)->bytes == bytes && (*link)->dir == dir)
                    break;
            }
        return found;
    }

    // The one that a part belongs to: it may lie in several, of buffers that overlap.
    record *best(uint64_t address, size_t bytes, dma_data_direction dir) {
        record *found = nullptr;
        int most = 0;
        for (record *r = first; r != nullptr; r = r->next) {
            if (!overlap(r->address, r->bytes, address, bytes))
                continue;
            int rank = 1 + 2 * contains(*r, address, bytes) + (r->dir == dir);
            if (rank > most) {
                most = rank;
                found = r;
            }
        }
        return found;
    }
};

namespace {

void check_contents(const pagoda_device_state &s, const record &r) {
    if (r.dir == DMA_TO_DEVICE && !r.processors && sum_of(r) != r.sum)
        complain("%s: the %zu bytes at %p (%#llx, %s, mapped from %p) were written by the "
                 "processor while they were the device's",
                 s.name, r.bytes, r.memory, number(r.address), name_of(r.dir), r.caller);
}

void check_overlap(const pagoda_device_state &s, const record &made) {
    for (const record *r = made.next; r != nullptr; r = r->next)
        if (r->memory != nullptr && made.memory != nullptr &&
            overlap(at(r->memory), r->bytes, at(made.memory), made.bytes) &&
            (r->dir != DMA_TO_DEVICE || made.dir != DMA_TO_DEVICE)) {
            complain("%s: the %zu bytes at %p are mapped %s from %p, and %zu of %p are already, "
                     "%s from %p",
                     s.name, made.bytes, made.memory, name_of(made.dir), made.caller, r->bytes,
                     r->memory, name_of(r->dir), r->caller);
            return;
        }
}

} // namespace

void debug_mapped(pagoda_device_state &s, const void *p, size_t bytes, uint64_t address,
                  dma_data_direction dir, const void *caller) {
    auto *r = static_cast<record *>(kmalloc(sizeof(record), GFP_ATOMIC));
    if (r == nullptr) {
        complain("%s: no memory for the record of a mapping, which looks unknown from now on",
                 s.name);
        return;
    }
    debug_table &table = *s.debug;
    locked hold(table.lock);
    *r = {table.first, p, address, bytes, dir, caller, false, 0};
    if (dir == DMA_TO_DEVICE)
        r->sum = sum_of(*r);
    table.first = r;
    check_overlap(s, *r);
}

bool debug_unmapping(pagoda_device_state &s, uint64_t address, size_t *bytes,
                     dma_data_direction *dir) {
    record *r;
    {
        locked hold(s.debug->lock);
        record **link = s.debug->find(address, *bytes, *dir);
        r = link == nullptr ? nullptr : *link;
        if (r != nullptr)
            *link = r->next;
    }
    if (r == nullptr) {
        complain("%s: %#llx (%zu bytes) is unmapped and is not mapped, or not any more", s.name,
                 number(address), *bytes);
        return false;
    }
    if (r->bytes != *bytes)
        complain("%s: %#llx is unmapped with %zu bytes and was mapped with %zu, from %p", s.name,
                 number(address), *bytes, r->bytes, r->caller);
    if (r->dir != *dir)
        complain("%s: %#llx is unmapped %s and was mapped %s, from %p", s.name, number(address),
                 name_of(*dir), name_of(r->dir), r->caller);
    check_contents(s, *r);
    *bytes = r->bytes;
    *dir = r->dir;
    kfree(r);
    return true;
}

void debug_synced(pagoda_device_state &s, uint64_t address, size_t bytes, dma_data_direction dir,
                  bool for_device) {
    locked hold(s.debug->lock);
    record *r = s.debug->best(address, bytes, dir);
    if (r == nullptr)
        return; // pages of dma_alloc_pages(); what is nothing at all is reported anyway
    if (!contains(*r, address, bytes))
        complain("%s: %zu bytes at %#llx are synchronised, beyond the mapping of %zu at %#llx",
                 s.name, bytes, number(address), r->bytes, number(r->address));
    if (r->dir != dir && r->dir != DMA_BIDIRECTIONAL)
        complain("%s: %#llx is synchronised %s and was mapped %s, from %p", s.name, number(address),
                 name_of(dir), name_of(r->dir), r->caller);
    if (!for_device)
        check_contents(s, *r);
    r->processors = !for_device;
    if (for_device && r->dir == DMA_TO_DEVICE)
        r->sum = sum_of(*r);
}

void debug_forget(pagoda_device_state &s) {
    debug_table *table = s.debug;
    if (table == nullptr)
        return;
    s.debug = nullptr;
    while (record *r = table->first) {
        table->first = r->next;
        if (!s.space->dead()) // a fork parent's are not lost here
            complain("%s: the %zu bytes at %p (%#llx, %s, mapped from %p) are still mapped", s.name,
                     r->bytes, r->memory, number(r->address), name_of(r->dir), r->caller);
        kfree(r);
    }
    kfree(table);
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_dma_debug(device *dev, bool on) {
    pagoda_device_state &s = *dev->state;
    if (check_usable(s) != 0)
        return -ENODEV;
    if ((s.debug != nullptr) == on)
        return 0;
    if (live_mappings(s) != 0)
        return fail(EBUSY, "%s: dma-debug begins and ends while nothing is mapped", s.name);
    if (!on) {
        debug_forget(s);
        return 0;
    }
    auto *table = static_cast<debug_table *>(kzalloc(sizeof(debug_table), GFP_KERNEL));
    if (table == nullptr)
        return fail(ENOMEM, "%s: no memory for dma-debug", s.name);
    pthread_mutex_init(&table->lock, nullptr);
    s.debug = table;
    s.direct = false;
    return 0;
}
