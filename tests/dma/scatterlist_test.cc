#include "tests/unit.h"

#include <pagoda/pagoda.h>
#include <pagoda/scatterlist.h>
#include <pagoda/slab.h>

#include <errno.h>
#include <string>
#include <vector>

namespace pagoda::test {
namespace {

using bytes = std::vector<unsigned char>;

// A list over pieces of its own memory, of random lengths, chained at random places, and what it
// holds as one string.
struct random_list {
    std::vector<bytes> memory;
    std::vector<std::vector<scatterlist>> arrays;
    bytes model;
    unsigned pieces = 0;

    random_list(random_numbers &random, unsigned wanted, unsigned longest) {
        std::vector<scatterlist> array;
        for (pieces = 0; pieces < wanted; pieces++) {
            bool chains = !array.empty() && pieces + 1 < wanted && random.one_in(3);
            if (chains) {
                array.emplace_back(); // the link
                arrays.push_back(array);
                array.clear();
            }
            bytes piece(random.below(longest + 1));
            for (unsigned char &b : piece)
                b = static_cast<unsigned char>(random.below(256));
            model.insert(model.end(), piece.begin(), piece.end());
            memory.push_back(piece);
            array.emplace_back();
        }
        arrays.push_back(array);
        unsigned n = 0;
        for (size_t a = 0; a < arrays.size(); a++) {
            std::vector<scatterlist> &entries = arrays[a];
            bool last = a + 1 == arrays.size();
            sg_init_table(entries.data(), static_cast<unsigned>(entries.size()));
            for (size_t i = 0; i + (last ? 0 : 1) < entries.size(); i++, n++)
                sg_set_buf(&entries[i], memory[n].data(), static_cast<unsigned>(memory[n].size()));
            if (!last)
                sg_chain(entries.data(), static_cast<unsigned>(entries.size()),
                         arrays[a + 1].data());
        }
    }
    scatterlist *list() { return arrays[0].data(); }
    bytes contents() const {
        bytes all;
        for (const bytes &piece : memory)
            all.insert(all.end(), piece.begin(), piece.end());
        return all;
    }
};

bytes through_list(scatterlist *sgl) {
    bytes all;
    for (; sgl != nullptr; sgl = sg_next(sgl)) {
        auto *at = static_cast<unsigned char *>(sg_virt(sgl));
        all.insert(all.end(), at, at + sgl->length);
    }
    return all;
}

TEST(scatterlist, walks_chained_arrays_as_one_list) {
    random_numbers random(1);
    for (int round = 0; round < 3000; round++) {
        random_list l(random, 1 + static_cast<unsigned>(random.below(12)), 40);
        EXPECT_EQ(through_list(l.list()), l.model);
        EXPECT_EQ(sg_nents(l.list()), static_cast<int>(l.pieces));
        scatterlist *last = sg_last(l.list(), l.pieces);
        EXPECT_TRUE(sg_is_last(last));
        EXPECT_EQ(sg_next(last), nullptr);
        size_t len = random.below(l.model.size() + 2);
        size_t total = 0;
        int expected = 0;
        while (total < len && expected < static_cast<int>(l.pieces))
            total += l.memory[static_cast<size_t>(expected++)].size();
        EXPECT_EQ(sg_nents_for_len(l.list(), len), total < len ? -EINVAL : expected);
    }
}

TEST(scatterlist, copies_as_the_string_that_it_is) {
    random_numbers random(2);
    for (int round = 0; round < 3000; round++) {
        random_list l(random, 1 + static_cast<unsigned>(random.below(12)), 40);
        size_t skip = random.below(l.model.size() + 3);
        size_t want = random.below(l.model.size() + 3);
        size_t room = skip < l.model.size() ? l.model.size() - skip : 0;
        size_t n = std::min(room, want);
        bytes buffer(want + 1, 0xee);
        ASSERT_EQ(
            sg_pcopy_to_buffer(l.list(), l.pieces, buffer.data(), want, static_cast<off_t>(skip)),
            n);
        EXPECT_TRUE(std::equal(buffer.begin(), buffer.begin() + static_cast<long>(n),
                               l.model.begin() + static_cast<long>(std::min(skip, room + skip))));
        EXPECT_EQ(buffer[n], 0xee) << "not a byte more";
        if (random.one_in(2)) {
            for (unsigned char &b : buffer)
                b = static_cast<unsigned char>(random.below(256));
            ASSERT_EQ(sg_pcopy_from_buffer(l.list(), l.pieces, buffer.data(), want,
                                           static_cast<off_t>(skip)),
                      n);
            std::copy_n(buffer.begin(), n, l.model.begin() + static_cast<long>(n ? skip : 0));
        } else {
            ASSERT_EQ(sg_zero_buffer(l.list(), l.pieces, want, static_cast<off_t>(skip)), n);
            std::fill_n(l.model.begin() + static_cast<long>(n ? skip : 0), n, 0);
        }
        ASSERT_EQ(l.contents(), l.model);
    }
    random_list l(random, 3, 10);
    char one;
    EXPECT_EQ(sg_pcopy_to_buffer(l.list(), l.pieces, &one, 1, -1), 0u);
    EXPECT_EQ(sg_zero_buffer(l.list(), l.pieces, 1, -1), 0u);
}

TEST(scatterlist, the_iterator_gives_every_byte_once_and_no_part_crosses_a_page) {
    random_numbers random(3);
    for (int round = 0; round < 2000; round++) {
        random_list l(random, 1 + static_cast<unsigned>(random.below(8)), 9000);
        size_t at = random.below(l.model.size() + 2);
        sg_mapping_iter miter;
        sg_miter_start(&miter, l.list(), l.pieces, SG_MITER_FROM_SG);
        bool reached = at <= l.model.size();
        ASSERT_EQ(sg_miter_skip(&miter, static_cast<off_t>(at)), reached);
        if (!reached)
            continue;
        while (sg_miter_next(&miter)) {
            auto start = reinterpret_cast<uintptr_t>(miter.addr);
            ASSERT_GT(miter.length, 0u);
            ASSERT_EQ(start / PAGE_SIZE, (start + miter.length - 1) / PAGE_SIZE);
            if (random.one_in(4))
                miter.consumed = random.below(miter.length + 1);
            ASSERT_EQ(memcmp(miter.addr, l.model.data() + at, miter.consumed), 0);
            at += miter.consumed;
        }
        sg_miter_stop(&miter);
        EXPECT_EQ(at, l.model.size());
        EXPECT_EQ(miter.addr, nullptr);
    }
}

TEST(scatterlist, tables_have_as_many_entries_as_asked) {
    for (unsigned n : {1u, 2u, 127u, 128u, 129u, 254u, 255u, 256u, 1000u, 5000u}) {
        sg_table table;
        ASSERT_EQ(sg_alloc_table(&table, n, GFP_KERNEL), 0);
        EXPECT_EQ(table.nents, n);
        EXPECT_EQ(table.orig_nents, n);
        EXPECT_EQ(sg_nents(table.sgl), static_cast<int>(n));
        char byte = 1;
        scatterlist *sg;
        unsigned i;
        for_each_sgtable_sg(&table, sg, i) {
            EXPECT_EQ(sg->length, 0u);
            sg_set_buf(sg, &byte, 1);
        }
        EXPECT_EQ(sg_nents_for_len(table.sgl, n), static_cast<int>(n));
        sg_free_table(&table);
        EXPECT_EQ(table.sgl, nullptr);
        sg_free_table(&table);
    }
    sg_table table;
    EXPECT_EQ(sg_alloc_table(&table, 0, GFP_KERNEL), -EINVAL);
}

TEST(scatterlist, a_table_may_begin_in_the_callers_array) {
    for (unsigned first : {2u, 3u, 16u, 128u}) {
        for (int n : {1, 2, 3, 15, 16, 17, 128, 129, 600}) {
            std::vector<scatterlist> own(first);
            sg_table table;
            ASSERT_EQ(sg_alloc_table_chained(&table, n, own.data(), first), 0);
            EXPECT_EQ(table.sgl, own.data());
            EXPECT_EQ(sg_nents(table.sgl), n);
            sg_free_table_chained(&table, first);
        }
    }
    scatterlist one;
    sg_table table;
    for (unsigned first : {0u, 1u})
        for (int n : {1, 2, 300}) {
            ASSERT_EQ(sg_alloc_table_chained(&table, n, &one, first), 0);
            EXPECT_NE(table.sgl, &one) << "it has no room for a link";
            EXPECT_EQ(sg_nents(table.sgl), n);
            sg_free_table_chained(&table, first);
        }
    EXPECT_EQ(sg_alloc_table_chained(&table, 0, nullptr, 0), -EINVAL);
    EXPECT_EQ(sg_alloc_table_chained(&table, 300, nullptr, 0), 0);
    sg_free_table_chained(&table, 0);
}

TEST(scatterlist, pages_that_follow_each_other_become_one_piece) {
    random_numbers random(4);
    struct page *block = alloc_pages(GFP_KERNEL, 5);
    ASSERT_NE(block, nullptr);
    for (int round = 0; round < 5000; round++) {
        unsigned n = 1 + static_cast<unsigned>(random.below(20));
        std::vector<struct page *> pages;
        while (pages.size() < n) {
            unsigned long at = random.below(32);
            do
                pages.push_back(nth_page(block, at));
            while (++at < 32 && pages.size() < n && !random.one_in(4));
        }
        unsigned all = n * 4096;
        unsigned offset = static_cast<unsigned>(random.below(all));
        unsigned size = 1 + static_cast<unsigned>(random.below(all - offset));
        unsigned most = 4096 * (1 + static_cast<unsigned>(random.below(8)));
        sg_table table;
        ASSERT_EQ(sg_alloc_table_from_pages_segment(&table, pages.data(), n, offset, size,
                                                    most + static_cast<unsigned>(random.below(9)),
                                                    GFP_KERNEL),
                  0);
        unsigned at = offset;
        unsigned before = 0;
        char *end = nullptr;
        for (scatterlist *sg = table.sgl; sg != nullptr; sg = sg_next(sg)) {
            ASSERT_LE(sg->length, most);
            char *start = static_cast<char *>(sg_virt(sg));
            if (end == start) {
                ASSERT_GT(before + 4096, most) << "could have been one";
            }
            for (unsigned i = 0; i < sg->length; i++, at++) {
                const char *page = static_cast<char *>(page_address(pages[at / 4096]));
                ASSERT_EQ(start + i, page + at % 4096);
            }
            before = sg->length;
            end = start + sg->length;
        }
        EXPECT_EQ(at, offset + size);
        sg_free_table(&table);
    }
    sg_table table;
    EXPECT_EQ(sg_alloc_table_from_pages(&table, &block, 1, 0, 0, GFP_KERNEL), -EINVAL);
    EXPECT_EQ(sg_alloc_table_from_pages(&table, &block, 1, 1, 4096, GFP_KERNEL), -EINVAL);
    EXPECT_EQ(sg_alloc_table_from_pages(&table, &block, 1, 4096, 1, GFP_KERNEL), -EINVAL);
    EXPECT_EQ(sg_alloc_table_from_pages_segment(&table, &block, 1, 0, 1, 4095, GFP_KERNEL),
              -EINVAL);
    __free_pages(block, 5);
}

TEST(scatterlist, lists_with_pages_of_their_own) {
    unsigned nents = 0;
    scatterlist *sgl = sgl_alloc_order(5 * 16384 + 1, 2, true, GFP_KERNEL | __GFP_ZERO, &nents);
    ASSERT_NE(sgl, nullptr);
    EXPECT_EQ(nents, 6u);
    EXPECT_EQ(sg_last(sgl, nents)->length, 1u);
    EXPECT_EQ(through_list(sgl), bytes(5 * 16384 + 1, 0));
    sgl_free_order(sgl, 2);
    sgl_free(nullptr);
    EXPECT_EQ(sgl_alloc(0, GFP_KERNEL, nullptr), nullptr);
    EXPECT_EQ(sgl_alloc_order(1, MAX_PAGE_ORDER + 1, true, GFP_KERNEL, nullptr), nullptr);
    sgl = sgl_alloc(1 << 20, GFP_KERNEL, &nents);
    ASSERT_NE(sgl, nullptr);
    EXPECT_EQ(nents, 256u);
    sgl_free(sgl);
}

TEST(scatterlist, splits_into_parts_that_hold_the_same_bytes) {
    random_numbers random(5);
    for (int round = 0; round < 3000; round++) {
        random_list l(random, 1 + static_cast<unsigned>(random.below(10)), 60);
        dma_addr_t next = 0x1000;
        int n = 0;
        for (scatterlist *sg = l.list(); sg != nullptr; sg = sg_next(sg), n++) {
            sg_dma_address(sg) = next;
            sg_dma_len(sg) = sg->length;
            next += sg->length;
        }
        size_t skip = random.below(l.model.size() + 1);
        size_t sizes[4];
        size_t sum = skip;
        bool empty = false;
        for (size_t &size : sizes) {
            size = random.below(l.model.size() / 3 + 2);
            empty = empty || size == 0;
            sum += size;
        }
        scatterlist *out[4] = {};
        int nents[4] = {};
        int r = sg_split(l.list(), n, static_cast<off_t>(skip), 4, sizes, out, nents, GFP_KERNEL);
        ASSERT_EQ(r, empty || sum > l.model.size() ? -EINVAL : 0);
        size_t at = skip;
        for (int i = 0; r == 0 && i < 4; i++) {
            auto from = l.model.begin() + static_cast<long>(at);
            EXPECT_EQ(through_list(out[i]), bytes(from, from + static_cast<long>(sizes[i])));
            EXPECT_EQ(sg_nents(out[i]), nents[i]);
            dma_addr_t address = 0x1000 + at;
            for (scatterlist *sg = out[i]; sg != nullptr; sg = sg_next(sg)) {
                EXPECT_EQ(sg_dma_address(sg), address);
                address += sg_dma_len(sg);
            }
            EXPECT_EQ(address, 0x1000 + at + sizes[i]);
            at += sizes[i];
            kfree(out[i]);
        }
        EXPECT_EQ(l.contents(), l.model);
    }
    scatterlist one;
    sg_init_one(&one, "x", 1);
    size_t size = 1;
    scatterlist *out;
    EXPECT_EQ(sg_split(&one, 0, 0, 0, &size, &out, nullptr, GFP_KERNEL), -EINVAL);
    EXPECT_EQ(sg_split(&one, 0, -1, 1, &size, &out, nullptr, GFP_KERNEL), -EINVAL);
}

int fail_after = 0;
bool fails(size_t, gfp_t, void *) { return fail_after-- == 0; }

TEST(scatterlist, want_of_memory_at_any_step_leaves_nothing_behind) {
    struct page *pages[2] = {alloc_page(GFP_KERNEL), alloc_page(GFP_KERNEL)};
    scatterlist first[4];
    bytes buffer(20, 1);
    scatterlist whole;
    sg_init_one(&whole, buffer.data(), 20);
    pagoda_set_failure_hook(fails, nullptr);
    for (int step = 0; step < 3; step++) {
        sg_table table;
        fail_after = step;
        EXPECT_EQ(sg_alloc_table(&table, 300, GFP_KERNEL), -ENOMEM);
        EXPECT_EQ(table.sgl, nullptr);
        fail_after = step;
        EXPECT_EQ(sg_alloc_table_chained(&table, 300, first, 4), -ENOMEM);
        fail_after = step;
        EXPECT_EQ(sgl_alloc(2 * 4096, GFP_KERNEL, nullptr), nullptr);
        size_t sizes[3] = {5, 6, 7};
        scatterlist *out[3];
        fail_after = step;
        EXPECT_EQ(sg_split(&whole, 0, 0, 3, sizes, out, nullptr, GFP_KERNEL), -ENOMEM);
    }
    sg_table table;
    fail_after = 0;
    EXPECT_EQ(sg_alloc_table_from_pages(&table, pages, 2, 0, 8192, GFP_KERNEL), -ENOMEM);
    pagoda_set_failure_hook(nullptr, nullptr);
    __free_page(pages[0]);
    __free_page(pages[1]);
}

TEST(scatterlist, pages_are_stepped_through) {
    constexpr size_t kPages = 9;
    auto *block = static_cast<char *>(alloc_pages_exact(kPages * 4096, GFP_KERNEL));
    ASSERT_NE(block, nullptr);
    scatterlist sgl[3];
    sg_init_table(sgl, 3);
    sg_set_buf(&sgl[0], block + 100, 2 * 4096); // on three pages
    sg_set_buf(&sgl[1], block + 8 * 4096, 1);
    sg_set_buf(&sgl[2], block + 5 * 4096, 2 * 4096);
    sgl[0].dma_address = 0x10000; // as the device sees it: two segments
    sgl[0].dma_length = 3 * 4096 - 100;
    sgl[1].dma_address = 0x90000;
    sgl[1].dma_length = 1;
    sg_table table = {sgl, 2, 3};
    std::vector<size_t> pages;
    sg_page_iter it;
    for_each_sgtable_page(&table, &it, 0) pages.push_back(
        static_cast<size_t>(static_cast<char *>(page_address(sg_page_iter_page(&it))) - block) /
        4096);
    EXPECT_EQ(pages, (std::vector<size_t>{0, 1, 2, 8, 5, 6}));
    pages.clear();
    for_each_sg_page(sgl, &it, 3, 4) pages.push_back(it.sg_pgoffset);
    EXPECT_EQ(pages, (std::vector<size_t>{0, 1})) << "of the last piece";
    for_each_sg_page(sgl, &it, 3, 6) FAIL();
    std::vector<dma_addr_t> seen;
    sg_dma_page_iter device;
    for_each_sgtable_dma_page(&table, &device, 1) seen.push_back(sg_page_iter_dma_address(&device));
    EXPECT_EQ(seen, (std::vector<dma_addr_t>{0x11000, 0x12000, 0x90000}));
    sg_assign_page(&sgl[1], virt_to_page(block + 4096));
    EXPECT_EQ(sg_virt(&sgl[1]), block + 4096);
    EXPECT_EQ(sgl[1].length, 1u);
    free_pages_exact(block, kPages * 4096);
}

TEST(scatterlist, is_what_writev_takes) {
    random_numbers random(6);
    random_list l(random, 7, 30);
    iovec iov[7];
    EXPECT_EQ(pagoda_sg_to_iovec(l.list(), l.pieces, iov, 3), 7);
    EXPECT_EQ(pagoda_sg_to_iovec(l.list(), l.pieces, iov, 7), 7);
    bytes all;
    for (const iovec &part : iov) {
        auto *at = static_cast<unsigned char *>(part.iov_base);
        all.insert(all.end(), at, at + part.iov_len);
    }
    EXPECT_EQ(all, l.model);
}

} // namespace
} // namespace pagoda::test
