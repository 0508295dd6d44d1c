// The page allocator's face (pagoda/mm.h): blocks of 2^order pages from the zones, struct page and
// references. Page records of blocks that are in use say what each page is; page_class says first
// whether a page is the page allocator's at all, so records of other pages need not be kept clean.
#pragma once

#include "hugepage/page.h"

#include <pagoda/gfp.h>

struct page; // what programs see of a pagoda::page

namespace pagoda {

// struct page's flags.
inline constexpr uint32_t kPageHead = 1;     // a block begins here; it has `order` and `refs`
inline constexpr uint32_t kPageTail = 2;     // `head` says where its block begins
inline constexpr uint32_t kPageCompound = 4; // of both: the block is a compound page

// A block of 2^order pages; its first page's index, or kNoPage.
uint32_t pages_alloc(unsigned order, gfp_t gfp);
// Drops one reference, with all that __free_pages() promises.
void pages_free(const ::page *block, unsigned order, gfp_t gfp);

// Index of a page that the page allocator's callers have; kNoPage, after a report that names the
// `operation`: it is none.
uint32_t pages_index(const ::page *p, const char *operation);
// The record of such a page, also of one in HIGHMEM, which has no index; NULL after the report.
page *pages_record(const ::page *p, const char *operation);
// Drops `count` references of a HIGHMEM page; with the last one it is free.
void pages_put_high(page *p, uint32_t count, gfp_t gfp);
// First page of the compound page that a page belongs to; the page itself where there is none.
uint32_t pages_compound_head(uint32_t index);
// Drops `count` references of a block's first page. True: they were the last, and the block is the
// caller's to release. False too where there are fewer, which is reported.
bool pages_drop(uint32_t head, uint32_t count);
// The block that begins there is free.
void pages_release(uint32_t head, gfp_t gfp);
// Goes on with a free that was put off while a device used the block.
void pages_finish_free(uint32_t head);

inline ::page *public_page(uint32_t index) {
    return reinterpret_cast<::page *>(g_pagemap.memmap + index);
}

// Blocks and pages that came or went elsewhere count as well.
void pages_count(int64_t blocks, int64_t pages);

struct pages_stats {
    uint64_t blocks; // live
    uint64_t pages;  // live
    uint64_t served; // blocks, ever
};
pages_stats pages_get_stats();

} // namespace pagoda
