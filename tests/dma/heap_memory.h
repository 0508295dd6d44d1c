// Memory of the allocator's own that address spaces map by granules.
#pragma once

#include "tests/unit.h"

#include "hugepage/provider.h"

#include <pagoda/mm.h>

namespace pagoda::test {

// Whole pageblocks in a row.
struct heap_blocks {
    explicit heap_blocks(size_t n)
        : count(n), first(alloc_contig_pages(n * kPageblockPages, GFP_KERNEL, -1, nullptr)),
          at(first != nullptr ? static_cast<char *>(page_address(first)) : nullptr) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % kPageblockSize, 0u);
    }
    ~heap_blocks() { free_contig_range(page_to_pfn(first), count * kPageblockPages); }
    heap_blocks(const heap_blocks &) = delete;
    heap_blocks &operator=(const heap_blocks &) = delete;

    size_t bytes() const { return count << kPageblockShift; }
    char *block(size_t i) const { return at + (i << kPageblockShift); }

    size_t count;
    struct page *first;
    char *at;
};

} // namespace pagoda::test

// Stands in until the library has its own; all of the granule is memory.
extern "C" __attribute__((weak)) int pagoda_block_hold(const void *p, void **start, size_t *bytes) {
    *start = reinterpret_cast<void *>(
        pagoda::align_down(reinterpret_cast<uintptr_t>(p), pagoda::kPageblockSize));
    *bytes = pagoda::kPageblockSize;
    return 0;
}
extern "C" __attribute__((weak)) void pagoda_block_release(const void *) {}
