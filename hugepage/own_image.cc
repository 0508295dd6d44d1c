#include "hugepage/own_image.h"

#include "hugepage/sys.h"

#include <link.h>

namespace pagoda {
namespace {

constexpr size_t kLargest = size_t{16} << 20;

int visit(dl_phdr_info *info, size_t, void *total) {
    uintptr_t self = reinterpret_cast<uintptr_t>(&populate_own_image);
    bool ours = false;
    uintptr_t read_only = 0; // after relocation: up to here writing is refused
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &segment = info->dlpi_phdr[i];
        if (segment.p_type == PT_GNU_RELRO)
            read_only =
                align_down(info->dlpi_addr + segment.p_vaddr + segment.p_memsz, sys::page_size());
        ours = ours || (segment.p_type == PT_LOAD &&
                        self - (info->dlpi_addr + segment.p_vaddr) < segment.p_memsz);
    }
    if (!ours)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD || segment.p_memsz > kLargest)
            continue;
        uintptr_t from = align_down(info->dlpi_addr + segment.p_vaddr, sys::page_size());
        uintptr_t to =
            align_up(info->dlpi_addr + segment.p_vaddr + segment.p_memsz, sys::page_size());
        sys::populate_read(from, to - from);
        uintptr_t writable = max_of(from, min_of(read_only, to));
        if ((segment.p_flags & PF_W) != 0 && writable < to)
            sys::populate(writable, to - writable);
        *static_cast<size_t *>(total) += to - from;
    }
    return 1;
}

} // namespace

size_t populate_own_image() {
    size_t total = 0;
    dl_iterate_phdr(visit, &total);
    return total;
}

} // namespace pagoda
