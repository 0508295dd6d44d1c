// Scatter-gather lists on the processor's side: see pagoda/scatterlist.h.
#pragma once

#include <pagoda/scatterlist.h>

namespace pagoda::dma {

// The piece that begins at `offset` of the first page, of `left` bytes and at most `most`: how long
// it is, and on how many pages, which follow each other.
struct page_run {
    unsigned pages;
    size_t bytes;
};
page_run find_run(struct page **pages, unsigned n_pages, size_t offset, size_t left, size_t most);
// Frees the arrays of a list of `left` pieces, but not `keep`, which is the caller's.
void free_arrays(scatterlist *sgl, unsigned left, const scatterlist *keep, unsigned keep_nents);

} // namespace pagoda::dma
