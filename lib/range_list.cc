#include "lib/range_list.h"

#include "lib/heap.h"

#include <string.h>

namespace pagoda {

static uint64_t end_of(uint64_t base, uint64_t size) {
    return size > ~base ? ~uint64_t{0} : base + size;
}

bool range_list::reach(size_t count) {
    if (PAGODA_LIKELY(count <= capacity()))
        return true;
    size_t capacity = this->capacity();
    while (capacity < count)
        capacity *= 2;
    auto *bigger =
        static_cast<address_range *>(heap_alloc(capacity * sizeof(address_range), GFP_KERNEL));
    if (bigger == nullptr)
        return false;
    memcpy(bigger, array(), count_ * sizeof(address_range));
    heap_free(more_, GFP_KERNEL);
    more_ = bigger;
    more_capacity_ = capacity;
    return true;
}

void range_list::insert(size_t at, const address_range &range) {
    memmove(array() + at + 1, array() + at, (count_ - at) * sizeof(address_range));
    array()[at] = range;
    count_++;
}

void range_list::split(uint64_t address) {
    size_t i = find(address);
    if (i == count_ || array()[i].base >= address)
        return;
    address_range tail = array()[i];
    tail.size = tail.end() - address;
    tail.base = address;
    array()[i].size -= tail.size;
    insert(i + 1, tail);
}

bool range_list::cut(uint64_t base, uint64_t end) {
    if (!reach(count_ + 2))
        return false;
    split(base);
    split(end);
    return true;
}

void range_list::merge() {
    size_t kept = 0;
    for (size_t i = 0; i < count_; i++) {
        const address_range r = array()[i];
        if (kept > 0) {
            address_range &last = array()[kept - 1];
            if (last.end() == r.base && last.nid == r.nid && last.flags == r.flags) {
                last.size += r.size;
                continue;
            }
        }
        array()[kept++] = r;
    }
    count_ = kept;
}

bool range_list::add(uint64_t base, uint64_t size, int nid, uint32_t flags) {
    uint64_t end = end_of(base, size);
    if (base == end)
        return true;
    size_t gaps = 1; // before each range that it meets, and behind the last one
    for (size_t i = find(base); i < count_ && array()[i].base < end; i++)
        gaps++;
    if (!reach(count_ + gaps))
        return false;
    size_t i = find(base);
    while (base < end) {
        uint64_t stop = i < count_ && array()[i].base < end ? array()[i].base : end;
        if (base < stop)
            insert(i++, {base, stop - base, nid, flags});
        if (stop == end)
            break;
        base = array()[i++].end();
    }
    merge();
    return true;
}

bool range_list::remove(uint64_t base, uint64_t size) {
    uint64_t end = end_of(base, size);
    if (!cut(base, end))
        return false;
    size_t from = find(base);
    size_t to = from;
    while (to < count_ && array()[to].base < end)
        to++;
    memmove(array() + from, array() + to, (count_ - to) * sizeof(address_range));
    count_ -= to - from;
    merge();
    return true;
}

bool range_list::set_flags(uint64_t base, uint64_t size, uint32_t flags, bool set) {
    uint64_t end = end_of(base, size);
    if (!cut(base, end))
        return false;
    for (size_t i = find(base); i < count_ && array()[i].base < end; i++)
        array()[i].flags = set ? array()[i].flags | flags : array()[i].flags & ~flags;
    merge();
    return true;
}

uint64_t range_list::total() const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < count_; i++)
        bytes += array()[i].size;
    return bytes;
}

size_t range_list::find(uint64_t address) const {
    size_t low = 0;
    size_t high = count_;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (array()[middle].end() <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool range_list::covers(uint64_t base, uint64_t size) const {
    uint64_t end = end_of(base, size);
    for (size_t i = find(base); i < count_ && array()[i].base <= base; i++) {
        base = array()[i].end();
        if (base >= end)
            return true;
    }
    return false;
}

bool range_list::overlaps(uint64_t base, uint64_t size) const {
    size_t i = find(base);
    return size > 0 && i < count_ && array()[i].base < end_of(base, size);
}

} // namespace pagoda
