/* Scatter-gather lists: memory in pieces that a device is to see as one buffer. Names and contracts
 * of Linux 6.18; the mapping functions are in dma-mapping.h.
 *
 * An entry names memory by the address of the page that it begins in, so it may describe any memory
 * of the process, also what has no struct page (a stack, a mapped file). sg_page() is for entries
 * in memory of the page allocator, kmalloc and vmalloc. A HIGHMEM page has to be mapped by kmap()
 * while it stands in a list.
 *
 * A list is an array of entries, or several that are chained: the last entry of one array is then
 * no piece but a link. sg_next() steps over links; the `nents` of every function counts pieces
 * only. Lists are not locked: one thread at a time. Functions that take no gfp_t do not allocate,
 * and may be called in any context.
 *
 * Source: include/linux/scatterlist.h and lib/scatterlist.c's interface comments of the kernel. */
#ifndef PAGODA_SCATTERLIST_H
#define PAGODA_SCATTERLIST_H

#include <pagoda/device.h>
#include <pagoda/gfp.h>
#include <pagoda/mm.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One piece. `dma_address` and `dma_length` are set by dma_map_sg(), and describe the list as the
 * device sees it: fewer, longer pieces, from the first entry on. */
struct scatterlist {
    uintptr_t page_link; /* address of the page; bit 0: a link, bit 1: the last piece */
    unsigned int offset; /* of the piece from that page; may be more than a page */
    unsigned int length;
    dma_addr_t dma_address;
    unsigned int dma_length;
    unsigned int dma_flags; /* the library's own */
};

/* The piece as the device sees it, once it is mapped. */
#define sg_dma_address(sg) ((sg)->dma_address)
#define sg_dma_len(sg) ((sg)->dma_length)

/* A list with its length. */
struct sg_table {
    struct scatterlist *sgl; /* the list */
    unsigned int nents;      /* pieces after mapping */
    unsigned int orig_nents; /* pieces */
};

#define SG_CHAIN 1UL
#define SG_END 2UL
#define SG_PAGE_LINK_MASK (SG_CHAIN | SG_END)

/* Entries in one allocation of a table: a page of them. */
#define SG_MAX_SINGLE_ALLOC (PAGE_SIZE / sizeof(struct scatterlist))
#define SG_MAX_SEGMENTS 2048
/* Entries that sg_alloc_table_chained() has from a pool at a time. */
#define SG_CHUNK_SIZE 128

/* Whether the entry is a link; whether it is the last piece. */
static inline bool sg_is_chain(const struct scatterlist *sg) {
    return (sg->page_link & SG_CHAIN) != 0;
}
static inline bool sg_is_last(const struct scatterlist *sg) {
    return (sg->page_link & SG_END) != 0;
}
/* The entry that a link leads to. */
static inline struct scatterlist *sg_chain_ptr(const struct scatterlist *sg) {
    return (struct scatterlist *)(sg->page_link & ~SG_PAGE_LINK_MASK);
}

/* The piece after this one, behind a link if need be; NULL after the last. */
static inline struct scatterlist *sg_next(struct scatterlist *sg) {
    if (sg_is_last(sg))
        return NULL;
    sg++;
    return sg_is_chain(sg) ? sg_chain_ptr(sg) : sg;
}

/* Makes this entry the last piece, or not the last any more. */
static inline void sg_mark_end(struct scatterlist *sg) {
    sg->page_link = (sg->page_link | SG_END) & ~SG_CHAIN;
}
static inline void sg_unmark_end(struct scatterlist *sg) { sg->page_link &= ~SG_END; }

/* An array of `nents` empty entries, the last one marked. */
static inline void sg_init_table(struct scatterlist *sgl, unsigned int nents) {
    memset(sgl, 0, sizeof(*sgl) * nents);
    sg_mark_end(&sgl[nents - 1]);
}
/* The same without clearing. */
static inline void sg_init_marker(struct scatterlist *sgl, unsigned int nents) {
    sg_mark_end(&sgl[nents - 1]);
}

/* The page that the piece's offset counts from, and that page's address. */
static inline void *pagoda_sg_base(const struct scatterlist *sg) {
    return (void *)(sg->page_link & ~SG_PAGE_LINK_MASK);
}
static inline struct page *sg_page(struct scatterlist *sg) {
    return virt_to_page(pagoda_sg_base(sg));
}
/* The address of the piece. Its pages need not be mapped by kmap_atomic() or the like. */
static inline void *sg_virt(struct scatterlist *sg) {
    return (char *)pagoda_sg_base(sg) + sg->offset;
}
/* The same as a number: see phys_addr_t. */
static inline uint64_t sg_phys(struct scatterlist *sg) { return (uintptr_t)sg_virt(sg); }

/* Makes the entry `len` bytes from `offset` on of a page and those behind it. The entry stays the
 * last one if it is. A page without an address leaves it empty. */
static inline void sg_set_page(struct scatterlist *sg, struct page *page, unsigned int len,
                               unsigned int offset) {
    uintptr_t address = (uintptr_t)page_address(page);
    sg->page_link = (sg->page_link & SG_PAGE_LINK_MASK) | address;
    sg->offset = offset;
    sg->length = address != 0 ? len : 0;
}
/* Changes only the page that the entry's offset counts from. */
static inline void sg_assign_page(struct scatterlist *sg, struct page *page) {
    sg->page_link = (sg->page_link & SG_PAGE_LINK_MASK) | (uintptr_t)page_address(page);
}
/* Makes the entry the `len` bytes at `buf`, any memory. */
static inline void sg_set_buf(struct scatterlist *sg, const void *buf, unsigned int len) {
    uintptr_t address = (uintptr_t)buf;
    sg->page_link = (sg->page_link & SG_PAGE_LINK_MASK) | (address & PAGE_MASK);
    sg->offset = (unsigned int)(address & ~PAGE_MASK);
    sg->length = len;
}
/* A list of one piece. */
static inline void sg_init_one(struct scatterlist *sg, const void *buf, unsigned int len) {
    sg_init_table(sg, 1);
    sg_set_buf(sg, buf, len);
}

/* Makes the last entry of `prv`, an array of `prv_nents`, a link to `sgl`. What stood there is
 * lost. */
static inline void sg_chain(struct scatterlist *prv, unsigned int prv_nents,
                            struct scatterlist *sgl) {
    struct scatterlist *link = &prv[prv_nents - 1];
    link->offset = 0;
    link->length = 0;
    link->page_link = ((uintptr_t)sgl | SG_CHAIN) & ~SG_END;
}

/* Steps through `nr` pieces. */
#define for_each_sg(sglist, sg, nr, __i)                                                           \
    for ((__i) = 0, (sg) = (sglist); (__i) < (nr); (__i)++, (sg) = sg_next(sg))
/* Through the pieces of a table, and through those that the device sees. */
#define for_each_sgtable_sg(sgt, sg, i) for_each_sg((sgt)->sgl, sg, (sgt)->orig_nents, i)
#define for_each_sgtable_dma_sg(sgt, sg, i) for_each_sg((sgt)->sgl, sg, (sgt)->nents, i)

/* How many pieces there are. */
int pagoda_sg_nents(struct scatterlist *sg);
static inline int sg_nents(struct scatterlist *sg) { return pagoda_sg_nents(sg); }
/* How many of them, from the first, hold `len` bytes: 0 for 0, -EINVAL where all are too few. */
int pagoda_sg_nents_for_len(struct scatterlist *sg, uint64_t len);
static inline int sg_nents_for_len(struct scatterlist *sg, uint64_t len) {
    return pagoda_sg_nents_for_len(sg, len);
}
/* The last of `nents` pieces. */
struct scatterlist *pagoda_sg_last(struct scatterlist *sgl, unsigned int nents);
static inline struct scatterlist *sg_last(struct scatterlist *sgl, unsigned int nents) {
    return pagoda_sg_last(sgl, nents);
}

/* Makes a table of `nents` empty entries, chained where they are more than SG_MAX_SINGLE_ALLOC. 0;
 * -EINVAL for 0 entries; -ENOMEM with an empty table. */
int pagoda_sg_alloc_table(struct sg_table *table, unsigned int nents, gfp_t gfp);
static inline int sg_alloc_table(struct sg_table *table, unsigned int nents, gfp_t gfp) {
    return pagoda_sg_alloc_table(table, nents, gfp);
}
/* Frees its entries; an empty table is ignored. The memory of the pieces is the caller's. */
void pagoda_sg_free_table(struct sg_table *table);
static inline void sg_free_table(struct sg_table *table) { pagoda_sg_free_table(table); }

/* The same where the first entries are the caller's own array (NULL or fewer than 2: none), which
 * serves alone if it is large enough. Flags GFP_ATOMIC. 0, -EINVAL or -ENOMEM. */
int pagoda_sg_alloc_table_chained(struct sg_table *table, int nents,
                                  struct scatterlist *first_chunk, unsigned int nents_first_chunk);
static inline int sg_alloc_table_chained(struct sg_table *table, int nents,
                                         struct scatterlist *first_chunk,
                                         unsigned int nents_first_chunk) {
    return pagoda_sg_alloc_table_chained(table, nents, first_chunk, nents_first_chunk);
}
void pagoda_sg_free_table_chained(struct sg_table *table, unsigned int nents_first_chunk);
static inline void sg_free_table_chained(struct sg_table *table, unsigned int nents_first_chunk) {
    pagoda_sg_free_table_chained(table, nents_first_chunk);
}

/* A table over `size` bytes, from `offset` on, of pages that are thought of as one behind the
 * other. Pages whose addresses follow each other become one piece of at most max_segment bytes
 * (rounded down to pages). 0; -EINVAL: max_segment under a page, no size, or more than the pages
 * hold; -ENOMEM. */
int pagoda_sg_alloc_table_from_pages(struct sg_table *table, struct page **pages,
                                     unsigned int n_pages, unsigned int offset, unsigned long size,
                                     unsigned int max_segment, gfp_t gfp);
static inline int sg_alloc_table_from_pages_segment(struct sg_table *table, struct page **pages,
                                                    unsigned int n_pages, unsigned int offset,
                                                    unsigned long size, unsigned int max_segment,
                                                    gfp_t gfp) {
    return pagoda_sg_alloc_table_from_pages(table, pages, n_pages, offset, size, max_segment, gfp);
}
static inline int sg_alloc_table_from_pages(struct sg_table *table, struct page **pages,
                                            unsigned int n_pages, unsigned int offset,
                                            unsigned long size, gfp_t gfp) {
    return pagoda_sg_alloc_table_from_pages(table, pages, n_pages, offset, size,
                                            ~0U & (unsigned int)PAGE_MASK, gfp);
}

/* A table that grows call by call; all zero at first. */
struct sg_append_table {
    struct sg_table sgt;      /* what there is so far: a list like any other */
    struct scatterlist *prv;  /* its last piece */
    unsigned int total_nents; /* entries that there is room for */
};
/* Adds what pagoda_sg_alloc_table_from_pages() would make of the pages to the table's end. Pages
 * that follow the last piece, if that ends on a page, make it longer. `left_pages`, how many the
 * caller has still to add, has no effect. 0; -EINVAL as there, and for an offset if it is not the
 * first call; -ENOMEM: the table can only be freed then. */
int pagoda_sg_append_from_pages(struct sg_append_table *table, struct page **pages,
                                unsigned int n_pages, unsigned int offset, unsigned long size,
                                unsigned int max_segment, gfp_t gfp);
/* Frees the entries of such a table, which is empty then. */
void pagoda_sg_free_append_table(struct sg_append_table *table);
static inline int sg_alloc_append_table_from_pages(struct sg_append_table *table,
                                                   struct page **pages, unsigned int n_pages,
                                                   unsigned int offset, unsigned long size,
                                                   unsigned int max_segment,
                                                   unsigned int left_pages, gfp_t gfp) {
    (void)left_pages;
    return pagoda_sg_append_from_pages(table, pages, n_pages, offset, size, max_segment, gfp);
}
static inline void sg_free_append_table(struct sg_append_table *table) {
    pagoda_sg_free_append_table(table);
}

/* A list over fresh pages for `length` bytes, in blocks of 2^order pages; the last one may be
 * shorter. *nents (may be NULL): how many pieces. NULL when memory is short, or length is 0. */
struct scatterlist *pagoda_sgl_alloc_order(unsigned long long length, unsigned int order, gfp_t gfp,
                                           unsigned int *nents);
static inline struct scatterlist *sgl_alloc_order(unsigned long long length, unsigned int order,
                                                  bool chainable, gfp_t gfp, unsigned int *nents) {
    (void)chainable; /* every list has room for a link where it needs one */
    return pagoda_sgl_alloc_order(length, order, gfp, nents);
}
static inline struct scatterlist *sgl_alloc(unsigned long long length, gfp_t gfp,
                                            unsigned int *nents) {
    return pagoda_sgl_alloc_order(length, 0, gfp, nents);
}
/* Frees such a list with its pages, of the order that it was made with. NULL is ignored. */
void pagoda_sgl_free_order(struct scatterlist *sgl, unsigned int order);
static inline void sgl_free_order(struct scatterlist *sgl, unsigned int order) {
    pagoda_sgl_free_order(sgl, order);
}
static inline void sgl_free(struct scatterlist *sgl) { pagoda_sgl_free_order(sgl, 0); }

/* Copies up to `buflen` bytes between `buf` and the list, from `skip` bytes on in the list. Returns
 * how many: fewer where the list ends. Copies nothing where `skip` is behind its end. */
size_t pagoda_sg_copy_buffer(struct scatterlist *sgl, unsigned int nents, void *buf, size_t buflen,
                             off_t skip, bool to_buffer);
static inline size_t sg_copy_buffer(struct scatterlist *sgl, unsigned int nents, void *buf,
                                    size_t buflen, off_t skip, bool to_buffer) {
    return pagoda_sg_copy_buffer(sgl, nents, buf, buflen, skip, to_buffer);
}
static inline size_t sg_copy_from_buffer(struct scatterlist *sgl, unsigned int nents,
                                         const void *buf, size_t buflen) {
    return pagoda_sg_copy_buffer(sgl, nents, (void *)(uintptr_t)buf, buflen, 0, false);
}
static inline size_t sg_copy_to_buffer(struct scatterlist *sgl, unsigned int nents, void *buf,
                                       size_t buflen) {
    return pagoda_sg_copy_buffer(sgl, nents, buf, buflen, 0, true);
}
static inline size_t sg_pcopy_from_buffer(struct scatterlist *sgl, unsigned int nents,
                                          const void *buf, size_t buflen, off_t skip) {
    return pagoda_sg_copy_buffer(sgl, nents, (void *)(uintptr_t)buf, buflen, skip, false);
}
static inline size_t sg_pcopy_to_buffer(struct scatterlist *sgl, unsigned int nents, void *buf,
                                        size_t buflen, off_t skip) {
    return pagoda_sg_copy_buffer(sgl, nents, buf, buflen, skip, true);
}
/* Writes zeros over up to `buflen` bytes of the list from `skip` on. Returns how many. */
size_t pagoda_sg_zero_buffer(struct scatterlist *sgl, unsigned int nents, size_t buflen,
                             off_t skip);
static inline size_t sg_zero_buffer(struct scatterlist *sgl, unsigned int nents, size_t buflen,
                                    off_t skip) {
    return pagoda_sg_zero_buffer(sgl, nents, buflen, skip);
}

/* Divides a list, from `skip` bytes on, into `nb_splits` lists of split_sizes[i] bytes each, out[i]
 * of out_nents[i] pieces (may be NULL), which the caller frees with kfree(). The list stays as it
 * is. in_mapped_nents > 0: the list was mapped so; the new lists then have device addresses too. 0;
 * -EINVAL: an empty part, or the list is too short; -ENOMEM. Nothing is left behind by an error. */
int pagoda_sg_split(struct scatterlist *in, int in_mapped_nents, off_t skip, int nb_splits,
                    const size_t *split_sizes, struct scatterlist **out, int *out_nents, gfp_t gfp);
static inline int sg_split(struct scatterlist *in, int in_mapped_nents, off_t skip, int nb_splits,
                           const size_t *split_sizes, struct scatterlist **out, int *out_nents,
                           gfp_t gfp) {
    return pagoda_sg_split(in, in_mapped_nents, skip, nb_splits, split_sizes, out, out_nents, gfp);
}

/* The pieces as writev(2) and readv(2) want them: at most `capacity` entries into iov[]. Returns
 * how many pieces there are. Pagoda's own. */
int pagoda_sg_to_iovec(struct scatterlist *sgl, unsigned int nents, struct iovec *iov,
                       int capacity);

/* Steps through all pages that the pieces of a list lie on, or that the device sees: whole pages,
 * from each piece's first one on. */
struct sg_page_iter {
    struct scatterlist *sg;
    unsigned int sg_pgoffset; /* of the page, in sg */
    /* The rest is private. */
    unsigned int __nents;
    int __pg_advance;
};
struct sg_dma_page_iter {
    struct sg_page_iter base;
};
static inline void __sg_page_iter_start(struct sg_page_iter *piter, struct scatterlist *sglist,
                                        unsigned int nents, unsigned long pgoffset) {
    piter->sg = sglist;
    piter->sg_pgoffset = (unsigned int)pgoffset;
    piter->__nents = nents;
    piter->__pg_advance = 0;
}
static inline bool pagoda_sg_page_step(struct sg_page_iter *piter, bool mapped) {
    unsigned long pages;
    if (piter->__nents == 0 || piter->sg == NULL)
        return false;
    piter->sg_pgoffset += (unsigned int)piter->__pg_advance;
    piter->__pg_advance = 1;
    for (;;) {
        pages = ((unsigned long)piter->sg->offset +
                 (mapped ? piter->sg->dma_length : piter->sg->length) + PAGE_SIZE - 1) >>
                PAGE_SHIFT;
        if (piter->sg_pgoffset < pages)
            return true;
        piter->sg_pgoffset -= (unsigned int)pages;
        piter->sg = sg_next(piter->sg);
        if (--piter->__nents == 0 || piter->sg == NULL)
            return false;
    }
}
static inline bool __sg_page_iter_next(struct sg_page_iter *piter) {
    return pagoda_sg_page_step(piter, false);
}
static inline bool __sg_page_iter_dma_next(struct sg_dma_page_iter *dma_iter) {
    return pagoda_sg_page_step(&dma_iter->base, true);
}
/* The page; the device address that corresponds to it. */
static inline struct page *sg_page_iter_page(struct sg_page_iter *piter) {
    return virt_to_page((char *)pagoda_sg_base(piter->sg) +
                        ((size_t)piter->sg_pgoffset << PAGE_SHIFT));
}
static inline dma_addr_t sg_page_iter_dma_address(struct sg_dma_page_iter *dma_iter) {
    return sg_dma_address(dma_iter->base.sg) +
           ((dma_addr_t)dma_iter->base.sg_pgoffset << PAGE_SHIFT);
}
#define for_each_sg_page(sglist, piter, nents, pgoffset)                                           \
    for (__sg_page_iter_start((piter), (sglist), (nents), (pgoffset)); __sg_page_iter_next(piter);)
#define for_each_sg_dma_page(sglist, dma_iter, dma_nents, pgoffset)                                \
    for (__sg_page_iter_start(&(dma_iter)->base, (sglist), (dma_nents), (pgoffset));               \
         __sg_page_iter_dma_next(dma_iter);)
#define for_each_sgtable_page(sgt, piter, pgoffset)                                                \
    for_each_sg_page((sgt)->sgl, piter, (sgt)->orig_nents, pgoffset)
#define for_each_sgtable_dma_page(sgt, dma_iter, pgoffset)                                         \
    for_each_sg_dma_page((sgt)->sgl, dma_iter, (sgt)->nents, pgoffset)

/* Walks the memory of a list page by page. */
#define SG_MITER_ATOMIC (1 << 0)  /* no effect: mapping takes nothing here */
#define SG_MITER_TO_SG (1 << 1)   /* no effect: memory is coherent */
#define SG_MITER_FROM_SG (1 << 2) /* likewise */

struct sg_mapping_iter {
    struct page *page; /* of the part; only where its memory has struct pages */
    void *addr;        /* the part: at most to the end of its page */
    size_t length;
    size_t consumed; /* set to less than `length` by who did not use it all */
    /* The rest is private. */
    struct scatterlist *__sg;
    unsigned int __nents, __flags;
    size_t __offset; /* in __sg */
};

/* Begins before the first part. */
static inline void sg_miter_start(struct sg_mapping_iter *miter, struct scatterlist *sgl,
                                  unsigned int nents, unsigned int flags) {
    memset(miter, 0, sizeof(*miter));
    miter->__sg = sgl;
    miter->__nents = nents;
    miter->__flags = flags;
}
/* The next part, from what was not consumed of the last one. False: the end. */
bool pagoda_sg_miter_next(struct sg_mapping_iter *miter);
static inline bool sg_miter_next(struct sg_mapping_iter *miter) {
    return pagoda_sg_miter_next(miter);
}
/* Ends use of the part; sg_miter_next() goes on from there. */
void pagoda_sg_miter_stop(struct sg_mapping_iter *miter);
static inline void sg_miter_stop(struct sg_mapping_iter *miter) { pagoda_sg_miter_stop(miter); }
/* Goes on `offset` bytes. False where the list ends before. */
bool pagoda_sg_miter_skip(struct sg_mapping_iter *miter, off_t offset);
static inline bool sg_miter_skip(struct sg_mapping_iter *miter, off_t offset) {
    return pagoda_sg_miter_skip(miter, offset);
}

#ifdef __cplusplus
}
#endif

#endif
