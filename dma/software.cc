#include "dma/software.h"

#include "dma/device.h"
#include "dma/mutex.h"
#include "dma/page_table.h"
#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <new>
#include <pthread.h>
#include <string.h>

namespace pagoda::dma {
namespace {

constexpr int kMaxWindows = 16;
constexpr unsigned kLogged = 256;
constexpr iova_window kDefaultWindows[] = {{0, 0xfedfffff}, {0xfef00000, (uint64_t{1} << 39) - 1}};

// A word of the page table: the address of the memory, and in its low bits what is allowed, and
// where an entry begins and ends.
constexpr uint64_t kAccess = kDeviceReads | kDeviceWrites;
constexpr uint64_t kFirst = 4, kLast = 8, kFlags = kPageSize - 1;

struct software_iommu : iommu {
    pthread_rwlock_t lock; // a device that accesses memory holds off those who unmap it
    page_table pages;      // without translation: of blocks
    unsigned shift;        // of a granule, or of a block
    uint64_t blocks;       // without translation
    iova_window window[kMaxWindows];
    int windows;
    uint64_t entries_left, bytes_left;
    struct failures {
        unsigned skip, count;
        int error;
        // What this call is to fail with; 0: nothing.
        int next() {
            if (skip != 0) {
                skip--;
                return 0;
            }
            if (count == 0)
                return 0;
            count--;
            return error;
        }
    } maps, unmaps;
    pthread_mutex_t log_lock;
    uint64_t faults;
    pagoda_software_fault log[kLogged];
};

software_iommu &of(iommu &i) { return static_cast<software_iommu &>(i); }

class reading {
  public:
    explicit reading(software_iommu &i) : i_(i) { pthread_rwlock_rdlock(&i_.lock); }
    ~reading() { pthread_rwlock_unlock(&i_.lock); }
    reading(const reading &) = delete;
    reading &operator=(const reading &) = delete;

  private:
    noio_scope noio_;
    software_iommu &i_;
};

class writing {
  public:
    explicit writing(software_iommu &i) : i_(i) { pthread_rwlock_wrlock(&i_.lock); }
    ~writing() { pthread_rwlock_unlock(&i_.lock); }
    writing(const writing &) = delete;
    writing &operator=(const writing &) = delete;

  private:
    noio_scope noio_;
    software_iommu &i_;
};

bool in_a_window(const software_iommu &s, uint64_t first, uint64_t last) {
    for (int i = 0; i < s.windows; i++)
        if (first >= s.window[i].first && last <= s.window[i].last)
            return true;
    return false;
}

int map_pages(iommu &self, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
    software_iommu &s = of(self);
    if (bytes == 0 || ((iova | at | bytes) & (s.granule - 1)) != 0 || iova + bytes - 1 < iova ||
        (access & ~static_cast<int>(kAccess)) != 0 || access == 0)
        return -EINVAL;
    uint64_t first = iova >> s.shift;
    uint64_t last = (iova + bytes - 1) >> s.shift;
    if (!in_a_window(s, iova, iova + bytes - 1))
        return -EINVAL;
    if (!s.pages.prepare(first, last))
        return -ENOMEM;
    writing lock(s);
    if (int error = s.maps.next(); error != 0)
        return error;
    if (s.entries_left == 0)
        return -ENOSPC;
    if (s.bytes_left < bytes)
        return -ENOMEM;
    for (uint64_t page = first; page <= last; page++)
        if (s.pages.get(page) != 0)
            return -EEXIST;
    for (uint64_t page = first; page <= last; page++)
        s.pages.set(page, (at + ((page - first) << s.shift)) | static_cast<uint64_t>(access) |
                              (page == first ? kFirst : 0) | (page == last ? kLast : 0));
    s.entries_left--;
    s.bytes_left -= bytes;
    return 0;
}

int unmap_pages(iommu &self, uint64_t iova, uint64_t bytes) {
    software_iommu &s = of(self);
    if (bytes == 0 || ((iova | bytes) & (s.granule - 1)) != 0 || iova + bytes - 1 < iova)
        return -EINVAL;
    uint64_t first = iova >> s.shift;
    uint64_t last = (iova + bytes - 1) >> s.shift;
    writing lock(s);
    if (int error = s.unmaps.next(); error != 0)
        return error;
    if ((s.pages.get(first) & kFirst) == 0 || (s.pages.get(last) & kLast) == 0)
        return -EINVAL;
    for (uint64_t page = first; page < last; page++)
        if ((s.pages.get(page) & kLast) != 0)
            return -EINVAL;
    for (uint64_t page = first; page <= last; page++)
        s.pages.set(page, 0);
    s.entries_left++;
    s.bytes_left += bytes;
    return 0;
}

int tell_windows(iommu &self, iova_window *out, int capacity) {
    software_iommu &s = of(self);
    for (int i = 0; i < s.windows && i < capacity; i++)
        out[i] = s.window[i];
    return s.windows;
}

uint64_t tell_entries_left(iommu &self) {
    reading lock(of(self));
    return of(self).entries_left;
}

void close_iommu(iommu &self) {
    software_iommu &s = of(self);
    pthread_rwlock_destroy(&s.lock);
    pthread_mutex_destroy(&s.log_lock);
    s.~software_iommu();
    kvfree(&s);
}

int refuse_map(iommu &, uint64_t, uintptr_t, uint64_t, int) { return -ENOTTY; }
int refuse_unmap(iommu &, uint64_t, uint64_t) { return -ENOTTY; }
uint64_t no_limit(iommu &) { return UINT64_MAX; }
uint64_t no_physical(iommu &, uintptr_t) { return 0; }

// The frame of a block is where its address hashes to, or the next that nobody has. Block 0 is
// nobody's: 0 is no address.
uint64_t made_up_physical(iommu &self, uintptr_t at) {
    software_iommu &s = of(self);
    uintptr_t block = at & ~(kPageblockSize - 1);
    writing lock(s);
    uint64_t start = (at >> kPageblockShift) * 0x9e3779b97f4a7c15u >> 20;
    for (uint64_t i = 0; i < s.blocks; i++) {
        uint64_t frame = (start + i) % s.blocks;
        if (frame == 0)
            continue;
        uint64_t owner = s.pages.get(frame);
        if (owner == 0 && !s.pages.prepare(frame, frame))
            return 0;
        if (owner == 0)
            s.pages.set(frame, block | kAccess);
        if (owner == 0 || (owner & ~kFlags) == block)
            return (frame << kPageblockShift) + (at - block);
    }
    return 0;
}

constexpr iommu_ops kTranslating = {.name = "software",
                                    .translates = true,
                                    .map = map_pages,
                                    .unmap = unmap_pages,
                                    .windows = tell_windows,
                                    .entries_left = tell_entries_left,
                                    .physical = no_physical,
                                    .close = close_iommu};
constexpr iommu_ops kPhysical = {.name = "software without IOMMU",
                                 .translates = false,
                                 .map = refuse_map,
                                 .unmap = refuse_unmap,
                                 .windows = tell_windows,
                                 .entries_left = no_limit,
                                 .physical = made_up_physical,
                                 .close = close_iommu};

bool set_windows(software_iommu &s, const iova_window *from, int count) {
    for (int i = 0; i < count; i++) {
        if (from[i].first > from[i].last || (i > 0 && from[i].first <= from[i - 1].last))
            return false;
        s.window[i] = from[i];
    }
    s.windows = count;
    return true;
}

void log_fault(software_iommu &s, const device *dev, uint64_t address, bool write,
               const char *reason) {
    pthread_mutex_lock(&s.log_lock);
    pagoda_software_fault &f = s.log[s.faults++ % kLogged];
    strncpy(f.device, dev->name, sizeof f.device - 1);
    f.device[sizeof f.device - 1] = 0;
    f.address = address;
    f.write = write;
    f.reason = reason;
    pthread_mutex_unlock(&s.log_lock);
}

// The access of a whole buffer: all pages are looked at before the first byte moves.
int access_memory(device *dev, uint64_t address, void *into, const void *from, size_t size) {
    pagoda_device_state *state = dev->state;
    if (state->gone.load(std::memory_order_acquire) || state->space->dead())
        return -ENODEV;
    software_iommu &s = of(state->space->back_end());
    bool write = from != nullptr;
    uint64_t allowed = write ? kDeviceWrites : kDeviceReads;
    uint64_t wires = state->width < 64 ? (uint64_t{1} << state->width) - 1 : ~uint64_t{0};
    if ((address & ~wires) != 0)
        log_fault(s, dev, address, write, "The address is wider than the device; it was cut off.");
    address &= wires;
    uint64_t unit = uint64_t{1} << s.shift;
    reading lock(s);
    for (uint64_t done = 0; done < size;) {
        uint64_t at = (address + done) & wires;
        uint64_t entry = s.pages.get(at >> s.shift);
        if ((entry & allowed) == 0) {
            log_fault(s, dev, at, write,
                      entry == 0 ? "Nothing is mapped there."
                      : write    ? "It is mapped for reading only."
                                 : "It is mapped for writing only.");
            return -EFAULT;
        }
        done += unit - (at & (unit - 1));
    }
    for (uint64_t done = 0; done < size;) {
        uint64_t at = (address + done) & wires;
        uint64_t inside = at & (unit - 1);
        uint64_t n = min_of(unit - inside, size - done);
        char *memory = reinterpret_cast<char *>((s.pages.get(at >> s.shift) & ~kFlags) + inside);
        if (write)
            memcpy(memory, static_cast<const char *>(from) + done, n);
        else
            memcpy(static_cast<char *>(into) + done, memory, n);
        done += n;
    }
    return 0;
}

} // namespace

iommu *software_iommu_create(const pagoda_software_options &o, int *error) {
    unsigned bits = o.physical_bits != 0 ? o.physical_bits : 36;
    uint64_t granule = o.granule != 0 ? o.granule : kPageSize;
    *error = -EINVAL;
    if (!is_power_of_two(granule) || granule < kPageSize || granule > kPageblockSize || bits < 22 ||
        bits > 47 || o.windows < 0 || o.windows > kMaxWindows ||
        (o.windows > 0) != (o.window_first != nullptr && o.window_last != nullptr))
        return nullptr;
    *error = -ENOMEM;
    void *memory = kvzalloc(sizeof(software_iommu), GFP_KERNEL);
    if (memory == nullptr)
        return nullptr;
    auto *s = new (memory) software_iommu();
    pthread_rwlock_init(&s->lock, nullptr);
    pthread_mutex_init(&s->log_lock, nullptr);
    s->ops = o.no_iommu ? &kPhysical : &kTranslating;
    s->granule = granule;
    s->shift = o.no_iommu ? kPageblockShift : log2_floor(granule);
    s->blocks = uint64_t{1} << (bits - kPageblockShift);
    s->entries_left = o.entry_limit != 0 ? o.entry_limit : 65535;
    s->bytes_left = o.memlock != 0 ? o.memlock : UINT64_MAX;
    iova_window wanted[kMaxWindows];
    for (int i = 0; i < o.windows; i++)
        wanted[i] = {o.window_first[i], o.window_last[i]};
    iova_window all = {0, (uint64_t{1} << bits) - 1};
    bool good = o.no_iommu      ? set_windows(*s, &all, 1)
                : o.windows > 0 ? set_windows(*s, wanted, o.windows)
                                : set_windows(*s, kDefaultWindows, 2);
    if (good)
        return s;
    close_iommu(*s);
    *error = -EINVAL;
    return nullptr;
}

} // namespace pagoda::dma

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT device *pagoda_software_device(const pagoda_software_options *options) {
    pagoda_software_options o = options != nullptr ? *options : pagoda_software_options{};
    const char *name = o.name != nullptr ? o.name : "software";
    if (o.width > 64) {
        fail(EINVAL, "%s: a device has at most 64 address lines.", name);
        return nullptr;
    }
    space *s = o.beside != nullptr ? o.beside->state->space : nullptr;
    if (s == nullptr) {
        int error = 0;
        iommu *back_end = software_iommu_create(o, &error);
        if (back_end != nullptr)
            s = space::create(back_end, &error);
        if (s != nullptr)
            error = spaces_add(s);
        if (s != nullptr && error != 0) {
            space::destroy(s);
            s = nullptr;
        }
        if (s == nullptr) {
            fail(-error, "%s: %s", name,
                 error == -EINVAL ? "these options describe no IOMMU; see software_device.h."
                                  : "no address space could be made for it.");
            return nullptr;
        }
    }
    pagoda_iommu kind = s->translates() ? PAGODA_IOMMU_SOFTWARE : PAGODA_IOMMU_NONE;
    pagoda_device_state *state = device_create(s, kind, name);
    if (state == nullptr) {
        if (o.beside == nullptr) {
            spaces_remove(s);
            space::destroy(s);
        }
        fail(ENOMEM, "%s: there is no memory for another device.", name);
        return nullptr;
    }
    state->width = o.width != 0 ? o.width : 64;
    return &state->dev;
}

PAGODA_EXPORT int pagoda_software_dma_read(device *dev, dma_addr_t address, void *buffer,
                                           size_t size) {
    return access_memory(dev, address, buffer, nullptr, size);
}

PAGODA_EXPORT int pagoda_software_dma_write(device *dev, dma_addr_t address, const void *buffer,
                                            size_t size) {
    return access_memory(dev, address, nullptr, buffer, size);
}

PAGODA_EXPORT uint64_t pagoda_software_faults(device *dev, pagoda_software_fault *faults,
                                              int capacity) {
    software_iommu &s = of(dev->state->space->back_end());
    pthread_mutex_lock(&s.log_lock);
    uint64_t there = min_of<uint64_t>(s.faults, kLogged);
    uint64_t wanted = min_of<uint64_t>(there, capacity > 0 ? static_cast<uint64_t>(capacity) : 0);
    for (uint64_t i = 0; i < wanted; i++)
        faults[i] = s.log[(s.faults - wanted + i) % kLogged];
    uint64_t ever = s.faults;
    pthread_mutex_unlock(&s.log_lock);
    return ever;
}

PAGODA_EXPORT void pagoda_software_fail_maps(device *dev, unsigned skip, unsigned count,
                                             int error) {
    software_iommu &s = of(dev->state->space->back_end());
    writing lock(s);
    s.maps = {skip, count, error};
}

PAGODA_EXPORT void pagoda_software_fail_unmaps(device *dev, unsigned skip, unsigned count,
                                               int error) {
    software_iommu &s = of(dev->state->space->back_end());
    writing lock(s);
    s.unmaps = {skip, count, error};
}
