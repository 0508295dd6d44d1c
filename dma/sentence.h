// What to do about a failure: one sentence for each step of opening and using a device and each
// error it can end with. A pure function, so that every case is tested without any hardware.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma {

enum class step {
    find,           // the device in sysfs
    driver,         // that vfio-pci has it
    coherence,      // that it sees what the processor's caches hold
    group,          // its IOMMU group in sysfs
    container_node, // open /dev/vfio/vfio
    container_api,  // its version and the kind of IOMMU
    group_node,     // open /dev/vfio/N or /dev/vfio/noiommu-N
    group_viable,   // all of the group given up by other drivers
    group_attach,   // the group into the container
    set_iommu,      // the container's IOMMU
    device_handle,  // the device out of its group
    iommufd_node,   // open /dev/iommu
    device_node,    // open /dev/vfio/devices/vfioN
    bind,           // the device to the iommufd
    attach,         // the device to an address space of the iommufd
    windows,        // which addresses the IOMMU takes
    map,            // memory for the device
    unmap,
    physical, // where memory lies, in no-IOMMU mode
    region,   // a BAR or the configuration space
    bar_map,  // a BAR into this process
    write_combining,
    address,   // ioremap() of what is no BAR
    claim,     // request_mem_region()
    interrupt, // eventfds for interrupts
    reset,
    gone, // a device that was closed, removed, or is the parent's
};

// What is known at that step. Text is never NULL.
struct facts {
    const char *device = ""; // "0000:00:04.0", or what was looked for
    const char *driver = ""; // what it is bound to; "": nothing
    const char *others = ""; // devices of its group with other drivers: "0000:00:05.0 (e1000e)"
    const char *node = "";   // the path that was opened
    int group = -1;
    bool iommu = false;   // the machine has one that is turned on
    bool noiommu = false; // no-IOMMU mode was asked for
    bool unsafe = false;  // enable_unsafe_noiommu_mode is on
    uint64_t at = 0;      // device address, register or physical address
    uint64_t bytes = 0;
    uint64_t limit = 0; // RLIMIT_MEMLOCK; UINT64_MAX: none
    uint64_t used = 0;  // what is charged against it
    int number = -1;    // of the BAR, or how many interrupts
};

// Of a range of device addresses, which a back end was asked for.
inline facts facts_of_range(const char *back_end, uint64_t at, uint64_t bytes) {
    facts f;
    f.device = back_end;
    f.at = at;
    f.bytes = bytes;
    return f;
}

// Writes the sentence, always ended with 0, and returns its length without what did not fit.
size_t explain(step at, int error, const facts &known, char *text, size_t capacity);

// The same as this thread's pagoda_device_error(), with errno set. Returns -error.
int say(step at, int error, const facts &known);

} // namespace pagoda::dma
