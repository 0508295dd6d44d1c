#include "lib/memfd.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/thread.h"

#include <errno.h>

namespace pagoda {
namespace {

uint64_t bytes_of(uint32_t pages) { return uint64_t{pages} << kPageShift; }

void charge(uint32_t pages) {
    slow_path scope; // what pays takes locks
    zone_normal().pay_for(bytes_of(pages));
    zone_normal().note_vmalloc(static_cast<int64_t>(bytes_of(pages)), 0);
}
void discharge(uint32_t pages) {
    zone_normal().note_vmalloc(-static_cast<int64_t>(bytes_of(pages)), 0);
}

memfd_region *make(int fd, uint64_t offset, uint32_t pages, gfp_t gfp) {
    void *room = heap_alloc(sizeof(memfd_region), gfp | __GFP_ZERO);
    void *records = heap_alloc(size_t{pages} * sizeof(page), gfp | __GFP_ZERO);
    if (room == nullptr || records == nullptr) {
        heap_free(room, gfp);
        heap_free(records, gfp);
        return nullptr;
    }
    auto *region = static_cast<memfd_region *>(room);
    region->fd = fd;
    region->offset = offset;
    region->pages = pages;
    region->records = static_cast<page *>(records);
    region->users.store(1, std::memory_order_relaxed);
    return region;
}

} // namespace

memfd_region *region_create(const char *name, uint32_t pages, bool reserve, gfp_t gfp) {
    int fd = sys::memfd(name);
    if (fd < 0)
        return nullptr;
    memfd_region *region = make(fd, 0, pages, gfp);
    if (region == nullptr || sys::set_file_size(fd, bytes_of(pages)) != 0) {
        if (region != nullptr)
            region_put(region, 1);
        else
            sys::close(fd);
        return nullptr;
    }
    if (reserve) {
        for (uint32_t i = 0; i < pages; i++) {
            region->records[i].owner = region;
            region->records[i].refs.store(1, std::memory_order_relaxed);
        }
        if (!region_reserve(region, 0, pages)) {
            region_put(region, 1);
            return nullptr;
        }
        region->charged = true;
    }
    return region;
}

int region_import(int fd, uint64_t offset, uint32_t pages, memfd_region **region) {
    int64_t size = sys::file_size(fd);
    if (size < 0)
        return static_cast<int>(size);
    if (offset % sys::page_size() != 0 || pages == 0 || offset > static_cast<uint64_t>(size) ||
        bytes_of(pages) > static_cast<uint64_t>(size) - offset)
        return -EINVAL;
    int mine = sys::duplicate(fd);
    if (mine < 0)
        return mine;
    *region = make(mine, offset, pages, GFP_KERNEL);
    if (*region == nullptr) {
        sys::close(mine);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < pages; i++) {
        (*region)->records[i].owner = *region;
        (*region)->records[i].refs.store(1, std::memory_order_relaxed);
    }
    return 0;
}

void region_put(memfd_region *region, uint64_t count) {
    if (region->users.fetch_sub(count, std::memory_order_acq_rel) != count)
        return;
    if (region->charged)
        discharge(region->pages);
    sys::close(region->fd);
    heap_free(region->records, GFP_KERNEL);
    heap_free(region, GFP_KERNEL);
}

bool region_reserve(memfd_region *region, uint32_t first, uint32_t count) {
    charge(count);
    if (sys::reserve_in_file(region->fd, region->offset + bytes_of(first), bytes_of(count)) == 0)
        return true;
    discharge(count);
    return false;
}

void region_release(memfd_region *region, uint32_t first, uint32_t count) {
    sys::discard_in_file(region->fd, region->offset + bytes_of(first), bytes_of(count));
    discharge(count);
}

int map_memfd_pages(uintptr_t at, const page *first, uint32_t count, int prot) {
    return sys::map_file_over(at, bytes_of(count), prot, region_of(first)->fd, file_offset(first));
}

} // namespace pagoda
