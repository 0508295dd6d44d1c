// Memory of the allocator's own that address spaces map by granules.
#pragma once

#include "tests/unit.h"

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
    ::page *first;
    char *at;
};

} // namespace pagoda::test
