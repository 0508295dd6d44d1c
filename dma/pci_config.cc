#include "dma/pci_config.h"

#include "dma/os.h"

#include "hugepage/base.h"

#include <errno.h>

namespace pagoda::dma {
namespace {

constexpr int kExtended = 0x100;      // where extended configuration space begins
constexpr int kMostCapabilities = 48; // as many as fit: a broken list may run in a circle
constexpr int kMostExtended = (4096 - kExtended) / 8;

int access(bus &b, int where, int bytes, uint32_t *value, bool write) {
    const vfio::region &config = b.regions[kConfigRegion];
    facts f = facts_of(b);
    bool width = bytes == 1 || bytes == 2 || bytes == 4;
    if (!width || where < 0 || where % bytes != 0 ||
        static_cast<uint64_t>(where) + static_cast<uint64_t>(bytes) > config.bytes)
        return say(step::region, EINVAL, f);
    uint64_t at = config.offset + static_cast<uint64_t>(where);
    // Both sides are little-endian: the value's first bytes are the register's.
    int error = write ? os::write_at(b.at.device, value, static_cast<size_t>(bytes), at)
                      : os::read_at(b.at.device, value, static_cast<size_t>(bytes), at);
    return error != 0 ? say(step::region, -error, f) : 0;
}

uint32_t read(bus &b, int where, int bytes) {
    uint32_t value = 0;
    return access(b, where, bytes, &value, false) == 0 ? value : 0;
}

} // namespace

int config_command(bus &b, unsigned bits, bool set) {
    pthread_mutex_lock(&b.lock);
    uint32_t command = 0;
    int error = access(b, PCI_COMMAND, 2, &command, false);
    uint32_t wanted = set ? command | bits : command & ~bits;
    if (error == 0 && wanted != command)
        error = access(b, PCI_COMMAND, 2, &wanted, true);
    pthread_mutex_unlock(&b.lock);
    return error;
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_pci_config_read(pci_dev *pdev, int where, int bytes, uint32_t *value) {
    *value = UINT32_MAX;
    bus *b = bus_of(pdev);
    if (b == nullptr)
        return -ENODEV;
    uint32_t read = 0;
    int error = access(*b, where, bytes, &read, false);
    if (error == 0)
        *value = read;
    return error;
}

PAGODA_EXPORT int pagoda_pci_config_write(pci_dev *pdev, int where, int bytes, uint32_t value) {
    bus *b = bus_of(pdev);
    return b == nullptr ? -ENODEV : access(*b, where, bytes, &value, true);
}

PAGODA_EXPORT int pagoda_pci_command(pci_dev *pdev, unsigned bits, bool set) {
    bus *b = bus_of(pdev);
    return b == nullptr ? -ENODEV : config_command(*b, bits, set);
}

PAGODA_EXPORT int pagoda_pci_find_capability(pci_dev *pdev, int capability) {
    bus *b = bus_of(pdev);
    if (b == nullptr || (read(*b, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) == 0)
        return 0;
    int at = static_cast<int>(read(*b, PCI_CAPABILITY_LIST, 1) & ~3u);
    for (int i = 0; at >= PCI_STD_HEADER_SIZEOF && i < kMostCapabilities; i++) {
        uint32_t header = read(*b, at, 2);
        if ((header & 0xff) == static_cast<uint32_t>(capability))
            return at;
        at = static_cast<int>(header >> 8 & ~3u);
    }
    return 0;
}

PAGODA_EXPORT int pagoda_pci_find_ext_capability(pci_dev *pdev, int start, int capability) {
    bus *b = bus_of(pdev);
    if (b == nullptr || b->regions[kConfigRegion].bytes <= static_cast<uint64_t>(kExtended))
        return 0;
    int at = start != 0 ? start : kExtended;
    for (int i = 0; at >= kExtended && i < kMostExtended; i++) {
        uint32_t header = read(*b, at, 4);
        if (at != start && header != 0 &&
            PCI_EXT_CAP_ID(header) == static_cast<uint32_t>(capability))
            return at;
        at = static_cast<int>(PCI_EXT_CAP_NEXT(header));
    }
    return 0;
}
