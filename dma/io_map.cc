#include "dma/io_map.h"

#include "dma/os.h"

#include "hugepage/base.h"

#include <errno.h>
#include <fcntl.h>
#include <pagoda/io.h>
#include <pagoda/slab.h>
#include <stdio.h>

namespace pagoda::dma {
namespace {

struct mapping {
    mapping *next;
    const bus *owner;
    const volatile void *at; // what the program has
    void *first;             // whole pages
    size_t bytes;
};

pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
mapping *g_mappings;

void *refuse(const bus &b, int bar, step at, int error, uint64_t offset) {
    facts f = facts_of(b);
    f.number = bar;
    f.at = offset;
    f.bytes = bar >= 0 && bar < PAGODA_PCI_RESOURCES ? b.regions[bar].bytes : 0;
    say(at, error, f);
    return nullptr;
}

// Ends the mappings that `which` is true for; how many.
template <class F> int end(F which) {
    mapping *taken = nullptr;
    pthread_mutex_lock(&g_lock);
    for (mapping **at = &g_mappings; *at != nullptr;) {
        mapping *m = *at;
        if (!which(*m)) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        m->next = taken;
        taken = m;
    }
    pthread_mutex_unlock(&g_lock);
    int ended = 0;
    for (; mapping *m = taken; ended++) {
        taken = m->next;
        os::unmap(m->first, m->bytes);
        kfree(m);
    }
    return ended;
}

} // namespace

void *io_map(bus &b, int bar, uint64_t offset, uint64_t bytes, bool combine) {
    if (bar < 0 || bar >= PAGODA_PCI_RESOURCES || b.regions[bar].bytes == 0)
        return refuse(b, bar, step::bar_map, ENXIO, offset);
    const vfio::region &r = b.regions[bar];
    if (offset >= r.bytes || bytes > r.bytes - offset || bytes == 0)
        return refuse(b, bar, step::bar_map, EINVAL, offset);
    uint64_t first = align_down(offset, kPageSize);
    uint64_t length = align_up(offset + bytes - first, kPageSize);
    if (first < r.map_first || first - r.map_first > r.map_bytes ||
        length > r.map_bytes - (first - r.map_first))
        return refuse(b, bar, step::bar_map, EOPNOTSUPP, offset);
    auto *m = static_cast<mapping *>(kzalloc(sizeof(mapping), GFP_KERNEL));
    if (m == nullptr) {
        fail(ENOMEM, "no memory for a mapping");
        return nullptr;
    }
    int error = 0;
    if (combine) {
        char path[96];
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/resource%d_wc", b.at.name, bar);
        int fd = os::open(path, O_RDWR);
        m->first = fd < 0 ? nullptr : os::map(fd, first, length, &error);
        os::close(fd);
    } else {
        m->first = os::map(b.at.device, r.offset + first, length, &error);
    }
    if (m->first == nullptr) {
        kfree(m);
        return combine ? refuse(b, bar, step::write_combining, EOPNOTSUPP, offset)
                       : refuse(b, bar, step::bar_map, -error, offset);
    }
    char *at = static_cast<char *>(m->first) + (offset - first);
    m->at = at;
    m->owner = &b;
    m->bytes = length;
    pthread_mutex_lock(&g_lock);
    m->next = g_mappings;
    g_mappings = m;
    pthread_mutex_unlock(&g_lock);
    return at;
}

void io_map_end(const bus *b) {
    end([b](const mapping &m) { return m.owner == b; });
}

void io_map_forget() {
    // Another thread of the parent may have held the lock. The mappings themselves did not come
    // along (MADV_DONTFORK).
    pthread_mutex_init(&g_lock, nullptr);
    g_mappings = nullptr;
}

namespace {

void *map_physical(uint64_t phys, size_t size, bool combine) {
    int bar = -1;
    bus *b = bus_at(phys, size, &bar);
    if (b != nullptr)
        return io_map(*b, bar, phys - b->pci.resource[bar].start, size, combine);
    facts f;
    f.at = phys;
    f.bytes = size;
    say(step::address, ENXIO, f);
    return nullptr;
}

} // namespace
} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT void *pagoda_ioremap(resource_size_t phys, size_t size) {
    return map_physical(phys, size, false);
}

PAGODA_EXPORT void *pagoda_ioremap_wc(resource_size_t phys, size_t size) {
    return map_physical(phys, size, true);
}

PAGODA_EXPORT void *pagoda_ioremap_cached(resource_size_t phys, size_t size) {
    facts f;
    f.at = phys;
    f.bytes = size;
    say(step::address, EOPNOTSUPP, f);
    return nullptr;
}

PAGODA_EXPORT void pagoda_iounmap(const volatile void *addr) {
    if (addr != nullptr && end([addr](const mapping &m) { return m.at == addr; }) == 0)
        fail(EINVAL,
             "%p is no mapping of a BAR: iounmap() takes what ioremap() or pci_iomap() gave",
             const_cast<const void *>(addr));
}

PAGODA_EXPORT void *pagoda_pci_iomap(pci_dev *pdev, int bar, unsigned long offset,
                                     unsigned long max, bool combine) {
    bus *b = bus_of(pdev);
    if (b == nullptr)
        return nullptr;
    uint64_t bytes = bar >= 0 && bar < PAGODA_PCI_RESOURCES ? b->regions[bar].bytes : 0;
    uint64_t rest = offset < bytes ? bytes - offset : 0;
    return io_map(*b, bar, offset, max == 0 || max > rest ? rest : max, combine);
}

namespace {

// A BAR of an open device that [offset, offset + bytes) lies in. NULL: *error.
bus *region_of(pci_dev *pdev, int bar, uint64_t offset, size_t bytes, int *error) {
    bus *b = bus_of(pdev);
    *error = -ENODEV;
    if (b == nullptr)
        return nullptr;
    bool there = bar >= 0 && bar < PAGODA_PCI_RESOURCES && b->regions[bar].bytes != 0;
    if (there && offset <= b->regions[bar].bytes && bytes <= b->regions[bar].bytes - offset)
        return b;
    *error = there ? -EINVAL : -ENXIO;
    refuse(*b, bar, step::bar_map, -*error, offset);
    return nullptr;
}

// One access for each naturally aligned piece of a part of a BAR: its descriptor, how much was done
// before, its size, and where it is in the file.
template <class F> int in_pieces(pci_dev *pdev, int bar, uint64_t offset, size_t bytes, F access) {
    int error = 0;
    bus *b = region_of(pdev, bar, offset, bytes, &error);
    if (b == nullptr)
        return error;
    for (size_t done = 0; done < bytes;) {
        size_t piece = 8;
        while (piece > bytes - done || (offset + done) % piece != 0)
            piece /= 2;
        uint64_t at = b->regions[bar].offset + offset + done;
        error = access(b->at.device, done, piece, at);
        if (error != 0)
            return say(step::region, -error, facts_of(*b));
        done += piece;
    }
    return 0;
}

} // namespace

PAGODA_EXPORT int pagoda_pci_bar_read(pci_dev *pdev, int bar, uint64_t offset, void *to,
                                      size_t bytes) {
    return in_pieces(pdev, bar, offset, bytes, [=](int fd, size_t done, size_t piece, uint64_t at) {
        return os::read_at(fd, static_cast<char *>(to) + done, piece, at);
    });
}

PAGODA_EXPORT int pagoda_pci_bar_write(pci_dev *pdev, int bar, uint64_t offset, const void *from,
                                       size_t bytes) {
    return in_pieces(pdev, bar, offset, bytes, [=](int fd, size_t done, size_t piece, uint64_t at) {
        return os::write_at(fd, static_cast<const char *>(from) + done, piece, at);
    });
}

PAGODA_EXPORT int pagoda_pci_bar_fd(pci_dev *pdev, int bar, uint64_t *offset, uint64_t *bytes) {
    int error = 0;
    bus *b = region_of(pdev, bar, 0, 0, &error);
    if (b == nullptr)
        return error;
    // A part that begins elsewhere would be taken for the BAR's beginning.
    const vfio::region &r = b->regions[bar];
    *offset = r.offset;
    *bytes = r.map_first == 0 ? r.map_bytes : 0;
    int fd = *bytes == 0 ? -EOPNOTSUPP : os::duplicate(b->at.device);
    if (fd < 0)
        refuse(*b, bar, step::bar_map, -fd, 0);
    return fd;
}
