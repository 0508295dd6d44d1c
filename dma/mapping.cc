#include "dma/mapping.h"

#include "dma/complain.h"
#include "dma/debug.h"
#include "dma/ledger.h"
#include "dma/swiotlb.h"
#include "hugepage/provider.h"

#include <errno.h>
#include <string.h>

namespace pagoda::dma {

namespace {

inline void count(const pagoda_device_state &s, int64_t n) { s.live->add(n); }

bool make_counters(pagoda_device_state &s) {
    tally *made = tally::create(), *none = nullptr;
    if (made != nullptr && !__atomic_compare_exchange_n(&s.live, &none, made, false,
                                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        tally::destroy(made);
    return s.live != nullptr;
}

bool map_bounced(pagoda_device_state &s, void *p, size_t bytes, bool held, uint64_t *address) {
    bounce_limits limits{s.mask, s.boundary, s.min_align_mask};
    void *copy = bounce_buffers.map(p, bytes, limits, held);
    if (copy == nullptr)
        return false;
    if (!s.space->find(copy, bytes, s.mask, address)) {
        bounced what;
        bounce_buffers.unmap(copy, false, &what);
        return false;
    }
    s.bounced.fetch_add(1, std::memory_order_relaxed);
    return true;
}

// 0 or what space::map_range() says.
int map_alone(pagoda_device_state &s, void *p, size_t bytes, int access, entry_kind kind, bool held,
              uint64_t *address) {
    int error = s.space->map_range(p, bytes, s.mask, access, address);
    if (error != 0)
        return error;
    error = ledger_add({s.space, *address, p, bytes, kind, held}, true);
    if (error != 0)
        if (int kept = s.space->unmap_range(*address, bytes); kept != 0)
            stays_mapped(s.name, *address, bytes, kept, held ? p : nullptr);
    return error;
}

// A mapping that takes more than arithmetic. The object is held, or p is not the heap's.
int map_somehow(pagoda_device_state &s, void *p, size_t bytes, int access, bool held,
                uint64_t *address) {
    bool translates = s.space->translates();
    int error = -ENOMEM;
    if (held && s.mode == PAGODA_DMA_GRANULES) {
        if (s.space->find(p, bytes, s.mask, address))
            return 0;
        error = translates ? s.space->reach(p, bytes, s.mask) : -ERANGE;
        if (error == 0)
            return s.space->find(p, bytes, s.mask, address) ? 0 : -ERANGE;
    }
    uintptr_t ends = reinterpret_cast<uintptr_t>(p) | bytes;
    bool whole = (ends & (s.space->back_end().granule - 1)) == 0;
    bool alone = translates && s.mode != PAGODA_DMA_BOUNCE;
    bool bounce = bytes <= swiotlb::max_bytes(s.min_align_mask);
    // Pages that hold other data too are not shown to the device, unless they cannot be copied.
    bool alone_first = s.mode == PAGODA_DMA_STRICT ? whole
                       : held                      ? bytes > kBounceAtMost
                                                   : whole && bytes > kBounceAtMost;
    entry_kind kind = entry_kind::range;
    if (alone && alone_first) {
        error = map_alone(s, p, bytes, access, kind, held, address);
        if (error == 0)
            return 0;
    }
    if (bounce && map_bounced(s, p, bytes, held, address))
        return 0;
    if (alone && !alone_first && !(bounce && s.mode == PAGODA_DMA_STRICT))
        error = map_alone(s, p, bytes, access, kind, held, address);
    return error;
}

// The device may be used, and its mappings can be counted.
bool can_begin(pagoda_device_state &s) {
    forget_sentence();
    if (check_usable(s) != 0)
        return false;
    if (s.live != nullptr || make_counters(s))
        return true;
    fail(ENOMEM, "%s: no memory for the counters of mappings", s.name);
    return false;
}

// Returns whether the mode is the one of the short way.
bool allow_short_way(pagoda_device_state &s) {
    bool granules = s.mode == PAGODA_DMA_GRANULES;
    s.direct = granules && s.debug == nullptr;
    // Somebody may have changed one of these and switched it off just before we switched it on.
    if (s.mode != PAGODA_DMA_GRANULES || s.debug != nullptr || s.gone)
        s.direct = false;
    return granules;
}

PAGODA_COLD dma_addr_t map_slowly(pagoda_device_state &s, void *p, size_t bytes,
                                  dma_data_direction dir) {
    int access = access_of(dir);
    if (p == nullptr || bytes == 0 || access == 0 || bytes - 1 > ~reinterpret_cast<uintptr_t>(p)) {
        fail(EINVAL, "%s: no memory, no bytes or no direction to map", s.name);
        return DMA_MAPPING_ERROR;
    }
    if (!can_begin(s))
        return DMA_MAPPING_ERROR;
    bool granules = allow_short_way(s);
    size_t most = pagoda_dma_max_mapping_size(&s.dev);
    uint64_t address;
    // Memory that the device reaches directly has no such limit.
    if (bytes > most && !(granules && s.space->find(p, bytes, s.mask, &address))) {
        fail(EINVAL,
             "%s: %zu bytes are more than the %zu that can be mapped at once without an "
             "IOMMU, except for GFP_DMA and coherent memory",
             s.name, bytes, most);
        return DMA_MAPPING_ERROR;
    }
    int hold = pagoda_object_hold(p, bytes);
    if (hold != 0 && hold != -EFAULT) {
        explain_hold(s, hold, p, bytes);
        return DMA_MAPPING_ERROR;
    }
    int error = map_somehow(s, p, bytes, access, hold == 0, &address);
    if (error != 0) {
        if (hold == 0)
            pagoda_object_release(p);
        explain(s, error, bytes);
        return DMA_MAPPING_ERROR;
    }
    count(s, 1);
    return address;
}

// Whether `dir` is a direction; says so if not.
bool check_direction(const pagoda_device_state &s, uint64_t address, size_t bytes,
                     dma_data_direction dir) {
    if (access_of(dir) != 0)
        return true;
    complain("%s: %#llx (%zu bytes) is unmapped or synchronised without a direction: nothing is "
             "done",
             s.name, static_cast<unsigned long long>(address), bytes);
    return false;
}

void complain_unmapped(const pagoda_device_state &s, uint64_t address, size_t bytes) {
    complain("%s: %#llx (%zu bytes) is unmapped and was not mapped", s.name,
             static_cast<unsigned long long>(address), bytes);
}

PAGODA_COLD void unmap_alone(pagoda_device_state &s, uint64_t address, size_t bytes) {
    ledger_entry entry;
    if (!ledger_find(s.space, address, &entry) ||
        (entry.kind != entry_kind::range && entry.kind != entry_kind::resource)) {
        complain_unmapped(s, address, bytes);
        return;
    }
    if (entry.bytes != bytes)
        complain("%s: %#llx is unmapped with %zu bytes and was mapped with %zu", s.name,
                 static_cast<unsigned long long>(address), bytes, entry.bytes);
    // Out of the ledger first: whoever comes second finds nothing.
    if (!ledger_remove(entry))
        return;
    if (int error = s.space->unmap_range(address, entry.bytes); error != 0) {
        stays_mapped(s.name, address, entry.bytes, error);
        ledger_put_back(entry);
        return;
    }
    if (entry.held)
        pagoda_object_release(entry.memory);
    count(s, -1);
}

void unmap_bounced(pagoda_device_state &s, void *copy, uint64_t address, size_t bytes,
                   bool copy_back) {
    bounced what;
    if (!bounce_buffers.unmap(copy, copy_back, &what)) {
        complain("%s: %#llx (%zu bytes) is unmapped and is not the beginning of a mapping", s.name,
                 static_cast<unsigned long long>(address), bytes);
        return;
    }
    if (what.bytes != bytes)
        complain("%s: %#llx is unmapped with %zu bytes and was mapped with %zu", s.name,
                 static_cast<unsigned long long>(address), bytes, what.bytes);
    if (what.held)
        pagoda_object_release(what.original);
    count(s, -1);
}

PAGODA_NOINLINE void unmap_slowly(pagoda_device_state &s, uint64_t address, size_t bytes,
                                  bool copy_back) {
    uint64_t direct;
    if (s.space->dead())
        return;
    void *p = s.space->virtual_address(address);
    if (p == nullptr || s.live == nullptr || bytes == 0 ||
        !s.space->find(p, bytes, UINT64_MAX, &direct) || direct != address) {
        unmap_alone(s, address, bytes);
    } else if (bounce_buffers.owns(p)) {
        unmap_bounced(s, p, address, bytes, copy_back);
    } else if (pagoda_object_release(p)) {
        count(s, -1);
    } else {
        complain_unmapped(s, address, bytes);
    }
}

} // namespace

void sync_mapping(pagoda_device_state &s, dma_addr_t address, size_t bytes, dma_data_direction dir,
                  bool for_device, const void *caller) {
    bool copies = dir != (for_device ? DMA_FROM_DEVICE : DMA_TO_DEVICE);
    if (s.space->dead() || !check_direction(s, address, bytes, dir))
        return;
    void *p = s.space->virtual_address(address);
    bool known = p != nullptr;
    if (s.debug != nullptr && for_device)
        debug_synced(s, {address, bytes, dir, made_by::single, caller}, true);
    if (known && bounce_buffers.owns(p))
        known = copies ? bounce_buffers.sync(p, bytes, for_device) : true;
    if (s.debug != nullptr && !for_device)
        debug_synced(s, {address, bytes, dir, made_by::single, caller}, false);
    if (!known)
        complain("%s: %#llx (%zu bytes) is synchronised and is not mapped", s.name,
                 static_cast<unsigned long long>(address), bytes);
}

int access_of(dma_data_direction dir) {
    switch (dir) {
    case DMA_TO_DEVICE:
        return kDeviceReads;
    case DMA_FROM_DEVICE:
        return kDeviceWrites;
    case DMA_BIDIRECTIONAL:
        return kDeviceReads | kDeviceWrites;
    default:
        return 0;
    }
}

int check_usable(const pagoda_device_state &s) {
    if (s.space->dead())
        return fail(ENODEV,
                    "%s was opened before fork(): the child has to open a device of its own",
                    s.name);
    if (s.gone.load(std::memory_order_relaxed))
        return fail(ENODEV, "%s is gone: it was removed or closed", s.name);
    return 0;
}

int explain_hold(const pagoda_device_state &s, int error, const void *p, size_t bytes) {
    return fail(-error,
                error == -ENOENT   ? "%s: the object at %p was freed; %zu bytes cannot be mapped"
                : error == -ERANGE ? "%s: the object at %p ends before the %zu bytes to be "
                                     "mapped do"
                : error == -EOVERFLOW
                    ? "%s: the object at %p is mapped too often, also for %zu bytes"
                    : "%s: the object at %p (%zu bytes) cannot be held here",
                s.name, p, bytes);
}

void stays_mapped(const char *name, uint64_t address, size_t bytes, int error, const void *held) {
    complain("%s: %#llx (%zu bytes) stays mapped, the IOMMU does not let go of it: %s", name,
             static_cast<unsigned long long>(address), bytes, strerror(-error));
    if (held != nullptr)
        pagoda_object_hold(held, bytes);
}

int explain(const pagoda_device_state &s, int error, size_t bytes) {
    if (sentence_is_kept(-error))
        return error;
    auto mask = static_cast<unsigned long long>(s.mask);
    switch (error) {
    case -ENOMEM:
        return fail(
            ENOMEM,
            "%s: %zu bytes cannot be mapped: no memory, or RLIMIT_MEMLOCK is reached (raise "
            "it with ulimit -l)",
            s.name, bytes);
    case -ENOSPC:
        return fail(ENOSPC,
                    "%s: %zu bytes cannot be mapped: no device addresses are free within the mask "
                    "%#llx, or the IOMMU accepts no further mapping (raise dma_entry_limit of "
                    "vfio_iommu_type1)",
                    s.name, bytes, mask);
    case -ERANGE:
        return fail(ERANGE,
                    "%s: %zu bytes cannot be mapped: no addresses, or no bounce buffer, within the "
                    "mask %#llx",
                    s.name, bytes, mask);
    case -EFAULT:
        return fail(EFAULT, "%s: %zu bytes cannot be mapped: it is not memory of this process",
                    s.name, bytes);
    default:
        return fail(-error, "%s: %zu bytes cannot be mapped: %s", s.name, bytes, strerror(-error));
    }
}

dma_addr_t map_by_copy(pagoda_device_state &s, void *p, size_t bytes, dma_data_direction) {
    uint64_t address;
    int hold = pagoda_object_hold(p, bytes);
    if (hold != 0 && hold != -EFAULT)
        return DMA_MAPPING_ERROR;
    if (bytes <= swiotlb::max_bytes(s.min_align_mask) && count_mappings(s, 0) &&
        map_bounced(s, p, bytes, hold == 0, &address)) {
        count(s, 1);
        return address;
    }
    if (hold == 0)
        pagoda_object_release(p);
    return DMA_MAPPING_ERROR;
}

dma_addr_t map_debugged(pagoda_device_state &s, void *p, const debug_use &use) {
    return debug_map(s, p, use, map_slowly);
}

void unmap_debugged(pagoda_device_state &s, const debug_use &use, unsigned long attrs) {
    debug_undo(s, use, (attrs & DMA_ATTR_SKIP_CPU_SYNC) == 0, unmap_slowly);
}

bool count_mappings(pagoda_device_state &s, int64_t n) {
    if (s.live == nullptr && !make_counters(s))
        return false;
    count(s, n);
    return true;
}

uint64_t live_mappings(const pagoda_device_state &s) {
    return s.live == nullptr ? 0 : static_cast<uint64_t>(s.live->sum());
}

uint64_t mappings_forget(pagoda_device_state &s) {
    uint64_t left = live_mappings(s);
    s.direct = false;
    tally::destroy(s.live);
    s.live = nullptr;
    return left;
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_dma_set_mode(device *dev, pagoda_dma_mode mode) {
    if (mode != PAGODA_DMA_GRANULES && mode != PAGODA_DMA_STRICT && mode != PAGODA_DMA_BOUNCE)
        return -EINVAL;
    dev->state->mode = mode;
    dev->state->direct = false; // the next mapping decides
    return 0;
}

PAGODA_EXPORT void pagoda_dma_get_counters(const device *dev, pagoda_dma_counters *counters) {
    const pagoda_device_state &s = *dev->state;
    iommu &back_end = s.space->back_end();
    space_counters c = s.space->counters();
    *counters = {c.map_calls,
                 c.unmap_calls,
                 c.mapped_bytes,
                 back_end.ops->entries_left(back_end),
                 live_mappings(s),
                 s.bounced.load(std::memory_order_relaxed),
                 bounce_buffers.slots_in_use() * kSlotBytes};
}

PAGODA_EXPORT int pagoda_dma_reach(device *dev, const void *p, size_t bytes) {
    pagoda_device_state &s = *dev->state;
    int error = check_usable(s);
    if (error != 0)
        return error;
    forget_sentence();
    error = s.space->translates() ? s.space->reach(p, bytes, s.mask) : -ERANGE;
    return error == 0 ? 0 : explain(s, error, bytes);
}

// Calls of their own, so that the short ways keep nothing for them.

static PAGODA_NOINLINE dma_addr_t map_the_long_way(pagoda_device_state &s, void *p, size_t bytes,
                                                   dma_data_direction dir, unsigned long attrs,
                                                   const void *caller) {
    return s.debug != nullptr ? map_debugged(s, p, {0, bytes, dir, made_by_of(attrs), caller})
                              : map_slowly(s, p, bytes, dir);
}

static PAGODA_NOINLINE void unmap_the_long_way(pagoda_device_state &s, uint64_t address,
                                               size_t bytes, dma_data_direction dir,
                                               unsigned long attrs, const void *caller) {
    if (!check_direction(s, address, bytes, dir))
        return;
    bool copy_back = dir != DMA_TO_DEVICE && (attrs & DMA_ATTR_SKIP_CPU_SYNC) == 0;
    if (s.debug != nullptr && !s.space->dead())
        unmap_debugged(s, {address, bytes, dir, made_by_of(attrs), caller}, attrs);
    else
        unmap_slowly(s, address, bytes, copy_back);
}

// Looked up before it is held, so that neither waits for the other, and once more after: what is
// held stays where it is.
PAGODA_EXPORT dma_addr_t pagoda_dma_map(device *dev, const void *p, size_t bytes,
                                        dma_data_direction dir, unsigned long attrs) {
    pagoda_device_state &s = *dev->state;
    if (PAGODA_LIKELY(s.direct.load(std::memory_order_relaxed) && dir < DMA_NONE)) {
        space::spot at = s.space->find_in_one(p, bytes, s.mask);
        if (PAGODA_LIKELY(at.word != nullptr && pagoda_object_hold(p, bytes) == 0)) {
            if (PAGODA_LIKELY(at.still())) {
                count(s, 1);
                return at.address;
            }
            pagoda_object_release(p);
        }
    }
    return map_the_long_way(s, const_cast<void *>(p), bytes, dir, attrs,
                            __builtin_return_address(0));
}

PAGODA_EXPORT void pagoda_dma_unmap(device *dev, dma_addr_t address, size_t bytes,
                                    dma_data_direction dir, unsigned long attrs) {
    pagoda_device_state &s = *dev->state;
    if (PAGODA_LIKELY(s.direct.load(std::memory_order_relaxed) && dir < DMA_NONE)) {
        // Only what is mapped by granules is in these windows, and all that is mapped is held.
        void *p = s.heap.memory(address);
        if (PAGODA_LIKELY(p != nullptr && pagoda_object_release(p))) {
            count(s, -1);
            return;
        }
    }
    unmap_the_long_way(s, address, bytes, dir, attrs, __builtin_return_address(0));
}

PAGODA_EXPORT dma_addr_t pagoda_dma_map_resource(device *dev, phys_addr_t at, size_t bytes,
                                                 dma_data_direction dir, unsigned long attrs) {
    pagoda_device_state &s = *dev->state;
    void *p = reinterpret_cast<void *>(at);
    int access = access_of(dir);
    uint64_t address;
    if (p == nullptr || bytes == 0 || access == 0 || pagoda_virt_addr_valid(p)) {
        fail(EINVAL, "%s: only a device's memory can be mapped as a resource", s.name);
        return DMA_MAPPING_ERROR;
    }
    if (!can_begin(s))
        return DMA_MAPPING_ERROR;
    int error = s.space->translates()
                    ? map_alone(s, p, bytes, access, entry_kind::resource, false, &address)
                    : -ERANGE;
    if (error != 0) {
        explain(s, error, bytes);
        return DMA_MAPPING_ERROR;
    }
    count(s, 1);
    if (s.debug != nullptr &&
        !debug_made(s, nullptr,
                    {address, bytes, dir, made_by_of(attrs), __builtin_return_address(0)})) {
        unmap_alone(s, address, bytes);
        return DMA_MAPPING_ERROR;
    }
    return address;
}

PAGODA_EXPORT void pagoda_dma_sync_for_cpu(device *dev, dma_addr_t address, size_t bytes,
                                           dma_data_direction dir) {
    sync_mapping(*dev->state, address, bytes, dir, false, __builtin_return_address(0));
}

PAGODA_EXPORT void pagoda_dma_sync_for_device(device *dev, dma_addr_t address, size_t bytes,
                                              dma_data_direction dir) {
    sync_mapping(*dev->state, address, bytes, dir, true, __builtin_return_address(0));
}

PAGODA_EXPORT bool pagoda_dma_need_sync(device *dev, dma_addr_t address) {
    void *p = dev->state->space->virtual_address(address);
    return p != nullptr && (bounce_buffers.owns(p) || debug_guards(*dev->state));
}
