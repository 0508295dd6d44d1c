#include "lib/page_ref.h"

#include "hugepage/report.h"
#include "lib/highmem.h"

#include <pagoda/mm.h>

namespace pagoda {
namespace {

// The put of such a reference would free one page out of the block.
void report_reference_to_tail(const void *p, const void *head) {
    text_buffer<192> t;
    t << "get_page of " << p << ": it lies in the block at " << head
      << ", which is not compound: only that page has references";
    misuse(t);
}

} // namespace

void page_refs_put(const ::page *p, uint32_t count, const char *operation) {
    if (is_highmem_page(p)) {
        pages_put_high(record_of(const_cast<::page *>(p)), count, GFP_KERNEL);
        return;
    }
    uint32_t index = pages_index(p, operation);
    if (index == kNoPage)
        return;
    uint32_t head = pages_compound_head(index);
    page &pg = page_at(head);
    // In this order: __free_pages() leaves the first page to us before it drops its own reference.
    if (pg.refs.load(std::memory_order_acquire) == count &&
        std::atomic_ref<uint8_t>(pg.order).load(std::memory_order_relaxed) > 0 &&
        (pg.flags & kPageCompound) == 0) {
        // One page of it would be free and the others lost.
        text_buffer<192> t;
        t << operation << " of the last reference to " << page_address(head)
          << ", a block of order " << uint32_t{pg.order}
          << " that is not compound: __free_pages frees it";
        misuse(t);
        return;
    }
    if (pages_drop(head, count))
        pages_release(head, GFP_KERNEL);
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT bool pagoda_virt_addr_valid(const void *address) {
    return class_of_pointer(address) != kClassNone;
}

PAGODA_EXPORT int pagoda_page_ref_count(const ::page *p) {
    const pagoda::page *pg = pages_record(p, "page_ref_count");
    return pg != nullptr ? static_cast<int>(pg->refs.load(std::memory_order_relaxed)) : 0;
}

PAGODA_EXPORT int pagoda_page_ref_add_return(::page *p, int n) {
    pagoda::page *pg = pages_record(p, "page_ref_add");
    auto more = static_cast<uint32_t>(n);
    return pg != nullptr ? static_cast<int>(pg->refs.fetch_add(more) + more) : 0;
}

PAGODA_EXPORT bool pagoda_page_ref_replace(::page *p, int from, int to) {
    pagoda::page *pg = pages_record(p, "page_ref");
    auto expected = static_cast<uint32_t>(from);
    return pg != nullptr && pg->refs.compare_exchange_strong(expected, static_cast<uint32_t>(to));
}

PAGODA_EXPORT ::page *pagoda_compound_head(const ::page *p) {
    if (is_highmem_page(p))
        return const_cast<::page *>(p); // always single
    uint32_t index = pages_index(p, "compound_head");
    return index != kNoPage ? public_page(pages_compound_head(index)) : const_cast<::page *>(p);
}

PAGODA_EXPORT unsigned pagoda_compound_order(const ::page *p) {
    if (is_highmem_page(p))
        return 0;
    uint32_t index = pages_index(p, "compound_order");
    return index != kNoPage && page_at(index).flags == (kPageHead | kPageCompound)
               ? page_at(index).order
               : 0;
}

PAGODA_EXPORT void pagoda_get_page(::page *p) {
    if (is_highmem_page(p)) {
        record_of(p)->refs.fetch_add(1);
        return;
    }
    uint32_t index = pages_index(p, "get_page");
    if (index == kNoPage)
        return;
    pagoda::page &pg = page_at(pages_compound_head(index));
    if ((pg.flags & kPageTail) == 0)
        pg.refs.fetch_add(1);
    else
        report_reference_to_tail(page_address(index), page_address(pg.head));
}

PAGODA_EXPORT void pagoda_put_page(::page *p) { page_refs_put(p, 1, "put_page"); }

PAGODA_EXPORT void pagoda_page_frag_drop(::page *p, unsigned count) {
    if (count != 0)
        page_refs_put(p, count, "page_frag_cache_drain");
}
