#include "hugepage/shared_blocks.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <sys/mman.h>

namespace pagoda {
namespace {

constexpr unsigned kLargestAlignOrder = 30 - kPageShift;
constexpr char kName[] = "pagoda device memory";

uintptr_t address_of(uint32_t block) {
    return reinterpret_cast<uintptr_t>(page_address(block * kPageblockPages));
}

// The mapping keeps the file, and with it the memory.
bool map_file(uintptr_t at, size_t bytes, int fd) {
    if (fd < 0)
        return false;
    bool done = sys::set_file_size(fd, bytes) == 0 && sys::reserve_in_file(fd, 0, bytes) == 0 &&
                sys::map_file_over(at, bytes, PROT_READ | PROT_WRITE, fd, 0) == 0;
    sys::close(fd);
    return done;
}

// The file has its memory: this fills the page tables, by hand where the kernel cannot (before
// 5.14).
void fill_tables(uintptr_t at, size_t bytes) {
    if (sys::populate(at, bytes) == 0)
        return;
    for (size_t i = 0; i < bytes; i += kPageSize)
        __atomic_fetch_or(reinterpret_cast<uint8_t *>(at + i), 0, __ATOMIC_RELAXED);
}

bool share(uintptr_t at, size_t bytes) {
    if (!map_file(at, bytes, sys::memfd_hugetlb(kName, kPageblockShift))) {
        if (!map_file(at, bytes, sys::memfd(kName)))
            return false;
        sys::hint_huge(at, bytes, true);
    }
    if (sys::keep_from_children(at, bytes) != 0)
        return false;
    fill_tables(at, bytes);
    return true;
}

} // namespace

uint32_t shared_blocks_take(uint32_t count) {
    uint32_t pages = count * kPageblockPages;
    uint32_t first = zone_normal().set_aside(count, min_of(order_of(pages), kLargestAlignOrder));
    if (first == kNoPage)
        return kNoPage;
    uint32_t block = first / kPageblockPages;
    if (!zone_normal().begin_other_mapping(block, count)) {
        zone_normal().free_set_aside(first, pages, true);
        return kNoPage;
    }
    if (share(address_of(block), size_t{count} << kPageblockShift))
        return block;
    shared_blocks_give(block, count);
    return kNoPage;
}

void shared_blocks_give(uint32_t first, uint32_t count) {
    uintptr_t at = address_of(first);
    size_t bytes = size_t{count} << kPageblockShift;
    if (sys::map_over(at, bytes) != 0) {
        sys::hide(at, bytes); // at a limit: the memory goes, and the addresses are lost
        zone_normal().uncharge(bytes);
        return;
    }
    sys::hint_huge(at, bytes, options().thp == thp_policy::always);
    sys::name_range(at, bytes, "pagoda zone");
    zone_normal().end_other_mapping(first, count);
    zone_normal().free_set_aside(first * kPageblockPages, count * kPageblockPages, false);
}

// The zone's part.

bool zone::begin_other_mapping(uint32_t first_block, uint32_t count) {
    for (uint32_t n = first_block; n < first_block + count; n++)
        if (!let_go_block(n))
            return false;
    lock_guard g(lock_);
    for (uint32_t n = first_block; n < first_block + count; n++)
        if ((buddy_.block(n).flags & kBlockHugetlb) != 0 &&
            options().hugetlb_shift != kPageblockShift)
            return false;
    for (uint32_t n = first_block; n < first_block + count; n++) {
        uint8_t &flags = buddy_.block(n).flags;
        if ((flags & kBlockHugetlb) != 0)
            hugetlb_pages_ -= kPageblockPages;
        flags &= static_cast<uint8_t>(~(kBlockHugetlb | kBlockOrdinary));
    }
    if (uint64_t{first_block + count} * kPageblockPages == end_) // it is not ours to extend
        tail_extensible_ = false;
    return true;
}

void zone::end_other_mapping(uint32_t first_block, uint32_t count) {
    lock_guard g(lock_);
    for (uint32_t n = first_block; n < first_block + count; n++)
        buddy_.block(n).flags |= kBlockOrdinary;
}

} // namespace pagoda
