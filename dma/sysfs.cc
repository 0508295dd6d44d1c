#include "dma/sysfs.h"

#include "dma/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace pagoda::dma::sysfs {
namespace {

constexpr char kDevices[] = "/sys/bus/pci/devices";

struct path {
    char text[300];
    path(const char *device, const char *name) {
        snprintf(text, sizeof text, "%s/%s/%s", kDevices, device, name);
    }
};

struct search {
    unsigned vendor, device;
    char name[kName];
    bool present, bound;
};

bool look_at(void *data, const char *name) {
    auto *s = static_cast<search *>(data);
    if (attribute(name, "vendor", UINT64_MAX) != s->vendor ||
        attribute(name, "device", UINT64_MAX) != s->device)
        return true;
    char owner[64];
    driver(name, owner, sizeof owner);
    bool bound = is_vfio(owner);
    // The lowest address of those that will do: sysfs has them in no order.
    if (bound && (!s->bound || strcmp(name, s->name) < 0))
        snprintf(s->name, sizeof s->name, "%s", name);
    s->bound |= bound;
    s->present = true;
    return true;
}

// Reads hexadecimal digits up to `end`; false when there are none, or too many.
bool digits(const char **text, char end, unsigned most, unsigned *value) {
    const char *from = *text;
    size_t length = strspn(from, "0123456789abcdefABCDEF");
    if (length == 0 || from[length] != end)
        return false;
    unsigned long v = strtoul(from, nullptr, 16);
    if (v > most)
        return false;
    *value = static_cast<unsigned>(v);
    *text = from + length + (end != 0);
    return true;
}

bool parse_address(const char *text, char name[kName]) {
    unsigned part[4] = {};
    const char *colon = strchr(text, ':');
    bool domain = colon != nullptr && strchr(colon + 1, ':') != nullptr;
    if ((domain && !digits(&text, ':', 0xfffff, &part[0])) || !digits(&text, ':', 0xff, &part[1]) ||
        !digits(&text, '.', 0x1f, &part[2]) || !digits(&text, 0, 7, &part[3]))
        return false;
    snprintf(name, kName, "%04x:%02x:%02x.%x", part[0], part[1], part[2], part[3]);
    return true;
}

struct group_list {
    const char *self;
    char *text;
    size_t capacity, length;
};

bool add_other(void *data, const char *name) {
    auto *list = static_cast<group_list *>(data);
    char owner[64];
    driver(name, owner, sizeof owner);
    // Bridges keep their driver: pcieport does no DMA of its own.
    if (strcmp(name, list->self) == 0 || owner[0] == 0 || is_vfio(owner) ||
        strcmp(owner, "pcieport") == 0)
        return true;
    size_t room = list->capacity - list->length;
    int n = snprintf(list->text + list->length, room, "%s%s (%s)", list->length == 0 ? "" : ", ",
                     name, owner);
    if (n < 0 || static_cast<size_t>(n) >= room) {
        list->text[list->length] = 0;
        return false;
    }
    list->length += static_cast<size_t>(n);
    return true;
}

bool first_name(void *data, const char *name) {
    auto *list = static_cast<group_list *>(data);
    snprintf(list->text, list->capacity, "%s", name);
    list->length = strlen(list->text);
    return false;
}

#if defined(__x86_64__)
constexpr bool kApart = false;
#else
constexpr bool kApart = true;
#endif
bool g_caches_apart = kApart;

// A path that grows at its end.
struct climbing {
    char text[300];
    size_t length = 0;
    climbing &add(const char *part) {
        length += static_cast<size_t>(
            snprintf(text + length, sizeof text - length, "%s", part)); // short, all of them
        return *this;
    }
};

bool exists(const char *at, const char *name) {
    int fd = os::open(climbing().add(at).add(name).text, O_RDONLY);
    os::close(fd);
    return fd >= 0;
}

bool any_entry(void *data, const char *) {
    *static_cast<bool *>(data) = true;
    return false;
}

} // namespace

int find(const char *where, char name[kName], bool *present) {
    *present = false;
    if (parse_address(where, name)) {
        *present = attribute(name, "vendor", UINT64_MAX) != UINT64_MAX;
        return *present ? 0 : -ENODEV;
    }
    search s = {};
    const char *text = where;
    if (!digits(&text, ':', 0xffff, &s.vendor) || !digits(&text, 0, 0xffff, &s.device))
        return -EINVAL;
    os::each_entry(kDevices, look_at, &s);
    *present = s.present;
    memcpy(name, s.name, kName);
    return s.bound ? 0 : -ENODEV;
}

uint64_t attribute(const char *device, const char *name, uint64_t otherwise) {
    return os::read_number(path(device, name).text, otherwise);
}

void resources(const char *device, resource_line out[kResources]) {
    char text[512]; // 57 a line
    memset(out, 0, kResources * sizeof *out);
    if (os::read_text(path(device, "resource").text, text, sizeof text) <= 0)
        return;
    const char *line = text;
    for (int i = 0; i < kResources && line != nullptr; i++) {
        resource_line r;
        if (sscanf(line, "%" SCNx64 " %" SCNx64 " %" SCNx64, &r.start, &r.end, &r.flags) != 3)
            return;
        out[i] = r;
        line = strchr(line, '\n');
        line += line != nullptr;
    }
}

void driver(const char *device, char *name, size_t capacity) {
    if (os::link_name(path(device, "driver").text, name, capacity) != 0)
        name[0] = 0;
}

bool is_vfio(const char *driver_name) { return strstr(driver_name, "vfio") != nullptr; }

int group(const char *device) {
    char name[32];
    if (os::link_name(path(device, "iommu_group").text, name, sizeof name) != 0)
        return -ENOENT;
    return atoi(name);
}

void group_others(const char *device, char *text, size_t capacity) {
    group_list list = {device, text, capacity, 0};
    text[0] = 0;
    os::each_entry(path(device, "iommu_group/devices").text, add_other, &list);
}

int device_node(const char *device, char *name, size_t capacity) {
    group_list list = {device, name, capacity, 0};
    name[0] = 0;
    os::each_entry(path(device, "vfio-dev").text, first_name, &list);
    return name[0] != 0 ? 0 : -ENOENT;
}

// The kernel links each device that the tree describes with its node there: the device itself, its
// host bridge, or what that belongs to. A property of a node holds for all below.
bool is_coherent(const char *device) {
    constexpr int kLevels = 16;
    if (!g_caches_apart)
        return true;
    climbing at;
    at.add(kDevices).add("/").add(device);
    for (int i = 0; i < kLevels && !exists(at.text, "/of_node"); i++)
        at.add("/..");
    if (!exists(at.text, "/of_node"))
        return true;
    at.add("/of_node");
    for (int i = 0; i < kLevels; i++, at.add("/.."))
        if (exists(at.text, "/dma-coherent"))
            return true;
        else if (exists(at.text, "/dma-noncoherent"))
            return false;
    return false;
}

void play_machine_with_caches_apart(bool apart) { g_caches_apart = apart || kApart; }

bool iommu_is_on() {
    bool any = false;
    os::each_entry("/sys/class/iommu", any_entry, &any);
    return any;
}

bool unsafe_mode_is_on() {
    char text[8];
    return os::read_text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", text,
                         sizeof text) > 0 &&
           (text[0] == 'Y' || text[0] == '1');
}

} // namespace pagoda::dma::sysfs
