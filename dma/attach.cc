#include "dma/attach.h"

#include "dma/iommufd.h"
#include "dma/noiommu.h"
#include "dma/os.h"
#include "dma/sentence.h"
#include "dma/type1.h"
#include "dma/vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <pagoda/slab.h>
#include <pthread.h>
#include <stdio.h>

namespace pagoda::dma {

struct domain {
    domain *next;
    pagoda_iommu kind;
    int fd; // the container or iommufd; the back end closes it
    uint32_t ioas;
    space *memory;
    unsigned devices;
};

struct group {
    struct group *next;
    int number;
    int fd;
    pagoda_iommu kind;
    domain *with;
    unsigned devices;
};

namespace {

constexpr char kContainer[] = "/dev/vfio/vfio";
constexpr char kIommufd[] = "/dev/iommu";
constexpr size_t kPath = 64;
constexpr size_t kOthers = 128;

pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
domain *g_domains;
group *g_groups;

template <class T> void unlink(T *&list, T *item) {
    T **at = &list;
    while (*at != item)
        at = &(*at)->next;
    *at = item->next;
}

// vfio-pci, or one of its variants, has the device, and it can be used.
int check_device(const char *device, const facts &known) {
    facts f = known;
    char owner[64];
    sysfs::driver(device, owner, sizeof owner);
    f.driver = owner;
    if (!sysfs::is_vfio(owner))
        return say(step::driver, ENODEV, f);
    return sysfs::is_coherent(device) ? 0 : say(step::coherence, EOPNOTSUPP, f);
}

// A domain over this back end; NULL: *error. The back end is the domain's or closed.
domain *domain_add(iommu *back_end, pagoda_iommu kind, int fd, uint32_t ioas, int *error) {
    auto *d = static_cast<domain *>(kzalloc(sizeof(domain), GFP_KERNEL));
    if (d == nullptr) {
        back_end->ops->close(*back_end);
        *error = -ENOMEM;
        return nullptr;
    }
    d->memory = space::create(back_end, error);
    if (d->memory == nullptr) {
        kfree(d);
        return nullptr;
    }
    *error = spaces_add(d->memory);
    if (*error != 0) {
        space::destroy(d->memory);
        kfree(d);
        return nullptr;
    }
    d->kind = kind;
    d->fd = fd;
    d->ioas = ioas;
    d->next = g_domains;
    g_domains = d;
    return d;
}

void domain_put(domain *d, bool with_memory) {
    if (--d->devices != 0)
        return;
    unlink(g_domains, d);
    if (with_memory) {
        spaces_remove(d->memory);
        space::destroy(d->memory);
    }
    kfree(d);
}

int open_container(const facts &known) {
    facts f = known;
    f.node = kContainer;
    int fd = os::open(kContainer, O_RDWR);
    if (fd < 0)
        return say(step::container_node, -fd, f);
    int error = vfio::check_container(fd, f.noiommu);
    if (error < 0) {
        os::close(fd);
        return say(step::container_api, -error, f);
    }
    return fd;
}

// The group's container and address space: an existing one, else a new one.
domain *group_domain(struct group *g, const facts &f, int *error) {
    for (domain *d = g_domains; d != nullptr; d = d->next) {
        if (d->kind != g->kind || vfio::group_set_container(g->fd, d->fd) < 0)
            continue;
        if (d->memory->refresh_windows() == 0)
            return d;
        vfio::group_unset_container(g->fd);
    }
    int container = open_container(f);
    *error = container;
    if (container < 0)
        return nullptr;
    step at = step::group_attach;
    *error = vfio::group_set_container(g->fd, container);
    if (*error >= 0) {
        at = step::set_iommu;
        *error = vfio::set_iommu(container, f.noiommu);
    }
    if (*error < 0) {
        *error = say(at, -*error, f);
        os::close(container);
        return nullptr;
    }
    iommu *back_end = f.noiommu ? noiommu_create(container, error) : type1_create(container);
    if (back_end == nullptr) {
        if (!f.noiommu)
            *error = -ENOMEM;
        return nullptr;
    }
    return domain_add(back_end, g->kind, container, 0, error);
}

void group_put(struct group *g) {
    if (--g->devices != 0)
        return;
    unlink(g_groups, g);
    os::close(g->fd);
    kfree(g);
}

// The group, open and in a container; with one device more.
struct group *group_get(pagoda_iommu kind, facts &f, int *error) {
    char node[kPath];
    snprintf(node, sizeof node, "/dev/vfio/%s%d", f.noiommu ? "noiommu-" : "", f.group);
    f.node = node;
    for (struct group *g = g_groups; g != nullptr; g = g->next)
        if (g->number == f.group && g->kind == kind) {
            g->devices++;
            return g;
        }
    int fd = os::open(node, O_RDWR);
    if (fd < 0) {
        *error = say(step::group_node, -fd, f);
        return nullptr;
    }
    int viable = vfio::group_is_viable(fd);
    if (viable <= 0) {
        char others[kOthers];
        sysfs::group_others(f.device, others, sizeof others);
        f.others = others;
        *error = say(step::group_viable, viable < 0 ? -viable : EPERM, f);
        os::close(fd);
        return nullptr;
    }
    auto *g = static_cast<struct group *>(kzalloc(sizeof(struct group), GFP_KERNEL));
    if (g == nullptr) {
        os::close(fd);
        *error = -ENOMEM;
        return nullptr;
    }
    g->number = f.group;
    g->fd = fd;
    g->kind = kind;
    g->with = group_domain(g, f, error);
    if (g->with == nullptr) {
        os::close(fd);
        kfree(g);
        return nullptr;
    }
    g->devices = 1;
    g->next = g_groups;
    g_groups = g;
    return g;
}

int attach_group(attachment &a, pagoda_iommu kind, facts &f) {
    f.noiommu = kind == PAGODA_IOMMU_NONE;
    int container = open_container(f); // first: without VFIO no other reason matters
    if (container < 0)
        return container;
    os::close(container);
    int error = check_device(a.name, f);
    if (error != 0)
        return error;
    f.group = sysfs::group(a.name);
    if (f.group < 0)
        return say(step::group, ENODEV, f);
    struct group *g = group_get(kind, f, &error);
    if (g == nullptr)
        return error;
    g->with->devices++;
    int device = vfio::group_device(g->fd, a.name);
    if (device < 0) {
        domain_put(g->with, true);
        group_put(g);
        return say(step::device_handle, -device, f);
    }
    a.kind = kind;
    a.device = device;
    a.group = g;
    a.with = g->with;
    a.memory = g->with->memory;
    return 0;
}

// Opens the device's own node and binds it to the iommufd. The descriptor, or -errno.
int open_bound(const char *node, int iommufd, facts &f) {
    f.node = node;
    int device = os::open(node, O_RDWR);
    if (device < 0)
        return say(step::device_node, -device, f);
    int error = vfio::bind_iommufd(device, iommufd);
    if (error >= 0)
        return device;
    os::close(device);
    return say(step::bind, -error, f);
}

// The device, attached to an address space that exists. -1: none takes it.
int join_ioas(const char *node, facts &f, domain **with) {
    for (domain *d = g_domains; d != nullptr; d = d->next) {
        if (d->kind != PAGODA_IOMMU_IOMMUFD)
            continue;
        int device = open_bound(node, d->fd, f);
        if (device < 0)
            return -1;
        *with = d;
        if (vfio::attach_ioas(device, d->ioas) >= 0 && d->memory->refresh_windows() == 0)
            return device;
        os::close(device);
    }
    return -1;
}

// The same with an address space of its own; the iommufd is that one's, or closed.
int new_ioas(attachment &a, const char *node, int iommufd, facts &f) {
    uint32_t ioas = 0;
    a.device = open_bound(node, iommufd, f);
    int error = a.device;
    if (error >= 0) {
        error = vfio::ioas_alloc(iommufd, &ioas);
        if (error >= 0)
            error = vfio::attach_ioas(a.device, ioas);
        if (error < 0)
            error = say(step::attach, -error, f);
    }
    if (error < 0) {
        os::close(iommufd);
    } else if (iommu *back_end = iommufd_create(iommufd, ioas, &error)) {
        a.with = domain_add(back_end, PAGODA_IOMMU_IOMMUFD, iommufd, ioas, &error);
        error = a.with != nullptr ? 0 : error;
    }
    if (error < 0)
        os::close(a.device);
    return error;
}

int attach_iommufd(attachment &a, facts &f) {
    char name[32], node[kPath];
    f.node = kIommufd;
    int iommufd = os::open(kIommufd, O_RDWR);
    if (iommufd < 0)
        return say(step::iommufd_node, -iommufd, f);
    int error = check_device(a.name, f);
    if (error == 0 && sysfs::device_node(a.name, name, sizeof name) != 0)
        error = say(step::device_node, ENOENT, f);
    if (error != 0) {
        os::close(iommufd);
        return error;
    }
    snprintf(node, sizeof node, "/dev/vfio/devices/%s", name);
    a.device = join_ioas(node, f, &a.with);
    if (a.device >= 0)
        os::close(iommufd);
    else
        error = new_ioas(a, node, iommufd, f);
    if (error != 0)
        return error;
    a.kind = PAGODA_IOMMU_IOMMUFD;
    a.group = nullptr;
    a.with->devices++;
    a.memory = a.with->memory;
    return 0;
}

bool exists(const char *node) {
    int fd = os::open(node, O_PATH);
    os::close(fd);
    return fd != -ENOENT;
}

// Whether type 1 may do what iommufd has refused with this error; errno stays.
bool other_way(int error) {
    // A kernel without iommufd, or a user who may open one node and not the other.
    if (error != -ENOENT && error != -ENODEV && error != -ENXIO && error != -EACCES &&
        error != -EPERM && error != -ENOTTY)
        return false;
    // Where iommufd alone is there, its sentence is the one that helps.
    bool may = exists(kContainer) || !exists(kIommufd);
    errno = -error;
    return may;
}

} // namespace

int attach(attachment &a, pagoda_iommu kind) {
    facts f;
    f.device = a.name;
    f.iommu = sysfs::iommu_is_on();
    f.unsafe = sysfs::unsafe_mode_is_on();
    int error = -ENOENT;
    if (kind == PAGODA_IOMMU_IOMMUFD || kind == PAGODA_IOMMU_ANY)
        error = attach_iommufd(a, f);
    if (kind == PAGODA_IOMMU_TYPE1 || kind == PAGODA_IOMMU_NONE)
        error = attach_group(a, kind, f);
    else if (kind == PAGODA_IOMMU_ANY && error != 0 && other_way(error))
        error = attach_group(a, PAGODA_IOMMU_TYPE1, f);
    return error;
}

void detach(attachment &a, bool with_memory) {
    os::close(a.device);
    a.device = -1;
    domain_put(a.with, with_memory); // before its group: a container without one forgets it all
    if (a.group != nullptr)
        group_put(a.group);
}

void attach_lock() { pthread_mutex_lock(&g_lock); }
void attach_unlock() { pthread_mutex_unlock(&g_lock); }

void attach_forget() {
    for (struct group *g = g_groups; g != nullptr; g = g->next)
        os::close(g->fd);
    for (domain *d = g_domains; d != nullptr; d = d->next)
        os::close(d->fd); // the spaces forget themselves
    g_groups = nullptr;
    g_domains = nullptr;
}

} // namespace pagoda::dma
