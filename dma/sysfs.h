// What sysfs says of PCI devices: which there are, who has them, with whom they share an IOMMU
// group.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma::sysfs {

inline constexpr size_t kName = 16;  // "0000:00:04.0", with room for domains of five digits
inline constexpr int kResources = 7; // six BARs and the expansion ROM

struct resource_line {
    uint64_t start, end, flags; // IORESOURCE_*; all 0: none
};

// The device's full name. `where` is an address, with or without domain, or vendor:device: then the
// first that a VFIO driver has. 0; -EINVAL: neither form; -ENODEV: no such device, or no such
// driver has one of them (*present: there is one).
int find(const char *where, char name[kName], bool *present);

// An attribute of a device as a number.
uint64_t attribute(const char *device, const char *name, uint64_t otherwise);
void resources(const char *device, resource_line out[kResources]);
// The driver's name, "" for none.
void driver(const char *device, char *name, size_t capacity);
// Whether a driver of this name gives devices to programs: vfio-pci, or one of its variants, which
// all have it in their names.
bool is_vfio(const char *driver_name);
// The number of its IOMMU group, or -ENOENT.
int group(const char *device);
// The other devices of its group that neither vfio-pci nor nobody has, as "0000:00:05.0 (e1000e)".
void group_others(const char *device, char *text, size_t capacity);
// The name of its own node in /dev/vfio/devices. 0 or -ENOENT.
int device_node(const char *device, char *name, size_t capacity);

// Whether it sees what the processor's caches hold. All devices of x86 do; elsewhere the device
// tree says so, at the host bridge or above it. Where there is none (ACPI), PCI is coherent.
bool is_coherent(const char *device);
// For tests: asks the device tree on x86 too.
void play_machine_with_caches_apart(bool apart);

bool iommu_is_on();       // the kernel has registered one
bool unsafe_mode_is_on(); // vfio's enable_unsafe_noiommu_mode

} // namespace pagoda::dma::sysfs
