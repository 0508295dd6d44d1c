#include "dma/sg_append.h"

#include "tests/unit.h"

#include <pagoda/pagoda.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <vector>

namespace pagoda::test {
namespace {

constexpr unsigned kMost = ~0U & static_cast<unsigned>(PAGE_MASK);

// 2^order pages in a row.
struct row {
    explicit row(unsigned order) : order_(order), first(alloc_pages(GFP_KERNEL, order)) {
        EXPECT_NE(first, nullptr);
        for (unsigned i = 0; i < 1u << order; i++)
            pages.push_back(nth_page(first, i));
    }
    ~row() { __free_pages(first, order_); }
    row(const row &) = delete;
    row &operator=(const row &) = delete;
    char *at(unsigned i) const { return static_cast<char *>(page_address(pages[i])); }

    unsigned order_;
    ::page *first;
    std::vector<::page *> pages;
};

// Pages added in calls of any length, of which some follow each other.
TEST(sg_append, is_one_list_of_all_that_was_added) {
    row r(9);
    random_numbers random(7);
    for (int round = 0; round < 300; round++) {
        sg_append_table table = {};
        std::vector<std::pair<char *, size_t>> model; // addresses and bytes, by pages
        unsigned most = (1u + static_cast<unsigned>(random.below(8))) * 4096;
        bool mixed = random.one_in(2);
        for (uint64_t calls = 1 + random.below(40); calls != 0; calls--) {
            std::vector<::page *> pages;
            for (uint64_t n = 1 + random.below(40); n != 0; n--)
                pages.push_back(mixed ? r.pages[random.below(512)]
                                      : r.pages[(model.size() + pages.size()) % 512]);
            auto offset = model.empty() ? static_cast<unsigned>(random.below(4096)) : 0u;
            size_t size = pages.size() * 4096 - offset;
            size -= random.one_in(3) ? random.below(4095 - offset + 1) : 0;
            ASSERT_EQ(sg_alloc_append_table_from_pages(&table, pages.data(),
                                                       static_cast<unsigned>(pages.size()), offset,
                                                       size, most, 5, GFP_KERNEL),
                      0);
            for (::page *p : pages) {
                size_t part = min_of(size, size_t{4096} - offset);
                model.emplace_back(static_cast<char *>(page_address(p)) + offset, part);
                size -= part;
                offset = 0;
            }
        }
        size_t page = 0;
        size_t in_page = 0;
        unsigned pieces = 0;
        const char *end = nullptr;
        unsigned before = 0;
        for (scatterlist *sg = table.sgt.sgl; sg != nullptr; sg = sg_next(sg), pieces++) {
            ASSERT_LE(sg->length, most);
            ASSERT_EQ(in_page, 0u);
            auto *at = static_cast<char *>(sg_virt(sg));
            if (at == end && reinterpret_cast<uintptr_t>(at) % 4096 == 0) {
                ASSERT_GT(before + model[page].second, most) << "could have been one";
            }
            for (size_t left = sg->length; left != 0; page++) {
                ASSERT_EQ(at, model[page].first);
                ASSERT_GE(left, model[page].second);
                at += model[page].second;
                left -= model[page].second;
            }
            end = at;
            before = sg->length;
        }
        EXPECT_EQ(page, model.size());
        EXPECT_EQ(pieces, table.sgt.orig_nents);
        EXPECT_EQ(pieces, table.sgt.nents);
        EXPECT_TRUE(sg_is_last(table.prv));
        EXPECT_EQ(table.prv, sg_last(table.sgt.sgl, pieces));
        EXPECT_GE(table.total_nents, pieces);
        sg_free_append_table(&table);
        EXPECT_EQ(table.sgt.sgl, nullptr);
    }
}

TEST(sg_append, crosses_every_array_one_by_one) {
    row r(9);
    sg_append_table table = {};
    for (unsigned n = 1; n <= 512; n++) {
        ::page *page = r.pages[n * 2 % 512 + n / 256]; // no two follow each other
        ASSERT_EQ(sg_alloc_append_table_from_pages(&table, &page, 1, 0, 4096, kMost, 0, GFP_KERNEL),
                  0);
        ASSERT_EQ(sg_nents(table.sgt.sgl), static_cast<int>(n));
        ASSERT_EQ(sg_virt(table.prv), page_address(page));
    }
    sg_free_append_table(&table);
    sg_free_append_table(&table); // empty
}

TEST(sg_append, refuses_what_cannot_be) {
    row r(1);
    sg_append_table table = {};
    auto add = [&](unsigned n, unsigned offset, unsigned long size, unsigned most) {
        return sg_alloc_append_table_from_pages(&table, r.pages.data(), n, offset, size, most, 0,
                                                GFP_KERNEL);
    };
    EXPECT_EQ(add(2, 0, 0, kMost), -EINVAL);
    EXPECT_EQ(add(2, 0, 8193, kMost), -EINVAL);
    EXPECT_EQ(add(2, 8192, 1, kMost), -EINVAL);
    EXPECT_EQ(add(2, 8193, 1, kMost), -EINVAL);
    EXPECT_EQ(add(2, 0, 8192, 4095), -EINVAL);
    EXPECT_EQ(add(0, 0, 1, kMost), -EINVAL);
    EXPECT_EQ(table.sgt.sgl, nullptr);
    EXPECT_EQ(add(2, 4096 + 100, 1000, kMost), 0);
    EXPECT_EQ(sg_virt(table.sgt.sgl), r.at(1) + 100);
    EXPECT_EQ(add(2, 1, 1000, kMost), -EINVAL) << "an offset is for the first call";
    EXPECT_EQ(table.sgt.nents, 1u);
    sg_free_append_table(&table);
}

int fail_after = 0;
bool fails(size_t, gfp_t, void *) { return fail_after-- == 0; }

TEST(sg_append, short_of_memory_it_can_be_freed) {
    row r(9);
    sg_append_table table = {};
    std::vector<::page *> apart;
    for (unsigned i = 0; i < 512; i += 2)
        apart.push_back(r.pages[i]);
    for (int array = 0; array < 3; array++) {
        fail_after = array;
        pagoda_set_failure_hook(fails, nullptr);
        EXPECT_EQ(sg_alloc_append_table_from_pages(&table, apart.data(), 256, 0, 256 * 4096, kMost,
                                                   0, GFP_KERNEL | __GFP_NOWARN),
                  -ENOMEM);
        pagoda_set_failure_hook(nullptr, nullptr);
        sg_free_append_table(&table);
    }
}

} // namespace
} // namespace pagoda::test
