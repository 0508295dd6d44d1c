#include "dma/sentence.h"

#include "dma/device.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace pagoda::dma {
namespace {

constexpr size_t kSentence = 320; // what pagoda_device_error() has room for
constexpr uint64_t kKilobyte = 1024;

// Appends to a text of fixed capacity.
class writer {
  public:
    writer(char *text, size_t capacity) : text_(text), capacity_(capacity) {
        if (capacity != 0)
            text[0] = 0;
    }
    __attribute__((format(printf, 2, 3))) writer &operator()(const char *format, ...) {
        va_list list;
        va_start(list, format);
        size_t room = capacity_ - length_;
        int n = room == 0 ? 0 : vsnprintf(text_ + length_, room, format, list);
        va_end(list);
        if (n > 0)
            length_ =
                static_cast<size_t>(n) < room ? length_ + static_cast<size_t>(n) : capacity_ - 1;
        return *this;
    }
    size_t length() const { return length_; }

  private:
    char *text_;
    size_t capacity_;
    size_t length_ = 0;
};

// What any step can end with; the step names what was tried.
void common(writer &put, const char *tried, int error, const facts &f) {
    char buffer[128];
    put("%s: %s failed: %s", f.device, tried, strerror_r(error, buffer, sizeof buffer));
}

void permission(writer &put, int error, const facts &f) {
    if (error == EACCES)
        put("no permission on %s: make this user its owner (as root: chown USER %s, or a udev rule "
            "for the subsystem vfio), or run as root",
            f.node, f.node);
    else
        put("opening %s is not permitted to this process (a container, or a security module, "
            "keeps it away): allow the device node there",
            f.node);
}

void explain_driver(writer &put, const facts &f) {
    if (f.driver[0] != 0)
        put("%s is bound to the driver %s, not to vfio-pci. ", f.device, f.driver);
    else
        put("%s is not bound to vfio-pci. ", f.device);
    put("As root: modprobe vfio-pci; cd /sys/bus/pci/devices/%s; echo vfio-pci > driver_override; ",
        f.device);
    if (f.driver[0] != 0)
        put("echo %s > driver/unbind; ", f.device);
    put("echo %s > /sys/bus/pci/drivers_probe", f.device);
}

void explain_group(writer &put, const facts &f) {
    put("%s is in no IOMMU group: ", f.device);
    if (f.noiommu)
        put("in no-IOMMU mode vfio-pci makes one if that mode was on when the device was bound. As "
            "root: echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode; then bind it "
            "again");
    else if (f.iommu)
        put("the machine's IOMMU does not cover this device: it can only be used in no-IOMMU mode");
    else
        put("the IOMMU is off. Turn VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on "
            "(Intel); without one only no-IOMMU mode is left, which isolates nothing");
}

void explain_container_node(writer &put, int error, const facts &f) {
    if (error == ENOENT || error == ENODEV || error == ENXIO)
        put("%s: there is no %s: this kernel has no VFIO, or its module is not loaded (modprobe "
            "vfio-pci, as root)",
            f.device, f.node);
    else if (error == EACCES || error == EPERM)
        permission(put("%s: ", f.device), error, f);
    else
        common(put, "opening the VFIO container", error, f);
}

void explain_container_api(writer &put, int error, const facts &f) {
    if (f.noiommu)
        put("%s: this kernel's VFIO has no no-IOMMU mode, or it is off: it needs "
            "CONFIG_VFIO_NOIOMMU and, as root, echo Y > "
            "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            f.device);
    else if (error == EINVAL)
        put("%s: the container speaks another version of VFIO than 0", f.device);
    else
        put("%s: the container has no type 1 IOMMU: load its module (modprobe vfio_iommu_type1, as "
            "root)",
            f.device);
}

void explain_noiommu_node(writer &put, int error, const facts &f) {
    if (error == ENOENT && !f.unsafe)
        put("%s: no-IOMMU mode is off: as root, echo Y > "
            "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode, then bind the device to "
            "vfio-pci again. The device can then reach all of the machine's memory",
            f.device);
    else if (error == ENOENT)
        put("%s: there is no %s: the device was bound to vfio-pci before no-IOMMU mode was turned "
            "on (bind it again), or it has an IOMMU (open it with that)",
            f.device, f.node);
    else if (error == EPERM || error == EACCES)
        put("%s: no-IOMMU mode needs root (CAP_SYS_RAWIO, and CAP_SYS_ADMIN for physical "
            "addresses), because the device can reach all of the machine's memory",
            f.device);
    else
        put("%s: %s is in use: another process has the group", f.device, f.node);
}

void explain_group_node(writer &put, int error, const facts &f) {
    if (f.noiommu && error != EBUSY)
        explain_noiommu_node(put, error, f);
    else if (error == ENOENT)
        put("%s: there is no %s: bind the device to vfio-pci (its group is %d)", f.device, f.node,
            f.group);
    else if (error == EACCES || error == EPERM)
        permission(put("%s: ", f.device), error, f);
    else if (error == EBUSY)
        put("%s: IOMMU group %d is in use by another process: only one at a time can open %s",
            f.device, f.group, f.node);
    else
        common(put, "opening its IOMMU group", error, f);
}

void explain_viable(writer &put, const facts &f) {
    put("%s: IOMMU group %d is not viable: its devices reach each other's memory, so all of them "
        "must be bound to vfio-pci or to no driver: %s",
        f.device, f.group,
        f.others[0] != 0 ? f.others : "look in /sys/bus/pci/devices/.../iommu_group/devices");
}

void explain_attach(writer &put, step at, int error, const facts &f) {
    if (error == EPERM)
        put("%s: the IOMMU cannot isolate its interrupts: turn interrupt remapping on in the "
            "firmware, or accept the risk (as root: echo Y > "
            "/sys/module/%s/parameters/allow_unsafe_interrupts)",
            f.device, at == step::attach ? "iommufd" : "vfio_iommu_type1");
    else if (error == EBUSY)
        put("%s: %s is held by another process, or the other way: by type 1 where iommufd was "
            "asked for",
            f.device, at == step::bind ? "the device" : "its IOMMU group");
    else if (error == EADDRINUSE)
        put("%s: memory is mapped at addresses that this device's IOMMU reserves", f.device);
    else if (error == EINVAL && at == step::attach)
        put("%s: its IOMMU does not go with this address space", f.device);
    else if (error == ENODEV || error == ENOTTY)
        put("%s: the kernel does not offer this device by %s: ask for the other way", f.device,
            at == step::bind || at == step::attach ? "iommufd" : "type 1");
    else
        common(put, "attaching it to an IOMMU address space", error, f);
}

void explain_device_handle(writer &put, int error, const facts &f) {
    if (error == EBUSY)
        put("%s is open already", f.device);
    else if (error == ENODEV)
        put("%s is not in IOMMU group %d for vfio-pci: bind it again", f.device, f.group);
    else if (error == EPERM)
        put("%s: vfio-pci refuses it without its VF token, or it sleeps: check dmesg", f.device);
    else
        common(put, "taking it out of its group", error, f);
}

void explain_iommufd_node(writer &put, int error, const facts &f) {
    if (error == ENOENT || error == ENODEV || error == ENXIO)
        put("%s: there is no %s: iommufd is not in this kernel (CONFIG_IOMMUFD), or its module is "
            "not loaded (modprobe iommufd, as root); type 1 needs neither",
            f.device, f.node);
    else if (error == EACCES || error == EPERM)
        permission(put("%s: ", f.device), error, f);
    else
        common(put, "opening the iommufd", error, f);
}

void explain_device_node(writer &put, int error, const facts &f) {
    if (error == ENOENT || error == ENODEV || error == ENXIO)
        put("%s has no node in /dev/vfio/devices: this kernel's VFIO does not make them "
            "(CONFIG_VFIO_DEVICE_CDEV); type 1 does without",
            f.device);
    else if (error == EACCES || error == EPERM)
        permission(put("%s: ", f.device), error, f);
    else if (error == EBUSY)
        put("%s is open in another process, or its group is", f.device);
    else
        common(put, "opening its own node", error, f);
}

void explain_map(writer &put, int error, const facts &f) {
    if (error == ENOSPC)
        put("the IOMMU takes no further mapping: this container is at its limit (65,535 unless "
            "vfio_iommu_type1's dma_entry_limit says otherwise): map larger pieces, undo mappings, "
            "or raise that parameter before the container is made");
    else if (error == ENOMEM && f.limit != UINT64_MAX && f.used + f.bytes > f.limit)
        put("the limit of locked memory is in the way: RLIMIT_MEMLOCK is %" PRIu64 " KiB, %" PRIu64
            " KiB of it are used, and %" PRIu64
            " KiB more are needed: raise it to at least %" PRIu64
            " KiB (ulimit -l, LimitMEMLOCK=, or limits.conf), or give the process CAP_IPC_LOCK",
            f.limit / kKilobyte, f.used / kKilobyte, f.bytes / kKilobyte,
            (f.used + f.bytes + kKilobyte - 1) / kKilobyte);
    else if (error == ENOMEM)
        put("the kernel has no memory to map %" PRIu64 " KiB for the device, or may not lock that "
            "much for this user",
            f.bytes / kKilobyte);
    else if (error == EEXIST || error == EADDRINUSE)
        put("something is mapped already in the %" PRIu64 " bytes at device address %#" PRIx64,
            f.bytes, f.at);
    else if (error == EINVAL)
        put("the %" PRIu64 " bytes at device address %#" PRIx64
            " are not whole IOMMU pages, or not within the IOMMU's windows",
            f.bytes, f.at);
    else if (error == EFAULT)
        put("the memory for device address %#" PRIx64 " (%" PRIu64
            " bytes) cannot be pinned: it is unmapped, read-only, or of a file system that does "
            "not allow it",
            f.at, f.bytes);
    else if (error == EOPNOTSUPP)
        put("nothing can be mapped in no-IOMMU mode: the device uses physical addresses");
    else
        common(put, "mapping memory", error, f);
}

void explain_unmap(writer &put, int error, const facts &f) {
    if (error == EINVAL || error == ENOENT)
        put("the %" PRIu64 " bytes at device address %#" PRIx64
            " are not what one mapping made: mappings end as they began",
            f.bytes, f.at);
    else
        common(put, "unmapping memory", error, f);
}

void explain_physical(writer &put, int error, const facts &f) {
    if (error == EPERM)
        put("the kernel hides physical addresses from this process: no-IOMMU mode needs "
            "CAP_SYS_ADMIN to read them from /proc/self/pagemap, and root to read "
            "/proc/kpageflags");
    else if (error == EFAULT)
        put("the memory at %#" PRIx64 " is not present, so that it has no physical address", f.at);
    else if (error == ERANGE)
        put("the memory at %#" PRIx64 " is not of the hugetlb pool: the kernel may move it, and "
            "without an IOMMU the device would not notice: reserve more pages of 2 MiB in "
            "/proc/sys/vm/nr_hugepages",
            f.at);
    else
        common(put, "reading /proc/self/pagemap and /proc/kpageflags", error, f);
}

void explain_bar_map(writer &put, int error, const facts &f) {
    if (error == ENXIO)
        put("%s has no BAR %d, or it is empty", f.device, f.number);
    else if (error == EINVAL)
        put("offset %#" PRIx64 " is outside of BAR %d of %s, which has %" PRIu64 " bytes", f.at,
            f.number, f.device, f.bytes);
    else if (error == EOPNOTSUPP)
        put("BAR %d of %s cannot be mapped (I/O ports, less than a page, or the part with the "
            "MSI-X table): pagoda_pci_bar_read() and pagoda_pci_bar_write() reach it",
            f.number, f.device);
    else
        common(put, "mapping a BAR", error, f);
}

void explain_interrupt(writer &put, int error, const facts &f) {
    if (error == ENOSPC)
        put("%s has fewer interrupts than the %d that were asked for, or none of this kind",
            f.device, f.number);
    else if (error == EBUSY)
        put("%s: its interrupts are in use: pci_free_irq_vectors() first; INTx can also be shared "
            "with a device that does not share",
            f.device);
    else if (error == EINVAL)
        put("%s has no interrupt %d now", f.device, f.number);
    else if (error == EMFILE || error == ENFILE)
        put("%s: no further file descriptor for an interrupt: raise RLIMIT_NOFILE (ulimit -n)",
            f.device);
    else
        common(put, "setting up interrupts", error, f);
}

} // namespace

size_t explain(step at, int error, const facts &f, char *text, size_t capacity) {
    writer put(text, capacity);
    switch (at) {
    case step::find:
        if (error == EINVAL)
            put("'%s' names no PCI device: write 0000:00:04.0, 00:04.0, or vendor:device as in "
                "1234:11e8",
                f.device);
        else if (strchr(f.device, '.') != nullptr)
            put("there is no PCI device %s: lspci -D lists them", f.device);
        else
            put("no PCI device %s is bound to vfio-pci%s", f.device,
                f.driver[0] == 0 ? ", nor is there one at all: lspci -n lists them"
                                 : ": open it by its address to hear how to bind it");
        break;
    case step::driver:
        explain_driver(put, f);
        break;
    case step::coherence:
        put("%s does not see what the processor's caches hold (neither its host bridge nor what is "
            "above has dma-coherent in the device tree), and only devices that do are supported",
            f.device);
        break;
    case step::group:
        explain_group(put, f);
        break;
    case step::container_node:
        explain_container_node(put, error, f);
        break;
    case step::container_api:
        explain_container_api(put, error, f);
        break;
    case step::group_node:
        explain_group_node(put, error, f);
        break;
    case step::group_viable:
        explain_viable(put, f);
        break;
    case step::group_attach:
    case step::set_iommu:
    case step::bind:
    case step::attach:
        explain_attach(put, at, error, f);
        break;
    case step::device_handle:
        explain_device_handle(put, error, f);
        break;
    case step::iommufd_node:
        explain_iommufd_node(put, error, f);
        break;
    case step::device_node:
        explain_device_node(put, error, f);
        break;
    case step::windows:
        common(put, "asking for the IOMMU's windows", error, f);
        break;
    case step::map:
        explain_map(put, error, f);
        break;
    case step::unmap:
        explain_unmap(put, error, f);
        break;
    case step::physical:
        explain_physical(put, error, f);
        break;
    case step::region:
        common(put, "access to its registers", error, f);
        break;
    case step::bar_map:
        explain_bar_map(put, error, f);
        break;
    case step::write_combining:
        put("%s: BAR %d cannot be mapped write-combining (VFIO maps uncached, and the system's "
            "resource%d_wc is absent or closed to this process): use the uncached mapping of "
            "ioremap() or pci_iomap()",
            f.device, f.number, f.number);
        break;
    case step::address:
        if (error == EOPNOTSUPP)
            put("device memory is mapped uncached or write-combining, never cached");
        else
            put("%#" PRIx64 " and the %" PRIu64
                " bytes there are in no BAR of an open device: other physical addresses are the "
                "kernel's",
                f.at, f.bytes);
        break;
    case step::claim:
        if (error == EBUSY)
            put("part of the %" PRIu64 " bytes at %#" PRIx64 " is claimed by %s", f.bytes, f.at,
                f.driver);
        else
            put("the %" PRIu64 " bytes at %#" PRIx64 " are not what one claim made", f.bytes, f.at);
        break;
    case step::interrupt:
        explain_interrupt(put, error, f);
        break;
    case step::reset:
        if (error == ENOTTY || error == EINVAL || error == EOPNOTSUPP)
            put("%s has no way to be reset alone", f.device);
        else
            common(put, "resetting it", error, f);
        break;
    case step::gone:
        put("%s is gone: it was closed or removed, or belongs to the parent process",
            f.device[0] != 0 ? f.device : "the device");
        break;
    }
    return put.length();
}

int say(step at, int error, const facts &known) {
    char text[kSentence];
    explain(at, error, known, text, sizeof text);
    fail(error, "%s", text);
    if (at == step::map)
        keep_sentence(error);
    return -error;
}

} // namespace pagoda::dma
