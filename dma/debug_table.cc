#include "dma/debug_table.h"

#include "hugepage/base.h"

namespace pagoda::dma {

void debug_table::add(debug_record *r) {
    r->by_address.first = r->use.address;
    r->by_address.last = r->use.address + r->use.bytes - 1;
    addresses.insert(&r->by_address);
    if (r->memory == nullptr)
        return;
    r->by_memory.first = reinterpret_cast<uintptr_t>(r->memory);
    r->by_memory.last = r->by_memory.first + r->use.bytes - 1;
    if (r->use.by <= made_by::list)
        memory.insert(&r->by_memory);
}

void debug_table::remove(debug_record *r) {
    addresses.remove(&r->by_address);
    if (r->memory != nullptr && r->use.by <= made_by::list)
        memory.remove(&r->by_memory);
}

debug_record *debug_table::find(const debug_use &use) const {
    debug_record *found = nullptr;
    int most = -1;
    interval *i = addresses.find(use.address, use.address);
    for (; i != nullptr; i = interval_tree::next(i, use.address, use.address)) {
        debug_record &r = debug_record::of_address(i);
        bool by = r.use.by == use.by;
        int rank = 8 * (by && r.use.pieces == use.pieces) + 4 * by +
                   2 * (r.use.bytes == use.bytes) + (r.use.dir == use.dir);
        if (r.use.address == use.address && rank > most) {
            most = rank;
            found = &r;
        }
    }
    return found;
}

debug_record *debug_table::best(const debug_use &part) const {
    debug_record *found = nullptr;
    int most = 0;
    uint64_t last = part.address + (part.bytes == 0 ? 0 : part.bytes - 1);
    interval *i = addresses.find(part.address, last);
    for (; i != nullptr; i = interval_tree::next(i, part.address, last)) {
        debug_record &r = debug_record::of_address(i);
        int rank = 1 + 2 * r.contains(part) + (r.use.dir == part.dir);
        if (rank > most) {
            most = rank;
            found = &r;
        }
    }
    return found;
}

const debug_past *debug_table::find_past(uint64_t address) const {
    for (size_t i = 1; i <= min_of(past_ever, kPast); i++)
        if (const debug_past &p = past[(past_ever - i) % kPast]; p.address == address)
            return &p;
    return nullptr;
}

const char *name_of(dma_data_direction dir) {
    static const char *const names[] = {"DMA_BIDIRECTIONAL", "DMA_TO_DEVICE", "DMA_FROM_DEVICE"};
    return dir < DMA_NONE ? names[dir] : "DMA_NONE";
}

const char *maker_of(made_by by) {
    static const char *const names[] = {
        "dma_map_single", "dma_map_page",       "dma_map_phys",    "dma_map_resource",
        "dma_map_sg",     "dma_alloc_coherent", "dma_alloc_pages", "dma_alloc_noncontiguous"};
    return names[static_cast<int>(by)];
}

const char *undoer_of(made_by by) {
    static const char *const names[] = {
        "dma_unmap_single", "dma_unmap_page",    "dma_unmap_phys", "dma_unmap_resource",
        "dma_unmap_sg",     "dma_free_coherent", "dma_free_pages", "dma_free_noncontiguous"};
    return names[static_cast<int>(by)];
}

} // namespace pagoda::dma
