#include "lib/memfd.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/thread.h"

#include <errno.h>
#include <string.h>

namespace pagoda {
namespace {

uint64_t bytes_of(uint32_t pages) { return uint64_t{pages} << kPageShift; }

// False: that would pass the limit.
bool charge(uint32_t pages) {
    slow_path scope; // locks are taken
    zone_normal().pay_for(bytes_of(pages));
    if (!zone_normal().charge(bytes_of(pages)))
        return false;
    zone_normal().note_vmalloc(static_cast<int64_t>(bytes_of(pages)), 0);
    return true;
}
void discharge(uint32_t pages) {
    zone_normal().uncharge(bytes_of(pages));
    zone_normal().note_vmalloc(-static_cast<int64_t>(bytes_of(pages)), 0);
}

// Struct pages. A free piece's first one holds its length (npages) and the number of the next
// piece's first one + 1 (link); the pieces are in order.
mutex lock{lock_rank::maps};
uint32_t first_free = 0; // + 1
uint32_t used = 0;

page *record(uint32_t number) { return g_space.memfd_pages.as<page>() + number; }

bool reach_records(uint32_t count) {
    window &w = g_space.memfd_pages;
    size_t bytes = count * sizeof(page);
    return w.bytes() != 0 ? w.reach(bytes)
                          : w.open(w.base(), kMemfdPagesSpan, bytes, "pagoda memfd pages");
}

// `count` zeroed struct pages in a row; NULL when memory is short.
page *take_records(uint32_t count) {
    slow_path scope;
    lock_guard hold(lock);
    for (uint32_t *link = &first_free; *link != 0; link = &record(*link - 1)->link) {
        page *p = record(*link - 1);
        if (p->npages < count)
            continue;
        uint32_t next = p->link;
        if (p->npages > count) {
            p[count].npages = p->npages - count;
            p[count].link = next;
            next = *link + count;
        }
        *link = next;
        p->npages = p->link = 0;
        return p;
    }
    if (count > kMemfdPagesSpan / sizeof(page) - used || !reach_records(used + count))
        return nullptr;
    used += count;
    return record(used - count);
}

void give_records(page *first, uint32_t count) {
    memset(static_cast<void *>(first), 0, count * sizeof(page));
    slow_path scope;
    lock_guard hold(lock);
    uint32_t number = static_cast<uint32_t>(first - record(0));
    page *before = nullptr;
    uint32_t *link = &first_free;
    for (; *link != 0 && *link - 1 < number; link = &before->link)
        before = record(*link - 1);
    first->npages = count;
    first->link = *link;
    *link = number + 1;
    for (page *p : {first, before}) { // with the piece behind it, then with the one before
        if (p == nullptr || p->link == 0 || p + p->npages != record(p->link - 1))
            continue;
        page *behind = record(p->link - 1);
        p->npages += behind->npages;
        p->link = behind->link;
        behind->npages = behind->link = 0;
    }
}

memfd_region *make(int fd, uint64_t offset, uint32_t pages, gfp_t gfp) {
    void *room = heap_alloc(sizeof(memfd_region), gfp | __GFP_ZERO);
    page *records = room != nullptr ? take_records(pages) : nullptr;
    if (records == nullptr) {
        heap_free(room, gfp);
        return nullptr;
    }
    auto *region = static_cast<memfd_region *>(room);
    region->fd = fd;
    region->offset = offset;
    region->pages = pages;
    region->records = records;
    region->users.store(1, std::memory_order_relaxed);
    return region;
}

} // namespace

mutex &memfd_lock() { return lock; }

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
    give_records(region->records, region->pages);
    heap_free(region, GFP_KERNEL);
}

bool region_reserve(memfd_region *region, uint32_t first, uint32_t count) {
    if (!charge(count))
        return false;
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
