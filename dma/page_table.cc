#include "dma/page_table.h"

#include <pagoda/mm.h>

namespace pagoda::dma {

page_table::table *page_table::below(const std::atomic<uint64_t> &entry) {
    return reinterpret_cast<table *>(entry.load(std::memory_order_acquire));
}

page_table::table *page_table::make(std::atomic<uint64_t> &entry) {
    static_assert(sizeof(table) == 4096);
    if (table *t = below(entry))
        return t;
    uint64_t made = get_zeroed_page(GFP_KERNEL | __GFP_NOWARN);
    uint64_t found = 0;
    if (made == 0 || entry.compare_exchange_strong(found, made, std::memory_order_acq_rel))
        return reinterpret_cast<table *>(made);
    free_page(made); // another thread was faster
    return reinterpret_cast<table *>(found);
}

std::atomic<uint64_t> *page_table::slot(uint64_t page) const {
    if (page >> kPageBits != 0)
        return nullptr;
    table *t = below(root_);
    for (unsigned level = kLevels - 1; t != nullptr && level > 0; level--)
        t = below(t->entry[page >> (level * kBits) & (kEntries - 1)]);
    return t != nullptr ? &t->entry[page & (kEntries - 1)] : nullptr;
}

bool page_table::prepare(uint64_t first, uint64_t last) {
    if (last >> kPageBits != 0)
        return false;
    for (uint64_t page = first & ~uint64_t{kEntries - 1}; page <= last; page += kEntries) {
        table *t = make(root_);
        for (unsigned level = kLevels - 1; t != nullptr && level > 0; level--)
            t = make(t->entry[page >> (level * kBits) & (kEntries - 1)]);
        if (t == nullptr)
            return false;
    }
    return true;
}

uint64_t page_table::get(uint64_t page) const {
    std::atomic<uint64_t> *s = slot(page);
    return s != nullptr ? s->load(std::memory_order_acquire) : 0;
}

void page_table::set(uint64_t page, uint64_t value) {
    slot(page)->store(value, std::memory_order_release);
}

bool page_table::replace(uint64_t page, uint64_t expected, uint64_t value) {
    return slot(page)->compare_exchange_strong(expected, value, std::memory_order_acq_rel);
}

void page_table::drop(table *t, unsigned level) {
    for (unsigned i = 0; level > 0 && i < kEntries; i++)
        if (table *child = below(t->entry[i]))
            drop(child, level - 1);
    free_page(reinterpret_cast<uintptr_t>(t));
}

page_table::~page_table() {
    if (table *t = below(root_))
        drop(t, kLevels - 1);
}

} // namespace pagoda::dma
