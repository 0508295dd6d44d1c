#include "lib/vmap.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/thread.h"
#include "tests/unit.h"

#include <pagoda/mm.h>
#include <pagoda/share.h>
#include <pagoda/vmalloc.h>

#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::random_numbers;
using test::succeeded;

class VmapTest : public ::testing::Test {
  protected:
    static constexpr unsigned kPages = 16;
    VmapTest() {
        region_ = static_cast<char *>(pagoda_share_alloc(kPages * kPageSize, GFP_KERNEL));
        for (unsigned i = 0; region_ != nullptr && i < kPages; i++)
            pages_.push_back(pagoda_share_page(region_ + i * kPageSize));
    }
    ~VmapTest() override {
        sys::inject_failures(0, 0);
        pagoda_share_free(region_);
    }
    char *region_;
    std::vector<struct ::page *> pages_;
};

TEST_F(VmapTest, RingBufferRunsOnIntoItsBeginning) {
    auto twice = pages_;
    twice.insert(twice.end(), pages_.begin(), pages_.end());
    char *ring = static_cast<char *>(vmap(twice.data(), 2 * kPages, VM_MAP, PAGE_KERNEL));
    ASSERT_NE(ring, nullptr);
    const size_t size = kPages * kPageSize;
    // Records of any length are written and read without a thought of the end.
    random_numbers random(3);
    size_t at = 0;
    for (int i = 0; i < 2000; i++) {
        size_t length = 1 + random.below(size);
        memset(ring + at, i & 0xff, length);
        for (size_t j = 0; j < length; j += 97)
            ASSERT_EQ(region_[(at + j) % size], static_cast<char>(i));
        at = (at + length) % size;
    }
    vunmap(ring);
    EXPECT_EQ(in_child([&] { static_cast<volatile char *>(ring)[0] = 1; }).signal(), SIGSEGV);
}

// Any pages in any order against what a copy of them would be.
TEST_F(VmapTest, MapsPagesInTheOrderGiven) {
    char *other = static_cast<char *>(pagoda_share_alloc(kPages * kPageSize, GFP_KERNEL));
    for (unsigned i = 0; i < kPages; i++) {
        pages_.push_back(pagoda_share_page(other + i * kPageSize));
        region_[i * kPageSize] = static_cast<char>(i);
        other[i * kPageSize] = static_cast<char>(kPages + i);
    }
    random_numbers random(5);
    for (int round = 0; round < 200; round++) {
        std::vector<struct ::page *> chosen;
        std::vector<size_t> numbers;
        for (size_t n = 1 + random.below(40); n > 0; n--) {
            bool next = !numbers.empty() && random.below(2) == 0;
            numbers.push_back(next ? (numbers.back() + 1) % pages_.size()
                                   : random.below(pages_.size()));
            chosen.push_back(pages_[numbers.back()]);
        }
        unsigned count = static_cast<unsigned>(chosen.size());
        char *p = static_cast<char *>(vm_map_ram(chosen.data(), count, -1));
        ASSERT_NE(p, nullptr);
        for (size_t i = 0; i < count; i++) {
            ASSERT_EQ(p[i * kPageSize], static_cast<char>(numbers[i]));
            ASSERT_EQ(pagoda_vmap_to_page(p + i * kPageSize + 5), chosen[i]);
        }
        size_t last = (count - 1) * kPageSize;
        p[last + 9] = static_cast<char>(round);
        size_t page = numbers.back();
        EXPECT_EQ((page < kPages ? region_ : other - kPages * kPageSize)[page * kPageSize + 9],
                  static_cast<char>(round));
        vm_unmap_ram(p, count);
        EXPECT_EQ(pagoda_vmap_to_page(p), nullptr);
    }
    pagoda_share_free(other);
}

TEST_F(VmapTest, AnInaccessiblePageLiesBehind) {
    char *p = static_cast<char *>(vmap(pages_.data(), 2, VM_MAP, PAGE_KERNEL));
    EXPECT_EQ(in_child([&] { p[2 * kPageSize - 1] = 1; }).signal(), 0);
    EXPECT_EQ(in_child([&] { *static_cast<volatile char *>(p + 2 * kPageSize); }).signal(),
              SIGSEGV);
    vunmap(p);
}

TEST_F(VmapTest, PagesLeadBackToTheRegion) {
    EXPECT_EQ(page_address(pages_[3]), region_ + 3 * kPageSize);
    char *p = static_cast<char *>(vmap(pages_.data() + 3, 1, VM_MAP, PAGE_KERNEL));
    EXPECT_EQ(vmalloc_to_page(p + 9), pages_[3]);
    EXPECT_EQ(vmalloc_to_page(region_ + 3 * kPageSize), pages_[3]);
    EXPECT_EQ(vmalloc_to_pfn(p), 0u);
    EXPECT_FALSE(is_vmalloc_addr(p));
    vunmap(p);
    EXPECT_EQ(vmalloc_to_page(p), nullptr);
}

// What the documents of vmap promise of every page is asked of areas and blocks too.
TEST_F(VmapTest, PagesOfAreasAreRefusedAloud) {
    auto end = in_child([] {
        char *area = static_cast<char *>(vmalloc(2 * kPageSize));
        ::page *pages[2] = {vmalloc_to_page(area), vmalloc_to_page(area + kPageSize)};
        EXPECT_NE(pages[1], nullptr);
        EXPECT_EQ(vmap(pages, 2, VM_MAP, PAGE_KERNEL), nullptr);
        ::page *low = alloc_page(GFP_HIGHUSER);
        EXPECT_EQ(vmap(&low, 1, VM_MAP, PAGE_KERNEL), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
}

TEST_F(VmapTest, ReadOnlyMappingsSeeWritesAndRefuseThem) {
    char *p = static_cast<char *>(vmap(pages_.data(), 1, VM_MAP, PAGE_KERNEL_RO));
    ASSERT_NE(p, nullptr);
    region_[3] = 'r';
    EXPECT_EQ(p[3], 'r');
    EXPECT_EQ(in_child([&] { static_cast<volatile char *>(p)[0] = 1; }).signal(), SIGSEGV);
    vunmap(p);
}

TEST_F(VmapTest, TheMemoryOutlivesItsRegion) {
    char *p = static_cast<char *>(vmap(pages_.data() + 3, 1, VM_MAP, PAGE_KERNEL));
    region_[3 * kPageSize] = 'l';
    pagoda_share_free(region_);
    region_ = nullptr;
    EXPECT_EQ(p[0], 'l');
    EXPECT_EQ(pagoda_vmap_to_page(p), pages_[3]);
    vunmap(p);
}

TEST_F(VmapTest, PrivatePagesAreRefusedAloud) {
    auto end = in_child([this] {
        page_state state;
        uint32_t zone = zone_normal().alloc(1, 0, GFP_KERNEL, &state);
        struct ::page *mixed[2] = {pages_[0], public_page(&page_at(zone))};
        EXPECT_EQ(vmap(mixed, 2, VM_MAP, PAGE_KERNEL), nullptr);
        mixed[1] = nullptr;
        EXPECT_EQ(vm_map_ram(mixed, 2, 0), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("vmap: page 1 of 2 is private memory")) << end.errors;
    EXPECT_EQ(end.lines(), 2u);
}

TEST_F(VmapTest, BadArgumentsAreRefused) {
    auto end = in_child([this] {
        EXPECT_EQ(vmap(pages_.data(), 0, VM_MAP, PAGE_KERNEL), nullptr);
        EXPECT_EQ(vmap(pages_.data(), 1, VM_MAP | 0x200, PAGE_KERNEL), nullptr);
        EXPECT_EQ(vmap(pages_.data(), 1, VM_MAP, PAGE_KERNEL | PROT_EXEC), nullptr);
        EXPECT_EQ(pagoda_vmap_to_page(this), nullptr);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u);
}

TEST_F(VmapTest, WrongUnmapsAreOneLineEach) {
    auto end = in_child([this] {
        char *p = static_cast<char *>(vmap(pages_.data(), 2, VM_MAP, PAGE_KERNEL));
        vunmap(nullptr);
        vunmap(region_);       // a region is not vmap's
        vunmap(p + kPageSize); // not its start
        vm_unmap_ram(p, 1);    // not its size
        pagoda_share_free(p);  // not a region
        p[0] = 1;              // all of them left it alone
        vunmap(p);
        vunmap(p);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 5u) << end.errors;
}

TEST_F(VmapTest, RefusalsOfTheSystemGiveNull) {
    struct ::page *apart[3] = {pages_[0], pages_[5], pages_[9]};
    for (int succeed = 0; succeed < 4; succeed++) {
        sys::inject_failures(succeed, 1);
        EXPECT_EQ(vmap(apart, 3, VM_MAP, PAGE_KERNEL), nullptr) << succeed;
    }
    sys::inject_failures(0, 0);
    void *p = vmap(apart, 3, VM_MAP, PAGE_KERNEL);
    EXPECT_NE(p, nullptr);
    vunmap(p);
}

TEST_F(VmapTest, HandlersThatInterruptedTheAllocatorGetNothing) {
    slow_path interrupted;
    EXPECT_EQ(vmap(pages_.data(), 1, VM_MAP, PAGE_KERNEL), nullptr);
    EXPECT_EQ(pagoda_vmap_to_page(region_), nullptr);
}

TEST_F(VmapTest, ManyThreadsMapAndUnmap) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([this, t] {
            for (int i = 0; i < 500; i++) {
                char *p = static_cast<char *>(
                    vmap(&pages_[static_cast<size_t>(t)], 2, VM_MAP, PAGE_KERNEL));
                ASSERT_NE(p, nullptr);
                ASSERT_EQ(pagoda_vmap_to_page(p + kPageSize), pages_[static_cast<size_t>(t) + 1]);
                vunmap(p);
            }
        });
    for (std::thread &t : threads)
        t.join();
}

} // namespace
} // namespace pagoda
