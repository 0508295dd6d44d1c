#include "dma/pci_device.h"

#include "dma/claim.h"
#include "dma/io_map.h"
#include "dma/managed.h"
#include "dma/os.h"
#include "dma/pci_config.h"
#include "dma/pool.h"
#include "dma/sysfs.h"

#include "hugepage/base.h"

#include <errno.h>
#include <pagoda/slab.h>
#include <stdio.h>
#include <string.h>

namespace pagoda::dma {
namespace {

pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
bool g_watches_forks; // changed with attach_lock()
bus *g_buses;

// A child closes what devices have open: so nobody changes what that is meanwhile.
void before_fork() {
    attach_lock();
    pthread_mutex_lock(&g_lock);
    for (bus *b = g_buses; b != nullptr; b = b->next)
        pthread_mutex_lock(&b->lock);
}

void after_fork() {
    for (bus *b = g_buses; b != nullptr; b = b->next)
        pthread_mutex_unlock(&b->lock);
    pthread_mutex_unlock(&g_lock);
    attach_unlock();
}

// The parent's devices are not this process's: DMA into copied memory would reach the parent's.
// Descriptors are closed, because as long as one is open the kernel leaves the device on.
void in_child() {
    for (bus *b = g_buses; b != nullptr; b = b->next) {
        b->pci.dev.state->set_gone();
        os::close(b->at.device);
        b->at.device = -1;
        b->irqs.forget();
    }
    attach_forget();
    io_map_forget();
    claims_forget();
    after_fork();
    g_buses = nullptr;
}

// With attach_lock(). 0 or -ENOMEM.
int watch_forks() {
    if (!g_watches_forks && pthread_atfork(before_fork, after_fork, in_child) != 0)
        return fail(ENOMEM, "no memory to hear of forks");
    g_watches_forks = true;
    return 0;
}

void describe(bus &b) {
    pci_dev &pci = b.pci;
    const char *name = b.at.name;
    auto id = [name](const char *attribute) {
        return static_cast<unsigned>(sysfs::attribute(name, attribute, 0));
    };
    pci.vendor = static_cast<unsigned short>(id("vendor"));
    pci.device = static_cast<unsigned short>(id("device"));
    pci.subsystem_vendor = static_cast<unsigned short>(id("subsystem_vendor"));
    pci.subsystem_device = static_cast<unsigned short>(id("subsystem_device"));
    pci.class_code = id("class");
    pci.revision = static_cast<unsigned char>(id("revision"));
    unsigned domain = 0, number = 0, slot = 0, function = 0;
    sscanf(name, "%x:%x:%x.%x", &domain, &number, &slot, &function);
    pci.domain = static_cast<int>(domain);
    pci.bus_number = static_cast<unsigned char>(number);
    pci.devfn = PCI_DEVFN(slot, function);
    pci.dev.name = name;
    // "-1" where the system does not say.
    pci.dev.numa_node = static_cast<int>(sysfs::attribute(name, "numa_node", UINT64_MAX));
    sysfs::resource_line lines[sysfs::kResources];
    sysfs::resources(name, lines);
    for (int i = 0; i < sysfs::kResources; i++)
        pci.resource[i] = {lines[i].start, lines[i].end, name, lines[i].flags, nullptr};
}

// What the kernel says of the device that is attached now. 0 or -errno with its sentence.
int ask(bus &b) {
    facts f = facts_of(b);
    int error = vfio::device_info(b.at.device, &b.can_reset);
    for (unsigned i = 0; error >= 0 && i < kRegions; i++) {
        error = vfio::device_region(b.at.device, i, &b.regions[i]);
        if (error == -EINVAL && i != kConfigRegion) // no such BAR, no ROM
            error = 0;
    }
    return error < 0 ? say(step::region, -error, f) : 0;
}

void forget_bus(bus *b) {
    pthread_mutex_lock(&g_lock);
    for (bus **at = &g_buses; *at != nullptr; at = &(*at)->next)
        if (*at == b) {
            *at = b->next;
            break;
        }
    pthread_mutex_unlock(&g_lock);
}

// A device without memory of the last user's doings: reset where it can be, quiet, its BARs on.
int start(bus &b) {
    if (b.can_reset)
        vfio::device_reset(b.at.device); // one that refuses is still quiet without bus mastering
    int error = config_command(b, PCI_COMMAND_MASTER, false);
    return error != 0 ? error : config_command(b, PCI_COMMAND_MEMORY | PCI_COMMAND_IO, true);
}

void stop(bus &b) {
    config_command(b, PCI_COMMAND_MASTER, false);
    pthread_mutex_lock(&b.lock);
    b.irqs.end(b.at.device);
    pthread_mutex_unlock(&b.lock);
}

void bus_close(pagoda_device_state *state);

bus *open_bus(const char *where, pagoda_iommu kind) {
    char name[sysfs::kName];
    bool present = false;
    facts f;
    f.device = where;
    int error = sysfs::find(where, name, &present);
    if (error != 0) {
        f.driver = present ? "another" : "";
        say(step::find, -error, f);
        return nullptr;
    }
    auto *b = static_cast<bus *>(kzalloc(sizeof(bus), GFP_KERNEL));
    if (b == nullptr) {
        fail(ENOMEM, "no memory for the device");
        return nullptr;
    }
    memcpy(b->at.name, name, sizeof name);
    pthread_mutex_init(&b->lock, nullptr);
    b->irqs.begin();
    describe(*b);
    if (attach(b->at, kind) != 0) {
        kfree(b);
        return nullptr;
    }
    error = ask(*b);
    if (error == 0)
        error = start(*b);
    pagoda_device_state *state = nullptr;
    if (error == 0) {
        state = device_create(b->at.memory, b->at.kind, name);
        if (state == nullptr)
            fail(ENOMEM, "no memory for the device");
    }
    if (state == nullptr) {
        detach(b->at, true);
        kfree(b);
        return nullptr;
    }
    state->bus = b;
    state->on_close = bus_close;
    state->dev.numa_node = b->pci.dev.numa_node;
    b->pci.dev.state = state;
    return b;
}

void bus_close(pagoda_device_state *state) {
    bus *b = state->bus;
    stop(*b);
    managed_release(state);
    state->set_gone();
    pools_forget(*state); // without attach_lock(): a fork takes the pools' lock first
    io_map_end(b);
    claims_end(b);
    attach_lock();
    forget_bus(b);
    device_destroy(state);
    detach(b->at, false);
    attach_unlock();
    pthread_mutex_destroy(&b->lock);
    kfree(b);
}

} // namespace

bus *bus_of(const pci_dev *pdev) {
    pagoda_device_state *state = pdev->dev.state;
    if (state != nullptr && state->bus != nullptr && !state->gone.load(std::memory_order_relaxed))
        return state->bus;
    facts f;
    f.device = pdev->dev.name;
    say(step::gone, ENODEV, f);
    return nullptr;
}

facts facts_of(const bus &b) {
    facts f;
    f.device = b.at.name;
    f.noiommu = b.at.kind == PAGODA_IOMMU_NONE;
    return f;
}

bus *bus_at(uint64_t phys, uint64_t bytes, int *bar) {
    bus *found = nullptr;
    pthread_mutex_lock(&g_lock);
    for (bus *b = g_buses; b != nullptr && found == nullptr; b = b->next)
        for (int i = 0; i < PCI_ROM_RESOURCE && found == nullptr; i++) {
            const resource &r = b->pci.resource[i];
            if ((r.flags & IORESOURCE_MEM) != 0 && bytes != 0 && phys >= r.start && phys <= r.end &&
                bytes - 1 <= r.end - phys) {
                *bar = i;
                found = b;
            }
        }
    pthread_mutex_unlock(&g_lock);
    return found;
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT device *pagoda_device_open(const char *where, pagoda_iommu kind) {
    if (kind == PAGODA_IOMMU_SOFTWARE) {
        fail(EINVAL, "pagoda_software_device() makes devices behind the software IOMMU");
        return nullptr;
    }
    attach_lock();
    bus *b = watch_forks() == 0 ? open_bus(where, kind) : nullptr;
    if (b != nullptr) {
        pthread_mutex_lock(&g_lock);
        b->next = g_buses;
        g_buses = b;
        pthread_mutex_unlock(&g_lock);
    }
    attach_unlock();
    return b != nullptr ? &b->pci.dev : nullptr;
}

PAGODA_EXPORT pci_dev *pagoda_to_pci_dev(device *dev) {
    bus *b = dev->state != nullptr ? dev->state->bus : nullptr;
    return b != nullptr ? &b->pci : nullptr;
}

PAGODA_EXPORT int pagoda_pci_reset_function(pci_dev *pdev) {
    bus *b = bus_of(pdev);
    if (b == nullptr)
        return -ENODEV;
    int error = b->can_reset ? vfio::device_reset(b->at.device) : -ENOTTY;
    return error < 0 ? say(step::reset, -error, facts_of(*b)) : 0;
}
