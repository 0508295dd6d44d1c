#include "dma/scatterlist.h"

#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <limits.h>

namespace pagoda::dma {

void free_arrays(scatterlist *sgl, unsigned left, const scatterlist *keep, unsigned keep_nents) {
    while (sgl != nullptr && left != 0) {
        unsigned room = sgl == keep ? keep_nents : static_cast<unsigned>(SG_MAX_SINGLE_ALLOC);
        unsigned pieces = left > room ? room - 1 : left;
        scatterlist *next = left > room ? sg_chain_ptr(&sgl[room - 1]) : nullptr;
        if (sgl != keep)
            kfree(sgl);
        sgl = next;
        left -= pieces;
    }
}

page_run find_run(struct page **pages, unsigned n_pages, size_t offset, size_t left, size_t most) {
    page_run r = {1, min_of(left, PAGE_SIZE - offset)};
    auto *end = static_cast<char *>(page_address(pages[0])) + PAGE_SIZE;
    while (r.pages < n_pages && r.bytes < left && page_address(pages[r.pages]) == end) {
        size_t more = min_of(left - r.bytes, static_cast<size_t>(PAGE_SIZE));
        if (r.bytes + more > most)
            break;
        r.bytes += more;
        r.pages++;
        end += PAGE_SIZE;
    }
    return r;
}

namespace {

// Arrays of at most SG_MAX_SINGLE_ALLOC entries, the last of each but the last one a link; `first`,
// if there is one, is the caller's.
scatterlist *alloc_chained(unsigned nents, scatterlist *first, unsigned first_nents, gfp_t gfp) {
    scatterlist *head = nullptr;
    scatterlist *link = nullptr; // of the array before
    for (unsigned left = nents; left != 0;) {
        bool own = head != nullptr || first == nullptr;
        unsigned room = own ? static_cast<unsigned>(SG_MAX_SINGLE_ALLOC) : first_nents;
        unsigned entries = min_of(left, room);
        auto *array =
            own ? static_cast<scatterlist *>(pagoda_kmalloc(entries * sizeof(scatterlist), gfp))
                : first;
        if (array == nullptr) {
            if (link != nullptr) { // ends in front of what is missing
                link->page_link = 0;
                free_arrays(head, nents - left, first, first_nents);
            }
            return nullptr;
        }
        sg_init_table(array, entries);
        if (link != nullptr)
            link->page_link = reinterpret_cast<uintptr_t>(array) | SG_CHAIN;
        else
            head = array;
        if (left > room) {
            sg_unmark_end(&array[entries - 1]);
            link = &array[entries - 1];
            entries--;
        }
        left -= entries;
    }
    return head;
}

int alloc_table(sg_table *table, unsigned nents, scatterlist *first, unsigned first_nents,
                gfp_t gfp) {
    *table = {};
    if (nents == 0)
        return -EINVAL;
    table->sgl = alloc_chained(nents, first, first_nents, gfp);
    if (table->sgl == nullptr)
        return -ENOMEM;
    table->nents = nents;
    table->orig_nents = nents;
    return 0;
}

// Calls fn(address, bytes) for each part of [skip, skip + bytes) of the list. Returns bytes.
template <class F>
size_t each_part(scatterlist *sgl, unsigned nents, size_t skip, size_t bytes, F fn) {
    size_t done = 0;
    for (unsigned i = 0; i < nents && sgl != nullptr && done < bytes; i++, sgl = sg_next(sgl)) {
        if (skip >= sgl->length) {
            skip -= sgl->length;
            continue;
        }
        size_t part = min_of(sgl->length - skip, bytes - done);
        fn(static_cast<char *>(sg_virt(sgl)) + skip, part, done);
        done += part;
        skip = 0;
    }
    return done;
}

// One side of a list for sg_split(): as the processor sees it, or as the device does.
struct view {
    bool mapped;
    unsigned length(const scatterlist *sg) const { return mapped ? sg_dma_len(sg) : sg->length; }
};

// Where a part begins: an entry of the list and an offset in it. False: the list ends before.
struct position {
    scatterlist *sg;
    unsigned left; // pieces from sg on
    size_t offset;
};
bool go_on(position *at, view v, size_t bytes, unsigned *pieces) {
    *pieces = 0;
    while (bytes != 0) {
        if (at->left == 0)
            return false;
        size_t room = v.length(at->sg) - at->offset;
        if (room != 0)
            ++*pieces;
        if (bytes < room) {
            at->offset += bytes;
            return true;
        }
        bytes -= room;
        at->offset = 0;
        at->sg = --at->left != 0 ? sg_next(at->sg) : nullptr;
    }
    return true;
}

// The same part as entries from out[0] on.
void write_part(position at, view v, size_t bytes, scatterlist *out) {
    for (; bytes != 0; at.sg = --at.left != 0 ? sg_next(at.sg) : nullptr, at.offset = 0) {
        size_t part = min_of(bytes, v.length(at.sg) - at.offset);
        if (part == 0)
            continue;
        auto length = static_cast<unsigned>(part);
        if (v.mapped) {
            out->dma_address = at.sg->dma_address + at.offset;
            out->dma_length = length;
        } else {
            sg_set_buf(out, static_cast<char *>(sg_virt(at.sg)) + at.offset, length);
        }
        out++;
        bytes -= part;
    }
}

} // namespace
} // namespace pagoda::dma

using namespace pagoda;
using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_sg_nents(scatterlist *sg) {
    int n = 0;
    for (; sg != nullptr; sg = sg_next(sg))
        n++;
    return n;
}

PAGODA_EXPORT int pagoda_sg_nents_for_len(scatterlist *sg, uint64_t len) {
    int n = 0;
    for (uint64_t total = 0; total < len; sg = sg_next(sg)) {
        if (sg == nullptr)
            return -EINVAL;
        total += sg->length;
        n++;
    }
    return n;
}

PAGODA_EXPORT scatterlist *pagoda_sg_last(scatterlist *sgl, unsigned int nents) {
    for (unsigned i = 1; i < nents && sgl != nullptr; i++)
        sgl = sg_next(sgl);
    return sgl;
}

PAGODA_EXPORT int pagoda_sg_alloc_table(sg_table *table, unsigned int nents, gfp_t gfp) {
    return alloc_table(table, nents, nullptr, 0, gfp);
}

PAGODA_EXPORT void pagoda_sg_free_table(sg_table *table) {
    free_arrays(table->sgl, table->orig_nents, nullptr, 0);
    *table = {};
}

// An array of one entry has no room for an entry and a link: it counts as none.
PAGODA_EXPORT int pagoda_sg_alloc_table_chained(sg_table *table, int nents, scatterlist *first,
                                                unsigned int first_nents) {
    *table = {};
    if (first_nents < 2)
        first = nullptr;
    return nents <= 0 ? -EINVAL
                      : alloc_table(table, static_cast<unsigned>(nents), first,
                                    first != nullptr ? first_nents : 0, GFP_ATOMIC);
}

PAGODA_EXPORT void pagoda_sg_free_table_chained(sg_table *table, unsigned int first_nents) {
    free_arrays(table->sgl, table->orig_nents, first_nents >= 2 ? table->sgl : nullptr,
                first_nents);
    *table = {};
}

PAGODA_EXPORT int pagoda_sg_alloc_table_from_pages(sg_table *table, struct page **pages,
                                                   unsigned int n_pages, unsigned int offset,
                                                   unsigned long size, unsigned int max_segment,
                                                   gfp_t gfp) {
    *table = {};
    size_t most = max_segment & PAGE_MASK;
    size_t all = size_t{n_pages} << PAGE_SHIFT;
    if (most == 0 || size == 0 || offset >= all || size > all - offset)
        return -EINVAL;
    pages += offset >> PAGE_SHIFT;
    n_pages -= offset >> PAGE_SHIFT;
    size_t start = offset & ~PAGE_MASK;
    // Twice: to count the pieces, and to write them.
    for (scatterlist *sg = nullptr;;) {
        unsigned pieces = 0;
        unsigned at = 0;
        size_t in_page = start;
        for (size_t left = size; left != 0; pieces++, in_page = 0) {
            page_run r = find_run(pages + at, n_pages - at, in_page, left, most);
            if (sg != nullptr) {
                sg_set_page(sg, pages[at], static_cast<unsigned>(r.bytes),
                            static_cast<unsigned>(in_page));
                sg = sg_next(sg);
            }
            at += r.pages;
            left -= r.bytes;
        }
        if (table->sgl != nullptr)
            return 0;
        if (int error = alloc_table(table, pieces, nullptr, 0, gfp))
            return error;
        sg = table->sgl;
    }
}

PAGODA_EXPORT scatterlist *pagoda_sgl_alloc_order(unsigned long long length, unsigned int order,
                                                  gfp_t gfp, unsigned int *nents) {
    unsigned long long block = PAGE_SIZE << order;
    if (length == 0 || order > MAX_PAGE_ORDER || length / block >= UINT_MAX - 1)
        return nullptr;
    auto pieces = static_cast<unsigned>((length + block - 1) / block);
    sg_table table;
    if (alloc_table(&table, pieces, nullptr, 0, gfp & ~__GFP_ZERO) != 0)
        return nullptr;
    if (nents != nullptr)
        *nents = pieces;
    for (scatterlist *sg = table.sgl; sg != nullptr; sg = sg_next(sg)) {
        auto bytes = static_cast<unsigned>(min_of(length, block));
        struct page *page = alloc_pages(gfp, order);
        if (page == nullptr) {
            pagoda_sgl_free_order(table.sgl, order);
            return nullptr;
        }
        sg_set_page(sg, page, bytes, 0);
        length -= bytes;
    }
    return table.sgl;
}

PAGODA_EXPORT void pagoda_sgl_free_order(scatterlist *sgl, unsigned int order) {
    unsigned pieces = 0;
    for (scatterlist *sg = sgl; sg != nullptr; sg = sg_next(sg), pieces++)
        if (pagoda_sg_base(sg) != nullptr)
            __free_pages(sg_page(sg), order);
    free_arrays(sgl, pieces, nullptr, 0);
}

PAGODA_EXPORT size_t pagoda_sg_copy_buffer(scatterlist *sgl, unsigned int nents, void *buf,
                                           size_t buflen, off_t skip, bool to_buffer) {
    char *bytes = static_cast<char *>(buf);
    auto copy = [=](char *at, size_t part, size_t done) {
        if (to_buffer)
            memcpy(bytes + done, at, part);
        else
            memcpy(at, bytes + done, part);
    };
    return skip < 0 ? 0 : each_part(sgl, nents, static_cast<size_t>(skip), buflen, copy);
}

PAGODA_EXPORT size_t pagoda_sg_zero_buffer(scatterlist *sgl, unsigned int nents, size_t buflen,
                                           off_t skip) {
    auto clear = [](char *at, size_t part, size_t) { memset(at, 0, part); };
    return skip < 0 ? 0 : each_part(sgl, nents, static_cast<size_t>(skip), buflen, clear);
}

PAGODA_EXPORT int pagoda_sg_split(scatterlist *in, int in_mapped_nents, off_t skip, int nb_splits,
                                  const size_t *split_sizes, scatterlist **out, int *out_nents,
                                  gfp_t gfp) {
    if (nb_splits <= 0 || skip < 0)
        return -EINVAL;
    view memory = {false};
    view device = {true};
    position at = {in, static_cast<unsigned>(sg_nents(in)), 0};
    position seen = {in, static_cast<unsigned>(max_of(in_mapped_nents, 0)), 0};
    unsigned pieces;
    int error = go_on(&at, memory, static_cast<size_t>(skip), &pieces) ? 0 : -EINVAL;
    if (in_mapped_nents > 0 && !go_on(&seen, device, static_cast<size_t>(skip), &pieces))
        error = -EINVAL;
    int made = 0;
    for (; error == 0 && made < nb_splits; made++) {
        position from = at;
        position seen_from = seen;
        unsigned seen_pieces = 0;
        if (split_sizes[made] == 0 || !go_on(&at, memory, split_sizes[made], &pieces) ||
            (in_mapped_nents > 0 && !go_on(&seen, device, split_sizes[made], &seen_pieces))) {
            error = -EINVAL;
            break;
        }
        unsigned entries = max_of(pieces, seen_pieces);
        out[made] = static_cast<scatterlist *>(pagoda_kmalloc(entries * sizeof(scatterlist), gfp));
        if (out[made] == nullptr) {
            error = -ENOMEM;
            break;
        }
        sg_init_table(out[made], entries);
        write_part(from, memory, split_sizes[made], out[made]);
        if (in_mapped_nents > 0)
            write_part(seen_from, device, split_sizes[made], out[made]);
        if (out_nents != nullptr)
            out_nents[made] = static_cast<int>(pieces);
    }
    while (error != 0 && made > 0)
        kfree(out[--made]);
    return error;
}

PAGODA_EXPORT int pagoda_sg_to_iovec(scatterlist *sgl, unsigned int nents, iovec *iov,
                                     int capacity) {
    int n = 0;
    for (unsigned i = 0; i < nents && sgl != nullptr; i++, n++, sgl = sg_next(sgl))
        if (n < capacity)
            iov[n] = {sg_virt(sgl), sgl->length};
    return n;
}

PAGODA_EXPORT void pagoda_sg_miter_stop(sg_mapping_iter *miter) {
    miter->__offset += miter->consumed;
    miter->addr = nullptr;
    miter->page = nullptr;
    miter->length = 0;
    miter->consumed = 0;
}

PAGODA_EXPORT bool pagoda_sg_miter_next(sg_mapping_iter *miter) {
    pagoda_sg_miter_stop(miter);
    while (miter->__nents != 0 && miter->__sg != nullptr &&
           miter->__offset >= miter->__sg->length) {
        miter->__offset -= miter->__sg->length;
        miter->__sg = sg_next(miter->__sg);
        miter->__nents--;
    }
    if (miter->__nents == 0 || miter->__sg == nullptr)
        return false;
    miter->addr = static_cast<char *>(sg_virt(miter->__sg)) + miter->__offset;
    size_t in_page = reinterpret_cast<uintptr_t>(miter->addr) & ~PAGE_MASK;
    miter->length = min_of(miter->__sg->length - miter->__offset, PAGE_SIZE - in_page);
    miter->consumed = miter->length;
    miter->page = virt_to_page(miter->addr);
    return true;
}

PAGODA_EXPORT bool pagoda_sg_miter_skip(sg_mapping_iter *miter, off_t offset) {
    pagoda_sg_miter_stop(miter);
    if (offset < 0)
        return false;
    auto left = static_cast<size_t>(offset);
    while (left != 0) {
        if (miter->__nents == 0 || miter->__sg == nullptr)
            return false;
        size_t room = miter->__sg->length - min_of(miter->__offset, size_t{miter->__sg->length});
        size_t part = min_of(room, left);
        miter->__offset += part;
        left -= part;
        if (left != 0) {
            miter->__offset = 0;
            miter->__sg = sg_next(miter->__sg);
            miter->__nents--;
        }
    }
    return true;
}
