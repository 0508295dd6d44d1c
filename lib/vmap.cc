#include "lib/vmap.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/thread.h"

#include <string.h>

namespace pagoda {
namespace {

mutex lock{lock_rank::maps};
constexpr uint32_t kChains = 256;
vmap_area *chains[kChains]; // by start

vmap_area *&chain_of(uintptr_t start) {
    return chains[(start >> kPageShift) * 0x9e3779b97f4a7c15ULL >> 56];
}

size_t bytes_of(uint32_t pages) { return size_t{pages} << kPageShift; }

page *page_of(const vmap_area *a, uint32_t i) {
    return a->region != nullptr ? a->region->records + i : a->mapped[i];
}

// How many pages from the i-th on follow each other in one file.
uint32_t run_at(const vmap_area *a, uint32_t i) {
    page *first = page_of(a, i);
    uint32_t n = 1;
    while (i + n < a->pages && page_of(a, i + n) == first + n &&
           index_in_region(first) + n < region_of(first)->pages)
        n++;
    return n;
}

void drop_users(vmap_area *a) {
    if (a->region != nullptr)
        return; // its owner's, who goes with it
    for (uint32_t i = 0; i < a->pages; i++)
        region_put(region_of(a->mapped[i]), 1);
}

// Finds addresses and maps the area's pages there.
bool map_area(vmap_area *a, int prot) {
    size_t bytes = bytes_of(a->pages);
    size_t guard = sys::page_size();
    long at = sys::reserve_anywhere(bytes + guard);
    if (sys::failed(at))
        return false;
    a->start = static_cast<uintptr_t>(at);
    for (uint32_t n, i = 0; i < a->pages; i += n) {
        n = run_at(a, i);
        if (map_memfd_pages(a->start + bytes_of(i), page_of(a, i), n, prot) != 0) {
            sys::unmap(a->start, bytes + guard);
            return false;
        }
    }
    return true;
}

vmap_area *publish(vmap_area *a, int prot) {
    if (!map_area(a, prot)) {
        drop_users(a);
        heap_free(a, GFP_KERNEL);
        return nullptr;
    }
    slow_path scope;
    lock_guard hold(lock);
    vmap_area *&chain = chain_of(a->start);
    a->next = chain;
    chain = a;
    return a;
}

// Under the lock. The area that holds this address.
vmap_area *containing(uintptr_t address) {
    for (vmap_area *a : chains)
        for (; a != nullptr; a = a->next)
            if (address - a->start < bytes_of(a->pages))
                return a;
    return nullptr;
}

vmap_area *new_area(uint32_t count) {
    return static_cast<vmap_area *>(
        heap_alloc(sizeof(vmap_area) + count * sizeof(page *), GFP_KERNEL | __GFP_ZERO));
}

} // namespace

mutex &vmap_lock() { return lock; }

vmap_area *vmap_pages(::page **pages, uint32_t count, int prot) {
    vmap_area *a = new_area(count);
    if (a == nullptr)
        return nullptr;
    a->pages = count;
    for (uint32_t i = 0; i < count; i++) {
        a->mapped[i] = record_of(pages[i]);
        region_of(a->mapped[i])->users.fetch_add(1, std::memory_order_relaxed);
    }
    return publish(a, prot);
}

vmap_area *vmap_region(memfd_region *region, int prot) {
    vmap_area *a = new_area(0);
    if (a == nullptr)
        return nullptr;
    a->pages = region->pages;
    a->region = region;
    return publish(a, prot);
}

vmap_area *vmap_take(const void *start, bool region, uint32_t pages) {
    uintptr_t at = reinterpret_cast<uintptr_t>(start);
    slow_path scope;
    if (scope.nested())
        return nullptr;
    lock_guard hold(lock);
    for (vmap_area **link = &chain_of(at); *link != nullptr; link = &(*link)->next) {
        vmap_area *a = *link;
        if (a->start != at || (a->region != nullptr) != region || (pages != 0 && a->pages != pages))
            continue;
        *link = a->next;
        return a;
    }
    return nullptr;
}

void vmap_destroy(vmap_area *a) {
    sys::unmap(a->start, bytes_of(a->pages) + sys::page_size());
    drop_users(a);
    heap_free(a, GFP_KERNEL);
}

bool vmap_overlaps(uintptr_t at, size_t size) {
    slow_path scope;
    if (scope.nested())
        return true; // nobody can look
    lock_guard hold(lock);
    for (const vmap_area *a : chains)
        for (; a != nullptr; a = a->next)
            if (at < a->start + bytes_of(a->pages) + sys::page_size() && a->start < at + size)
                return true;
    return false;
}

page *vmap_find(const void *address, uint32_t *count) {
    slow_path scope;
    if (scope.nested())
        return nullptr;
    lock_guard hold(lock);
    uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const vmap_area *a = containing(at);
    if (a == nullptr)
        return nullptr;
    uint32_t i = static_cast<uint32_t>((at - a->start) >> kPageShift);
    *count = min_of(*count, run_at(a, i));
    return page_of(a, i);
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT void *pagoda_vmap(::page **pages, unsigned int count, unsigned long flags,
                                pgprot_t prot) {
    if (count == 0 || !kernel_api_enter(GFP_KERNEL) || t_thread.depth != 0)
        return nullptr;
    text_buffer<200> line;
    if (flags != VM_MAP || (prot != PAGE_KERNEL && prot != PAGE_KERNEL_RO)) {
        line << "vmap: flags " << uint64_t{flags} << ", protection " << prot
             << ": only VM_MAP with PAGE_KERNEL or PAGE_KERNEL_RO is possible";
        warn(line);
        return nullptr;
    }
    for (unsigned int i = 0; i < count; i++) {
        if (is_memfd_page(pages[i]))
            continue;
        line << "vmap: page " << i << " of " << count
             << " is private memory, which cannot be mapped twice; pages of pagoda_share_alloc() "
                "can";
        warn(line);
        return nullptr;
    }
    vmap_area *a = vmap_pages(pages, count, prot);
    return a != nullptr ? reinterpret_cast<void *>(a->start) : nullptr;
}

PAGODA_EXPORT void pagoda_vunmap(const void *address) {
    if (address == nullptr)
        return;
    if (vmap_area *a = vmap_take(address, false, 0)) {
        vmap_destroy(a);
        return;
    }
    text_buffer<120> line;
    line << "vunmap of " << address << ": no mapping of vmap() starts there";
    warn(line);
}

PAGODA_EXPORT void pagoda_vm_unmap_ram(const void *address, unsigned int count) {
    if (vmap_area *a = count != 0 ? vmap_take(address, false, count) : nullptr) {
        vmap_destroy(a);
        return;
    }
    text_buffer<160> line;
    line << "vm_unmap_ram of " << address << ": no mapping of " << uint32_t{count}
         << " pages starts there";
    warn(line);
}

PAGODA_EXPORT ::page *pagoda_vmap_to_page(const void *address) {
    uint32_t one = 1;
    return public_page(vmap_find(address, &one));
}
