#include "lib/vm_range.h"

#include "hugepage/meta.h"

namespace pagoda {

namespace {
constexpr uint64_t kGranules = kVmallocSpan >> kPageblockShift;

// Granules to leave out so that the rest starts at a multiple of `align`.
uint32_t lead_of(uint32_t first, uint32_t align) {
    // Alignment is of addresses: the base is 1 GiB aligned, larger alignments count from zero.
    uint64_t base = g_space.vmalloc_base >> kPageblockShift;
    return static_cast<uint32_t>(align_up(base + first, align) - (base + first));
}
} // namespace

void vm_range::set_index(vm_area *a) {
    index()[a->first] = a;
    index()[a->first + a->granules - 1] = a;
}

// Entries of a span that changes its bounds must not stay behind: they would pass for a span.
void vm_range::clear_index(const vm_area *a) {
    index()[a->first] = nullptr;
    index()[a->first + a->granules - 1] = nullptr;
}

void vm_range::put_bin(vm_area *a) {
    a->state = vm_state::free;
    vm_area *&head = bins_[log2_floor(a->granules)];
    a->next = head;
    a->prev = nullptr;
    if (head != nullptr)
        head->prev = a;
    head = a;
    set_index(a);
}

void vm_range::take_bin(vm_area *a) {
    if (a->next != nullptr)
        a->next->prev = a->prev;
    if (a->prev != nullptr)
        a->prev->next = a->next;
    else
        bins_[log2_floor(a->granules)] = a->next;
    a->next = a->prev = nullptr;
}

// Cuts `granules` off the front of a span that is on no list; returns the rest (NULL: no record).
vm_area *vm_range::split(vm_area *a, uint32_t granules) {
    auto *rest = static_cast<vm_area *>(meta_alloc(sizeof(vm_area), GFP_KERNEL));
    if (rest == nullptr)
        return nullptr;
    rest->first = a->first + granules;
    rest->granules = a->granules - granules;
    a->granules = granules;
    set_index(a);
    set_index(rest);
    return rest;
}

vm_area *vm_range::find_bin(uint32_t granules, uint32_t align) const {
    for (unsigned bin = log2_floor(granules); bin < sizeof bins_ / sizeof bins_[0]; bin++)
        for (vm_area *a = bins_[bin]; a != nullptr; a = a->next)
            if (a->granules >= granules && a->granules - granules >= lead_of(a->first, align))
                return a;
    return nullptr;
}

vm_area *vm_range::extend_frontier(uint32_t granules) {
    uint64_t end = uint64_t{frontier_} + granules;
    if (end > kGranules || !g_space.vm_index.reach(end * sizeof(vm_area *)))
        return nullptr;
    auto *a = static_cast<vm_area *>(meta_alloc(sizeof(vm_area), GFP_KERNEL));
    if (a == nullptr)
        return nullptr;
    a->first = frontier_;
    a->granules = granules;
    frontier_ += granules;
    set_index(a);
    return a;
}

vm_area *vm_range::take(uint32_t granules, uint32_t align) {
    vm_area *a = find_bin(granules, align);
    if (a != nullptr)
        take_bin(a);
    else
        a = extend_frontier(granules + lead_of(frontier_, align));
    if (a == nullptr)
        return nullptr;
    if (uint32_t lead = lead_of(a->first, align)) {
        vm_area *rest = split(a, lead);
        put_bin(a);
        if (rest == nullptr)
            return nullptr;
        a = rest;
    }
    if (a->granules > granules)
        if (vm_area *rest = split(a, granules))
            put_bin(rest);
    a->state = vm_state::busy;
    set_index(a);
    return a;
}

void vm_range::release(vm_area *a) {
    if (a->first > 0) {
        vm_area *below = index()[a->first - 1];
        if (below->state == vm_state::free && !below->lost) {
            take_bin(below);
            clear_index(below);
            clear_index(a);
            below->granules += a->granules;
            meta_free(a, sizeof *a);
            a = below;
        }
    }
    uint32_t end = a->first + a->granules;
    if (end < frontier_) {
        vm_area *above = index()[end];
        if (above->state == vm_state::free && !above->lost) {
            take_bin(above);
            clear_index(above);
            clear_index(a);
            a->granules += above->granules;
            meta_free(above, sizeof *above);
        }
    }
    a->bytes = a->mapped = 0;
    put_bin(a);
}

bool vm_range::widen(vm_area *a, uint32_t granules) {
    uint32_t more = granules - a->granules;
    uint32_t end = a->first + a->granules;
    if (end == frontier_) {
        if (uint64_t{end} + more > kGranules ||
            !g_space.vm_index.reach((uint64_t{end} + more) * sizeof(vm_area *)))
            return false;
        frontier_ += more;
        clear_index(a);
        a->granules = granules;
        set_index(a);
        return true;
    }
    vm_area *above = index()[end];
    if (above->state != vm_state::free || above->lost || above->granules < more)
        return false;
    take_bin(above);
    clear_index(above);
    clear_index(a);
    if (above->granules > more) {
        above->first += more;
        above->granules -= more;
        put_bin(above);
    } else {
        meta_free(above, sizeof *above);
    }
    a->granules = granules;
    set_index(a);
    return true;
}

vm_area *vm_range::at(const void *p) const {
    uintptr_t offset = reinterpret_cast<uintptr_t>(p) - g_space.vmalloc_base;
    uint64_t granule = offset >> kPageblockShift;
    return g_space.vmalloc_base != 0 && granule < frontier_ ? index()[granule] : nullptr;
}

vm_area *vm_range::containing(const void *p) const {
    uintptr_t offset = reinterpret_cast<uintptr_t>(p) - g_space.vmalloc_base;
    uint64_t granule = offset >> kPageblockShift;
    if (g_space.vmalloc_base == 0 || granule >= frontier_)
        return nullptr;
    // Inner granules of a span may hold pointers of spans long merged: only a span that starts at
    // its own index entry and covers the granule counts.
    for (uint64_t g = granule + 1; g-- > 0;) {
        vm_area *a = index()[g];
        if (a != nullptr && a->first == g && g + a->granules > granule)
            return a;
    }
    return nullptr;
}

} // namespace pagoda
