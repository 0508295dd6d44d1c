#include "lib/memblock.h"

#include "hugepage/options.h"
#include "hugepage/page.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/kernel_api.h"
#include "lib/range_list.h"
#include "lib/thread.h"

#include <errno.h>
#include <string.h>

namespace pagoda {
namespace {

struct memblock {
    range_list areas; // all that was set aside
    range_list memory;
    range_list reserved;
    uint64_t below_top = 0;      // of the current limit: all is zero while nothing is used
    uint64_t unmanaged_base = 0; // what mem= leaves to the program
    uint64_t unmanaged_size = 0;
    bool bottom_up = false;
    bool closed = false;
};
constinit memblock boot;

void *virt(uint64_t address) { return reinterpret_cast<void *>(g_pagemap.base + address); }

int result(bool changed) { return boot.closed ? -EBUSY : changed ? 0 : -ENOMEM; }

// Free memory, from the bottom or from the top.

// One stretch of memory without the reserved ranges in it.
struct stretch {
    uint64_t from;
    uint64_t to;
};

// Calls visit(stretch) for each, ascending or descending, until it returns true.
template <class Visit> bool each_free(bool ascending, Visit visit) {
    size_t ranges = boot.memory.count();
    for (size_t n = 0; n < ranges; n++) {
        const address_range &m = boot.memory[ascending ? n : ranges - 1 - n];
        if ((m.flags & MEMBLOCK_NOMAP) != 0)
            continue;
        size_t first = boot.reserved.find(m.base);
        size_t last = first; // behind the reserved ranges that m meets
        while (last < boot.reserved.count() && boot.reserved[last].base < m.end())
            last++;
        size_t stretches = last - first + 1; // before each of them, and behind the last
        for (size_t k = 0; k < stretches; k++) {
            size_t i = first + (ascending ? k : stretches - 1 - k);
            uint64_t from = i > first ? max_of(boot.reserved[i - 1].end(), m.base) : m.base;
            uint64_t to = i < last ? min_of(boot.reserved[i].base, m.end()) : m.end();
            if (from < to && visit(stretch{from, to}))
                return true;
        }
    }
    return false;
}

// Reserves `size` bytes in [min, max); 0: there are none.
uint64_t take(uint64_t size, uint64_t align, uint64_t min, uint64_t max) {
    if (align == 0)
        align = PAGODA_MEMBLOCK_ALIGN;
    if (size == 0 || !is_power_of_two(align))
        return 0;
    uint64_t at = 0;
    each_free(boot.bottom_up, [&](stretch s) {
        uint64_t from = max_of(s.from, max_of(min, uint64_t{kPageSize})); // 0 means failure
        uint64_t to = min_of(s.to, max);
        if (from >= to || size > to - from)
            return false;
        uint64_t place = boot.bottom_up ? align_up(from, align) : align_down(to - size, align);
        if (place < from || place > to - size)
            return false;
        at = place;
        return true;
    });
    return at != 0 && boot.reserved.add(at, size) ? at : 0;
}

PAGODA_COLD void report_closed(const char *call, uint64_t size) {
    text_buffer<160> t;
    t << call << " of " << size << " bytes after memblock_free_all: the boot stage is over";
    warn(t);
}

// The page allocator.

// Whole pages of [from, to); returns their bytes.
uint64_t give(uint64_t from, uint64_t to) {
    from = align_up(from, kPageSize);
    to = align_down(to, kPageSize);
    if (from >= to)
        return 0;
    // Pages that were never touched, or are empty again, read as zero and hold no memory.
    auto first = static_cast<uint32_t>(from >> kPageShift);
    auto count = static_cast<uint32_t>((to - from) >> kPageShift);
    slow_path scope;
    bool dirty = options().hugetlb_shift != 0 || !zone_normal().discard_set_aside(first, count);
    zone_normal().free_set_aside(first, count, dirty);
    return to - from;
}

// Setting aside.

void add_area(uint64_t base, uint64_t size) {
    const option_values &o = options();
    bool first = boot.areas.count() == 0;
    boot.areas.add(base, size);
    uint64_t managed = size;
    if (o.mem_bytes != 0)
        managed = min_of(size, o.mem_bytes - min_of(boot.memory.total(), o.mem_bytes));
    if (managed < size) {
        boot.unmanaged_base = base + managed;
        boot.unmanaged_size = size - managed;
    }
    boot.memory.add(base, managed);
    if (first && o.exclude_to != 0)
        boot.memory.remove(base + o.exclude_from, o.exclude_to - o.exclude_from);
}

const range_list &list_of(pagoda_memblock_type type) {
    return type == PAGODA_MEMBLOCK_MEMORY ? boot.memory : boot.reserved;
}

} // namespace

void boot_start() {
    const option_values &o = options();
    auto refused = [](const char *option, uint64_t bytes) {
        text_buffer<160> t;
        t << option << bytes << ": there is not so much memory";
        warn(t);
    };
    if (o.boot_bytes != 0 && pagoda_boot_reserve(o.boot_bytes) != 0)
        refused("boot=", o.boot_bytes);
    if (o.contig_bytes != 0 && pagoda_contig_reserve(o.contig_bytes) != 0)
        refused("contig=", o.contig_bytes);
}

bool memblock_has(const void *p) {
    uint64_t page = align_down(reinterpret_cast<uintptr_t>(p) - g_pagemap.base, kPageSize);
    if (!boot.areas.covers(page, kPageSize))
        return false;
    size_t i = boot.memory.find(page);
    bool given = boot.closed && boot.memory.covers(page, kPageSize) &&
                 (boot.memory[i].flags & MEMBLOCK_NOMAP) == 0 &&
                 !boot.reserved.overlaps(page, kPageSize);
    return !given;
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT int pagoda_boot_reserve(size_t bytes) {
    if (boot.closed)
        return -EBUSY;
    if (bytes == 0)
        return -EINVAL;
    if (bytes > kZoneSpan / 2 || !kernel_api_enter(GFP_KERNEL))
        return -ENOMEM;
    bytes = align_up(bytes, kPageblockSize);
    uint32_t first = kNoPage;
    {
        slow_path scope;
        if (!scope.nested())
            first = zone_normal().set_aside(static_cast<uint32_t>(bytes >> kPageblockShift));
    }
    if (first == kNoPage)
        return -ENOMEM;
    add_area(uint64_t{first} << kPageShift, bytes);
    return 0;
}

PAGODA_EXPORT void *pagoda_boot_unmanaged(size_t *bytes) {
    if (bytes != nullptr)
        *bytes = boot.unmanaged_size;
    return boot.unmanaged_size != 0 ? virt(boot.unmanaged_base) : nullptr;
}

PAGODA_EXPORT void *pagoda_memblock_virt(phys_addr_t address) { return virt(address); }

PAGODA_EXPORT phys_addr_t pagoda_memblock_phys(const void *p) {
    return reinterpret_cast<uintptr_t>(p) - g_pagemap.base;
}

PAGODA_EXPORT int pagoda_memblock_add(phys_addr_t base, phys_addr_t size, int nid,
                                      unsigned int flags) {
    if (!boot.closed && size != 0 && !boot.areas.covers(base, size))
        return -EINVAL;
    return result(boot.closed || boot.memory.add(base, size, nid, flags));
}

PAGODA_EXPORT int pagoda_memblock_remove(phys_addr_t base, phys_addr_t size) {
    return result(boot.closed || boot.memory.remove(base, size));
}

PAGODA_EXPORT int pagoda_memblock_reserve(phys_addr_t base, phys_addr_t size) {
    return result(boot.closed || boot.reserved.add(base, size));
}

PAGODA_EXPORT int pagoda_memblock_phys_free(phys_addr_t base, phys_addr_t size) {
    return result(boot.closed || boot.reserved.remove(base, size));
}

PAGODA_EXPORT int pagoda_memblock_mark(phys_addr_t base, phys_addr_t size, unsigned int flag,
                                       bool set) {
    return result(boot.closed || boot.memory.set_flags(base, size, flag, set));
}

PAGODA_EXPORT void pagoda_memblock_enforce_memory_limit(phys_addr_t limit) {
    for (size_t i = 0; !boot.closed && i < boot.memory.count(); i++) {
        const address_range &m = boot.memory[i];
        if (limit < m.size) {
            boot.memory.remove(m.base + limit, ~uint64_t{0});
            return;
        }
        limit -= m.size;
    }
}

PAGODA_EXPORT bool pagoda_memblock_next(enum pagoda_memblock_type type, uint64_t *i,
                                        phys_addr_t *start, phys_addr_t *end, int *nid) {
    uint64_t from = 0;
    uint64_t to = 0;
    if (type == PAGODA_MEMBLOCK_FREE) {
        uint64_t left = *i;
        if (!each_free(true, [&](stretch s) {
                from = s.from;
                to = s.to;
                return left-- == 0;
            }))
            return false;
    } else {
        const range_list &list = list_of(type);
        if (*i >= list.count())
            return false;
        from = list[*i].base;
        to = list[*i].end();
    }
    ++*i;
    if (start != nullptr)
        *start = from;
    if (end != nullptr)
        *end = to;
    if (nid != nullptr) {
        const range_list &list = type == PAGODA_MEMBLOCK_RESERVED ? boot.reserved : boot.memory;
        *nid = list[list.find(from)].nid;
    }
    return true;
}

PAGODA_EXPORT bool pagoda_memblock_covers(enum pagoda_memblock_type type, phys_addr_t base,
                                          phys_addr_t size) {
    if (type == PAGODA_MEMBLOCK_FREE)
        return each_free(
            true, [&](stretch s) { return base >= s.from && base < s.to && size <= s.to - base; });
    return list_of(type).covers(base, size);
}

PAGODA_EXPORT bool pagoda_memblock_overlaps(enum pagoda_memblock_type type, phys_addr_t base,
                                            phys_addr_t size) {
    if (type == PAGODA_MEMBLOCK_FREE)
        return each_free(true, [&](stretch s) {
            return size != 0 && base < s.to && (base >= s.from || size > s.from - base);
        });
    return list_of(type).overlaps(base, size);
}

PAGODA_EXPORT phys_addr_t pagoda_memblock_bytes(enum pagoda_memblock_type type) {
    if (type != PAGODA_MEMBLOCK_FREE)
        return list_of(type).total();
    uint64_t bytes = 0;
    each_free(true, [&](stretch s) {
        bytes += s.to - s.from;
        return false;
    });
    return bytes;
}

PAGODA_EXPORT bool pagoda_memblock_is_map_memory(phys_addr_t address) {
    size_t i = boot.memory.find(address);
    return i < boot.memory.count() && boot.memory[i].base <= address &&
           (boot.memory[i].flags & MEMBLOCK_NOMAP) == 0;
}

PAGODA_EXPORT phys_addr_t pagoda_memblock_start() {
    return boot.memory.count() != 0 ? boot.memory[0].base : 0;
}

PAGODA_EXPORT phys_addr_t pagoda_memblock_end() {
    return boot.memory.count() != 0 ? boot.memory[boot.memory.count() - 1].end() : 0;
}

PAGODA_EXPORT phys_addr_t pagoda_memblock_phys_alloc(phys_addr_t size, phys_addr_t align,
                                                     phys_addr_t min, phys_addr_t max) {
    if (boot.closed) {
        report_closed("memblock_phys_alloc", size);
        return 0;
    }
    return take(size, align, min, max == MEMBLOCK_ALLOC_ACCESSIBLE ? ~boot.below_top : max);
}

PAGODA_EXPORT void *pagoda_memblock_alloc(phys_addr_t size, phys_addr_t align, phys_addr_t min,
                                          phys_addr_t max, bool zero) {
    if (boot.closed) {
        report_closed("memblock_alloc", size);
        return nullptr;
    }
    max = max == MEMBLOCK_ALLOC_ACCESSIBLE ? ~boot.below_top : min_of(max, ~boot.below_top);
    uint64_t at = take(size, align, min, max);
    if (at == 0 && min != 0)
        at = take(size, align, 0, max);
    if (at == 0)
        return nullptr;
    return zero ? memset(virt(at), 0, size) : virt(at);
}

PAGODA_EXPORT void *pagoda_memblock_alloc_or_panic(phys_addr_t size, phys_addr_t align,
                                                   const char *caller) {
    if (void *p = pagoda_memblock_alloc(size, align, 0, MEMBLOCK_ALLOC_ACCESSIBLE, true))
        return p;
    text_buffer<200> t;
    t << caller << ": there are no " << size << " bytes for the boot stage";
    warn(t);
    sys::abort_process();
}

PAGODA_EXPORT size_t pagoda_memblock_free_all() {
    if (boot.closed)
        return 0;
    boot.closed = true;
    size_t bytes = 0;
    each_free(true, [&](stretch s) {
        bytes += give(s.from, s.to);
        return false;
    });
    return bytes;
}

PAGODA_EXPORT int pagoda_memblock_free_late(phys_addr_t base, phys_addr_t size) {
    if (!boot.closed || size == 0 || !boot.reserved.covers(base, size) ||
        !boot.memory.covers(base, size) || !boot.reserved.remove(base, size))
        return -EINVAL;
    give(base, base + size);
    return 0;
}

PAGODA_EXPORT phys_addr_t pagoda_memblock_current_limit() { return ~boot.below_top; }
PAGODA_EXPORT void pagoda_memblock_set_current_limit(phys_addr_t limit) {
    boot.below_top = ~uint64_t{limit};
}
PAGODA_EXPORT bool pagoda_memblock_bottom_up() { return boot.bottom_up; }
PAGODA_EXPORT void pagoda_memblock_set_bottom_up(bool bottom_up) { boot.bottom_up = bottom_up; }
