#include "dma/space.h"

#include "dma/device.h"
#include "dma/fence.h"
#include "dma/mapping.h"
#include "dma/mutex.h"
#include "dma/spaces.h"
#include "hugepage/provider.h"

#include <pagoda/layout.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <new>

namespace pagoda::dma {
namespace {

// A word of pages_: the address of the memory, and what the page is part of.
constexpr uint64_t kFirst = 1, kLast = 2, kPiece = 4, kRange = 8, kChunk = 16;
constexpr uint64_t kKinds = kPiece | kRange | kChunk, kFlags = kPageSize - 1;

constexpr int kReadWrite = kDeviceReads | kDeviceWrites;

uintptr_t number(const void *p) { return reinterpret_cast<uintptr_t>(p); }

uintptr_t granule_of(uintptr_t at) { return align_down(at, kPageblockSize); }

} // namespace

space *space::create(iommu *back_end, int *error) {
    void *memory = kvzalloc(sizeof(space), GFP_KERNEL);
    *error = -ENOMEM;
    if (memory == nullptr) {
        back_end->ops->close(*back_end);
        return nullptr;
    }
    auto *s = new (memory) space();
    if (s->init(back_end, error))
        return s;
    destroy(s);
    return nullptr;
}

bool space::init(iommu *back_end, int *error) {
    iommu_ = back_end;
    shift_ = log2_floor(back_end->granule);
    init_iova_domain(&domain_, back_end->granule, 1);
    *error = windows_.read(*iommu_);
    if (*error != 0)
        return false;
    *error = -ENOMEM;
    const pagoda_layout_record *l = pagoda_layout_get();
    linear_.of[0].memory = l->zone_base;
    linear_.of[1].memory = l->vmalloc_start;
    if (!granules_.init(l->zone_base, l->vmalloc_end - l->zone_base) ||
        iova_domain_init_rcaches(&domain_) != 0 || !reserve_holes(windows_))
        return false;
    if (translates() && !place_linear())
        return false;
    *error = 0;
    return true;
}

void space::end() {
    // In a child of fork another thread may have been at the domain: what it has is lost.
    while (!dead() && chunks_ != nullptr)
        unmap_chunk(reinterpret_cast<void *>(chunks_->at), chunks_->bytes);
    if (!dead())
        put_iova_domain(&domain_);
    iommu_->ops->close(*iommu_);
    iommu_ = nullptr;
}

void space::destroy(space *s) {
    if (s->iommu_ != nullptr)
        s->end();
    s->~space();
    kvfree(s);
}

// Addresses outside of the windows are never given out.
bool space::reserve_holes(const window_list &w) {
    return w.each_hole(
        [](void *self, uint64_t first, uint64_t last) {
            iova_domain *d = &static_cast<space *>(self)->domain_;
            // Page 0 is not the domain's.
            return last >> iova_shift(d) == 0 ||
                   reserve_iova(d, first >> iova_shift(d), last >> iova_shift(d)) != nullptr;
        },
        this);
}

// Half of the largest window for the zone and a quarter for vmalloc's range.
bool space::place_linear() {
    bool high = false;
    iova_window best = windows_.largest(&high);
    uint64_t room = best.last - best.first + 1;
    const pagoda_layout_record *l = pagoda_layout_get();
    uint64_t zone = min_of<uint64_t>(l->vmalloc_start - l->zone_base, room / 2);
    uint64_t areas = min_of<uint64_t>(l->vmalloc_end - l->vmalloc_start, room / 4);
    zone = align_down(zone, kPageblockSize);
    areas = align_down(areas, kPageblockSize);
    uint64_t start = high ? align_up(best.first, kPageblockSize)
                          : align_down(best.last + 1, kPageblockSize) - zone - areas;
    if (zone + areas == 0)
        return true;
    linear_.of[0].address = start;
    linear_.of[0].bytes = zone;
    linear_.of[1].address = start + zone;
    linear_.of[1].bytes = areas;
    return reserve_iova(&domain_, start >> shift_, (start + zone + areas - 1) >> shift_) != nullptr;
}

// Whether all that is mapped linearly does.
bool space::linear_lies_in(const window_list &w) const {
    struct check {
        const window_list &w;
        bool good;
    } c = {w, true};
    granules_.each(
        [](void *context, uintptr_t, granule g) {
            auto &all = *static_cast<check *>(context);
            uint64_t first = g.address() + g.first();
            if (g.state() == granule_state::linear)
                all.good &= all.w.contains(first, first + g.bytes() - 1);
        },
        &c);
    return c.good;
}

int space::refresh_windows() {
    window_list now;
    int error = now.read(*iommu_);
    if (error != 0)
        return error;
    iova_flush(&domain_);
    bool free = now.each_hole(
        [](void *self, uint64_t first, uint64_t last) {
            iova_domain *d = &static_cast<space *>(self)->domain_;
            return !iova_overlaps(d, first >> iova_shift(d), last >> iova_shift(d));
        },
        this);
    if (!free)
        return -EADDRINUSE;
    {
        locked_noio lock(g_granules_lock);
        if (!linear_lies_in(now))
            return -EADDRINUSE;
        windows_ = now;
    }
    return reserve_holes(now) ? 0 : -ENOMEM;
}

int space::windows(iova_window *out, int capacity) const {
    locked_noio lock(g_granules_lock);
    for (int i = 0; i < windows_.count && i < capacity; i++)
        out[i] = windows_.window[i];
    return windows_.count;
}

space_counters space::counters() const {
    return {map_calls_.load(std::memory_order_relaxed),
            unmap_calls_.load(std::memory_order_relaxed),
            mapped_bytes_.load(std::memory_order_relaxed)};
}

void space::attach(pagoda_device_state *state) {
    locked_noio lock(g_granules_lock);
    state->heap = linear_;
    state->next_beside = devices_;
    devices_ = state;
}

bool space::detach(pagoda_device_state *state) {
    locked_noio lock(g_granules_lock);
    for (pagoda_device_state **link = &devices_; *link != nullptr; link = &(*link)->next_beside)
        if (*link == state) {
            *link = state->next_beside;
            break;
        }
    return devices_ == nullptr;
}

void space::forget() {
    dead_.store(true, std::memory_order_release);
    for (pagoda_device_state *d = devices_; d != nullptr; d = d->next_beside)
        d->set_gone();
}

int space::usable() const {
    if (dead())
        return fail(ENODEV, "This process is a child of the one that opened the device: devices do "
                            "not survive a fork. Open it here, or use it in the parent.");
    return 0;
}

int space::call_map(uint64_t address, uintptr_t at, uint64_t bytes, int access) {
    fences_paused open(at, bytes);
    int error = iommu_->ops->map(*iommu_, address, at, bytes, access);
    map_calls_.fetch_add(1, std::memory_order_relaxed);
    if (error == 0)
        mapped_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    return error;
}

int space::call_unmap(uint64_t address, uint64_t bytes) {
    int error = iommu_->ops->unmap(*iommu_, address, bytes);
    unmap_calls_.fetch_add(1, std::memory_order_relaxed);
    if (error == 0)
        mapped_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
    return error;
}

// 0: not in what has a place.
uint64_t space::linear_address(uintptr_t at) const {
    for (const heap_windows::window &l : linear_.of)
        if (at - l.memory < l.bytes)
            return l.address + (at - l.memory);
    return 0;
}

uint64_t space::last_linear() const {
    uint64_t last = 0;
    for (const heap_windows::window &l : linear_.of)
        if (l.bytes != 0)
            last = max_of(last, l.address + l.bytes - 1);
    return last;
}

bool space::find(const void *p, size_t bytes, uint64_t mask, uint64_t *address) const {
    uintptr_t at = number(p);
    granule g = granules_.get(at);
    uintptr_t begin = granule_of(at);
    size_t inside = at - begin;
    uint64_t found = g.address() + inside;
    if (bytes == 0 || !g.covers(inside, min_of(inside + bytes, kPageblockSize)) || dead() ||
        bytes - 1 > mask || found > mask - (bytes - 1))
        return false;
    for (size_t left = kPageblockSize - inside; bytes > left; left += kPageblockSize) {
        granule further = granules_.get(at + left);
        if (!further.covers(0, min_of(bytes - left, kPageblockSize)) ||
            further.address() != found + left)
            return false;
    }
    *address = found;
    return true;
}

int space::reach(const void *p, size_t bytes, uint64_t mask) {
    if (int error = usable(); error != 0)
        return error;
    uintptr_t at = number(p);
    uintptr_t last = at + bytes - 1;
    if (bytes == 0 || last < at || !granules_.spans(at) || !granules_.spans(last))
        return -EFAULT;
    uint64_t address = 0;
    if (find(p, bytes, mask, &address))
        return 0;
    if (!translates())
        return -ERANGE;
    address = linear_address(at);
    if (address == 0 || linear_address(last) != address + bytes - 1 || bytes - 1 > mask ||
        address > mask - (bytes - 1))
        return -ERANGE;
    for (uintptr_t g = at; g <= last; g = granule_of(g) + kPageblockSize)
        if (int error = map_granule(g); error != 0)
            return error;
    return find(p, bytes, mask, &address) ? 0 : -EFAULT;
}

// The allocator holds it first, without our lock: it may have to give back other memory for that.
// Until it is mapped its word says so, and spaces_release() leaves it alone.
int space::map_granule(uintptr_t at) {
    uintptr_t begin = granule_of(at);
    auto *memory = reinterpret_cast<void *>(at);
    uint64_t address = linear_address(begin);
    if (!granules_.prepare(at))
        return -ENOMEM;
    {
        locked_noio lock(g_granules_lock);
        while (granules_.get(at).state() == granule_state::changing)
            pthread_cond_wait(&g_granule_changed, &g_granules_lock);
        if (granules_.get(at).mapped())
            return 0;
        if (!windows_.contains(address, address + kPageblockSize - 1))
            return -ERANGE;
        granules_.set(at, granule::of(granule_state::changing, 0, 0, 1));
    }
    void *start = nullptr;
    size_t bytes = 0;
    int held = pagoda_block_hold(memory, &start, &bytes);
    int error = held;
    size_t inside = number(start) - begin;
    if (error == 0)
        error = call_map(address + inside, number(start), bytes, kReadWrite);
    locked_noio lock(g_granules_lock);
    granules_.set(at, error == 0 ? granule::of(granule_state::linear, address,
                                               static_cast<unsigned>(inside >> kPageShift),
                                               static_cast<unsigned>(bytes >> kPageShift))
                                 : granule{});
    if (held == 0 && error != 0 && !spaces_have_granule(this, memory))
        pagoda_block_release(memory);
    pthread_cond_broadcast(&g_granule_changed);
    return error;
}

bool space::has_granule(const void *at) const {
    return granules_.get(number(at)).state() != granule_state::unmapped && !dead();
}

bool space::may_unmap_granule(const void *at) const {
    granule_state state = granules_.get(number(at)).state();
    return state == granule_state::unmapped || state == granule_state::linear || dead();
}

bool space::unmap_granule(const void *at) {
    granule g = granules_.get(number(at));
    if (g.state() != granule_state::linear || dead())
        return true;
    granules_.set(number(at), granule{});
    if (call_unmap(g.address() + g.first(), g.bytes()) == 0)
        return true;
    granules_.set(number(at), g);
    return false;
}

uint64_t space::limit_for(uint64_t mask) const {
    mask = min_of(mask, kLastAddress);
    return ((mask + 1) >> shift_) - 1; // wraps below one page; alloc_iova's range starts at 1
}

int space::reserve_addresses(uint64_t bytes, uint64_t mask, uint64_t *address) {
    if (int error = usable(); error != 0)
        return error;
    if (!translates())
        return -ERANGE;
    if (bytes == 0 || bytes > kLastAddress)
        return -EINVAL;
    if (mask < 2 * iommu_->granule - 1)
        return -ENOSPC;
    uint64_t pages = align_up(bytes, iommu_->granule) >> shift_;
    uint64_t first = alloc_iova_fast(&domain_, pages, limit_for(mask), true);
    if (first == 0)
        return -ENOSPC;
    *address = first << shift_;
    return 0;
}

void space::free_addresses(uint64_t address, uint64_t bytes) {
    if (!dead())
        free_iova_fast(&domain_, address >> shift_, align_up(bytes, iommu_->granule) >> shift_);
}

bool space::is_empty(uint64_t address, uint64_t bytes) const {
    for (uint64_t page = address >> shift_; page <= (address + bytes - 1) >> shift_; page++)
        if (pages_.get(page) != 0)
            return false;
    return true;
}

void space::fill_pages(uint64_t address, uintptr_t at, uint64_t bytes, uint64_t flags) {
    uint64_t first = address >> shift_;
    uint64_t last = (address + bytes - 1) >> shift_;
    for (uint64_t page = first; page <= last; page++)
        pages_.set(page, (at + ((page - first) << shift_)) | flags | (page == first ? kFirst : 0) |
                             (page == last ? kLast : 0));
}

int space::map_pages(uint64_t address, const void *p, size_t bytes, int access, uint64_t kind) {
    uint64_t mask = iommu_->granule - 1;
    uintptr_t at = number(p) & ~mask;
    uint64_t length = (number(p) & mask) + bytes;
    if (bytes == 0 || length < bytes || at + length < at || ((address ^ number(p)) & mask) != 0)
        return -EINVAL;
    length = align_up(length, iommu_->granule);
    address &= ~mask;
    if (!pages_.prepare(address >> shift_, (address + length - 1) >> shift_))
        return -ENOMEM;
    int error = call_map(address, at, length, access);
    if (error == 0)
        fill_pages(address, at, length, kind);
    return error;
}

// The first page's word is what two threads that unmap the same race for.
int space::unmap_pages(uint64_t address, size_t bytes, uint64_t kind) {
    uint64_t mask = iommu_->granule - 1;
    uint64_t length = align_up((address & mask) + bytes, iommu_->granule);
    uint64_t first = address >> shift_;
    uint64_t last = first + (length >> shift_) - 1;
    uint64_t word = pages_.get(first);
    if (bytes == 0 || (word & (kind | kFirst)) != (kind | kFirst) ||
        (pages_.get(last) & kLast) == 0)
        return -EINVAL;
    for (uint64_t page = first; page < last; page++)
        if ((pages_.get(page) & kLast) != 0)
            return -EINVAL;
    if (!pages_.replace(first, word, 0))
        return -EINVAL;
    int error = call_unmap(address & ~mask, length);
    if (error != 0) {
        pages_.set(first, word);
        return error;
    }
    for (uint64_t page = first + 1; page <= last; page++)
        pages_.set(page, 0);
    return 0;
}

int space::map_range(const void *p, size_t bytes, uint64_t mask, int access, uint64_t *address) {
    uint64_t inside = number(p) & (iommu_->granule - 1);
    uint64_t first = 0;
    if (bytes == 0 || inside + bytes < bytes)
        return -EINVAL;
    int error = reserve_addresses(inside + bytes, mask, &first);
    if (error != 0)
        return error;
    error = map_pages(first + inside, p, bytes, access, kRange);
    if (error != 0) {
        free_addresses(first, inside + bytes);
        return error;
    }
    *address = first + inside;
    return 0;
}

int space::unmap_range(uint64_t address, size_t bytes) {
    if (int error = usable(); error != 0)
        return error;
    int error = unmap_pages(address, bytes, kRange);
    if (error != 0)
        return error;
    uint64_t inside = address & (iommu_->granule - 1);
    free_addresses(address - inside, inside + bytes);
    return 0;
}

int space::map_at(uint64_t address, const void *p, size_t bytes, int access) {
    if (int error = usable(); error != 0)
        return error;
    return map_pages(address, p, bytes, access, kPiece);
}

int space::unmap_at(uint64_t address, size_t bytes) {
    if (int error = usable(); error != 0)
        return error;
    return unmap_pages(address, bytes, kPiece);
}

void *space::virtual_address(uint64_t address) const {
    if (dead())
        return nullptr;
    if (void *p = linear_.memory(address); p != nullptr) {
        size_t inside = number(p) - granule_of(number(p));
        return granules_.get(number(p)).covers(inside, inside + 1) ? p : nullptr;
    }
    uint64_t word = pages_.get(address >> shift_);
    if ((word & kKinds) == 0)
        return nullptr;
    return reinterpret_cast<void *>((word & ~kFlags) + (address & (iommu_->granule - 1)));
}

// Without translation: memory whose frames follow each other, as they are.
int space::physical_run(uintptr_t at, size_t bytes, unsigned bits, uint64_t *address) const {
    uint64_t first = iommu_->ops->physical(*iommu_, at);
    if (first == 0 || (first & (kPageblockSize - 1)) != 0 || first + bytes - 1 > kLastAddress ||
        (bits < 64 && (first + bytes - 1) >> bits != 0))
        return -ERANGE;
    for (size_t done = kPageSize; done < bytes; done += kPageSize)
        if (iommu_->ops->physical(*iommu_, at + done) != first + done)
            return -ERANGE;
    *address = first;
    return 0;
}

// The granules may have been mapped before the device zones got them.
int space::unmap_linear_of(const chunk *c) {
    bool all = true;
    locked_noio lock(g_granules_lock);
    for (size_t done = 0; done < c->bytes; done += kPageblockSize) {
        uintptr_t at = c->at + done;
        while (granules_.get(at).state() == granule_state::changing)
            pthread_cond_wait(&g_granule_changed, &g_granules_lock);
        all &= unmap_granule(reinterpret_cast<void *>(at));
    }
    return all ? 0 : -EBUSY;
}

int space::add_chunk(chunk *c, unsigned bits) {
    uint64_t mask = bits < 64 ? (uint64_t{1} << bits) - 1 : UINT64_MAX;
    iova *taken = nullptr;
    int error = 0;
    if (translates()) {
        uint64_t pages = c->bytes >> shift_;
        taken = alloc_iova(&domain_, pages, limit_for(mask), true);
        if (taken == nullptr) {
            iova_flush(&domain_);
            taken = alloc_iova(&domain_, pages, limit_for(mask), true);
        }
        error = taken == nullptr ? -ENOSPC : 0;
        c->address = taken != nullptr ? iova_dma_addr(&domain_, taken) : 0;
    } else {
        error = physical_run(c->at, c->bytes, bits, &c->address);
    }
    bool prepared =
        error == 0 && pages_.prepare(c->address >> shift_, (c->address + c->bytes - 1) >> shift_);
    for (size_t done = 0; prepared && done < c->bytes; done += kPageblockSize)
        prepared = !granules_.spans(c->at + done) || granules_.prepare(c->at + done);
    if (error == 0 && !prepared)
        error = -ENOMEM;
    if (error == 0)
        error = unmap_linear_of(c);
    if (error == 0 && translates())
        error = call_map(c->address, c->at, c->bytes, kReadWrite);
    if (error != 0 && taken != nullptr)
        __free_iova(&domain_, taken);
    return error;
}

int space::map_chunk(void *at, size_t bytes, unsigned bits, uint64_t *address) {
    if (int error = usable(); error != 0)
        return error;
    if (bytes == 0 || ((number(at) | bytes) & (kPageblockSize - 1)) != 0)
        return -EINVAL;
    auto *c = static_cast<chunk *>(kmalloc(sizeof(chunk), GFP_KERNEL | __GFP_NOWARN));
    if (c == nullptr)
        return -ENOMEM;
    *c = {number(at), bytes, 0, nullptr};
    if (int error = add_chunk(c, bits); error != 0) {
        kfree(c);
        return error;
    }
    fill_pages(c->address, c->at, bytes, kChunk);
    *address = c->address;
    locked_noio lock(g_granules_lock);
    for (size_t done = 0; done < bytes; done += kPageblockSize)
        if (granules_.spans(c->at + done))
            granules_.set(c->at + done,
                          granule::of(granule_state::chunk, c->address + done, 0, kPageblockPages));
    c->next = chunks_;
    chunks_ = c;
    return 0;
}

bool space::unmap_chunk(void *at, size_t bytes) {
    chunk *c = nullptr;
    {
        locked_noio lock(g_granules_lock);
        for (chunk **link = &chunks_; *link != nullptr; link = &(*link)->next)
            if ((*link)->at == number(at) && (*link)->bytes == bytes) {
                c = *link;
                *link = c->next;
                break;
            }
        for (size_t done = 0; c != nullptr && done < bytes; done += kPageblockSize)
            if (granules_.spans(c->at + done))
                granules_.set(c->at + done, granule{});
    }
    if (c == nullptr)
        return true;
    for (uint64_t page = c->address >> shift_; page <= (c->address + bytes - 1) >> shift_; page++)
        pages_.set(page, 0);
    bool mapped = translates() && !dead();
    int error = mapped ? call_unmap(c->address, bytes) : 0;
    if (mapped && error == 0)
        free_iova(&domain_, c->address >> shift_);
    if (error != 0)
        stays_mapped(iommu_->ops->name, c->address, bytes, error);
    kfree(c);
    return error == 0;
}

} // namespace pagoda::dma
