#include "dma/sg_append.h"

#include "dma/scatterlist.h"
#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <errno.h>

namespace pagoda::dma {

namespace {

constexpr unsigned kRoom = SG_MAX_SINGLE_ALLOC;

// Pieces in the last array. All have kRoom entries, of which the last is a link only where another
// array follows.
unsigned in_last_array(unsigned pieces) {
    return pieces <= kRoom ? pieces : (pieces - 2) % (kRoom - 1) + 2;
}

scatterlist *new_array(sg_append_table *t, gfp_t gfp) {
    auto *array =
        static_cast<scatterlist *>(pagoda_kmalloc(kRoom * sizeof(scatterlist), gfp | __GFP_ZERO));
    if (array != nullptr)
        t->total_nents += kRoom;
    return array;
}

// One more piece, the last, still empty. NULL: no memory.
scatterlist *add_piece(sg_append_table *t, gfp_t gfp) {
    scatterlist *last = t->prv;
    if (last == nullptr) {
        t->prv = t->sgt.sgl = new_array(t, gfp);
    } else if (in_last_array(t->sgt.orig_nents) < kRoom) {
        t->prv = last + 1;
    } else if (scatterlist *array = new_array(t, gfp)) {
        array[0] = *last; // its place is the link's
        *last = {};
        last->page_link = reinterpret_cast<uintptr_t>(array) | SG_CHAIN;
        last = &array[0];
        t->prv = &array[1];
    } else {
        return nullptr;
    }
    if (t->prv == nullptr)
        return nullptr;
    if (last != nullptr)
        sg_unmark_end(last);
    *t->prv = {};
    sg_mark_end(t->prv);
    t->sgt.nents = ++t->sgt.orig_nents;
    return t->prv;
}

// How much of the pages the last piece can take in. No bytes: nothing.
page_run that_follows(const scatterlist *last, struct page **pages, unsigned n_pages, size_t size,
                      size_t most) {
    if (last == nullptr || n_pages == 0)
        return {};
    const char *end = static_cast<char *>(pagoda_sg_base(last)) + last->offset + last->length;
    size_t first = min_of(size, static_cast<size_t>(PAGE_SIZE));
    if (reinterpret_cast<uintptr_t>(end) % PAGE_SIZE != 0 || page_address(pages[0]) != end ||
        last->length + first > most)
        return {};
    return find_run(pages, n_pages, 0, size, most - last->length);
}

} // namespace

} // namespace pagoda::dma

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_sg_append_from_pages(sg_append_table *t, struct page **pages,
                                              unsigned int n_pages, unsigned int offset,
                                              unsigned long size, unsigned int max_segment,
                                              gfp_t gfp) {
    size_t most = align_down(max_segment, PAGE_SIZE);
    if (most == 0 || size == 0 || (t->prv != nullptr && offset != 0) ||
        offset > (uint64_t{n_pages} << PAGE_SHIFT) ||
        size > (uint64_t{n_pages} << PAGE_SHIFT) - offset)
        return -EINVAL;
    pages += offset >> PAGE_SHIFT;
    n_pages -= offset >> PAGE_SHIFT;
    size_t in_page = offset & ~PAGE_MASK;
    page_run more = that_follows(t->prv, pages, n_pages, size, most);
    if (more.bytes != 0)
        t->prv->length += static_cast<unsigned>(more.bytes);
    for (page_run r = more;; in_page = 0) {
        pages += r.pages;
        n_pages -= r.pages;
        size -= r.bytes;
        if (size == 0)
            return 0;
        r = find_run(pages, n_pages, in_page, size, most);
        scatterlist *sg = add_piece(t, gfp);
        if (sg == nullptr)
            return -ENOMEM;
        sg_set_page(sg, pages[0], static_cast<unsigned>(r.bytes), static_cast<unsigned>(in_page));
    }
}

PAGODA_EXPORT void pagoda_sg_free_append_table(sg_append_table *t) {
    free_arrays(t->sgt.sgl, t->sgt.orig_nents, nullptr, 0);
    *t = {};
}
