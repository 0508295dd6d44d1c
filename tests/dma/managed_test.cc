#include "dma/managed.h"

#include "lib/heap.h"
#include "tests/dma/edu.h"

#include <pagoda/devres.h>
#include <pagoda/io.h>
#include <pagoda/mm.h>
#include <pagoda/pagoda.h>
#include <pagoda/slab.h>
#include <thread>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

std::vector<int> g_order;
void note(void *number) { g_order.push_back(*static_cast<int *>(number)); }

struct managed_test : edu {
    managed_test() { g_order.clear(); }
    int numbers[4] = {0, 1, 2, 3};
    volatile size_t too_much = SIZE_MAX; // volatile: compilers warn of it
};

} // namespace

TEST_F(managed_test, is_released_last_first) {
    for (int &n : numbers)
        EXPECT_EQ(devm_add_action(dev, note, &n), 0);
    EXPECT_TRUE(g_order.empty());
    close();
    EXPECT_EQ(g_order, (std::vector<int>{3, 2, 1, 0}));
}

TEST_F(managed_test, actions_can_be_taken_back_or_done_early) {
    for (int &n : numbers)
        EXPECT_EQ(devm_add_action_or_reset(dev, note, &n), 0);
    devm_remove_action(dev, note, &numbers[1]);
    devm_release_action(dev, note, &numbers[2]);
    EXPECT_EQ(g_order, (std::vector<int>{2}));
    EXPECT_EQ(pagoda_devm_remove_action(dev, note, &numbers[2], true), -ENOENT);
    close();
    EXPECT_EQ(g_order, (std::vector<int>{2, 3, 0}));
}

TEST_F(managed_test, memory) {
    auto *zeros = static_cast<char *>(devm_kzalloc(dev, 1000, GFP_KERNEL));
    ASSERT_NE(zeros, nullptr);
    for (int i = 0; i < 1000; i++)
        ASSERT_EQ(zeros[i], 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(zeros) % 16, 0u);
    EXPECT_NE(devm_kcalloc(dev, 10, 10, GFP_KERNEL), nullptr);
    EXPECT_EQ(devm_kcalloc(dev, too_much / 2, 3, GFP_KERNEL), nullptr);
    EXPECT_EQ(devm_kmalloc(dev, too_much, GFP_KERNEL), nullptr);
    char *text = devm_kstrdup(dev, "text", GFP_KERNEL);
    EXPECT_STREQ(text, "text");
    EXPECT_EQ(devm_kstrdup(dev, nullptr, GFP_KERNEL), nullptr);
    auto *copy = static_cast<char *>(devm_kmemdup(dev, "abc", 2, GFP_KERNEL));
    EXPECT_EQ(memcmp(copy, "ab", 2), 0);
    devm_kfree(dev, copy);
    errno = 0;
    devm_kfree(dev, copy);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_TRUE(said("devm_kmalloc")) << pagoda_device_error();
    devm_kfree(dev, nullptr);
}

TEST_F(managed_test, memory_can_change_its_size) {
    auto *p = static_cast<char *>(devm_krealloc(dev, nullptr, 10, GFP_KERNEL));
    memcpy(p, "123456789", 10);
    p = static_cast<char *>(devm_krealloc(dev, p, 100000, GFP_KERNEL));
    ASSERT_NE(p, nullptr);
    EXPECT_STREQ(p, "123456789");
    EXPECT_EQ(devm_krealloc(dev, p, too_much, GFP_KERNEL), nullptr);
    EXPECT_STREQ(p, "123456789") << "a failure leaves it";
    p = static_cast<char *>(devm_krealloc(dev, p, 3, GFP_KERNEL));
    EXPECT_EQ(memcmp(p, "123", 3), 0);
    int here = 0;
    EXPECT_EQ(devm_krealloc(dev, &here, 3, GFP_KERNEL), nullptr);
    EXPECT_EQ(errno, EINVAL);
}

TEST_F(managed_test, memory_that_changes_its_size_is_released_after_what_uses_it) {
    static uint64_t live;
    for (size_t size : {too_much + 0, size_t{600000}}) {
        void *memory = devm_kmalloc(dev, 300000, GFP_KERNEL);
        EXPECT_EQ(devm_add_action(
                      dev, [](void *) { live = pagoda::heap_get_stats().live_bytes; }, nullptr),
                  0);
        EXPECT_EQ(devm_krealloc(dev, memory, size, GFP_KERNEL) == nullptr, size == too_much);
        uint64_t before = pagoda::heap_get_stats().live_bytes;
        close();
        EXPECT_GT(live + 200000, before) << "the memory was gone before the action";
        EXPECT_LT(pagoda::heap_get_stats().live_bytes, before - 200000);
        dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
        ASSERT_NE(dev, nullptr);
    }
}

TEST_F(managed_test, without_memory_every_step_says_so) {
    static int left;
    int steps = 0;
    for (void *bar = nullptr; bar == nullptr; steps++) {
        left = steps;
        pagoda_set_failure_hook([](size_t, gfp_t, void *) { return left-- == 0; }, nullptr);
        errno = 0;
        bar = devm_ioremap_resource(dev, &pci->resource[0]);
        pagoda_set_failure_hook(nullptr, nullptr);
        ASSERT_NE(bar, nullptr) << steps;
        if (!IS_ERR(bar))
            break;
        EXPECT_EQ(PTR_ERR(bar), -ENOMEM) << steps;
        EXPECT_EQ(errno, ENOMEM);
        bar = nullptr;
    }
    EXPECT_GE(steps, 4) << "a claim, a mapping, and the end of each";
    pagoda_set_failure_hook([](size_t, gfp_t, void *) { return true; }, nullptr);
    errno = 0;
    EXPECT_EQ(devm_add_action(dev, note, numbers), -ENOMEM);
    EXPECT_EQ(errno, ENOMEM);
    pagoda_set_failure_hook(nullptr, nullptr);
    EXPECT_TRUE(said("no memory for one more managed resource")) << pagoda_device_error();
}

TEST_F(managed_test, a_claim_that_was_released_by_hand_is_not_released_twice) {
    ASSERT_FALSE(IS_ERR(devm_ioremap_resource(dev, &pci->resource[0])));
    release_mem_region(kBarAt, kBarBytes); // frees what the claim was in
    std::vector<void *> others;
    for (int i = 0; i < 100; i++)
        others.push_back(memset(kmalloc(64, GFP_KERNEL), 0x11, 64));
    resource *other = request_mem_region(kBarAt + 0x1000, 0x1000, "other");
    ASSERT_NE(other, nullptr);
    close();
    EXPECT_TRUE(said("1048576 bytes at 0xfe000000 are not what one claim made"))
        << pagoda_device_error();
    for (void *p : others)
        kfree(p);
}

TEST_F(managed_test, mappings_and_claims_of_resources) {
    void *bar = devm_ioremap_resource(dev, &pci->resource[0]);
    ASSERT_FALSE(IS_ERR(bar)) << pagoda_device_error();
    writel(1, bar);
    void *again = devm_ioremap_resource(dev, &pci->resource[0]);
    EXPECT_TRUE(IS_ERR(again));
    EXPECT_EQ(PTR_ERR(again), -EBUSY);
    EXPECT_EQ(PTR_ERR(devm_ioremap_resource(dev, &pci->resource[2])), -EINVAL) << "ports";
    EXPECT_EQ(PTR_ERR(devm_ioremap_resource(dev, nullptr)), -EINVAL);
    devm_iounmap(dev, bar);
    EXPECT_EQ(in_child([bar] { writel(1, bar); }).signal(), SIGSEGV);
    void *part = devm_ioremap(dev, kBarAt + 4096, 4096);
    ASSERT_NE(part, nullptr);
    EXPECT_EQ(devm_ioremap_wc(dev, kBarAt, 4096), nullptr);
    EXPECT_EQ(devm_ioremap(dev, 0xa0000, 4096), nullptr);
    close();
    EXPECT_EQ(in_child([part] { writel(1, part); }).signal(), SIGSEGV);
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    ASSERT_NE(dev, nullptr);
    pci = to_pci_dev(dev);
    EXPECT_NE(request_mem_region(kBarAt, 1, "free again"), nullptr);
    EXPECT_EQ(PTR_ERR(devm_ioremap_resource_wc(dev, &pci->resource[0])), -EBUSY);
    release_mem_region(kBarAt, 1);
    EXPECT_EQ(PTR_ERR(devm_ioremap_resource_wc(dev, &pci->resource[0])), -EOPNOTSUPP);
    EXPECT_EQ(pci_request_regions(pci, "mine"), 0) << "the failed one's claim is gone";
}

TEST_F(managed_test, arrays_texts_and_pages) {
    auto *p = static_cast<int *>(devm_krealloc_array(dev, nullptr, 3, sizeof(int), GFP_KERNEL));
    ASSERT_NE(p, nullptr);
    p[2] = 7;
    EXPECT_EQ(devm_krealloc_array(dev, p, too_much, 4, GFP_KERNEL), nullptr);
    p = static_cast<int *>(devm_krealloc_array(dev, p, 300, sizeof(int), GFP_KERNEL));
    ASSERT_NE(p, nullptr);
    auto *q = static_cast<int *>(devm_kmemdup_array(dev, p, 3, sizeof(int), GFP_KERNEL));
    ASSERT_NE(q, nullptr);
    EXPECT_EQ(q[2], 7);
    EXPECT_EQ(devm_kmemdup_array(dev, p, too_much, 4, GFP_KERNEL), nullptr);
    EXPECT_STREQ(devm_kasprintf(dev, GFP_KERNEL, "%s-%d", "ring", 12), "ring-12");
    EXPECT_STREQ(devm_kasprintf(dev, GFP_KERNEL, "%s", ""), "");

    unsigned long free_before = nr_free_pages();
    unsigned long at = devm_get_free_pages(dev, GFP_KERNEL | __GFP_ZERO, 3);
    unsigned long other = devm_get_free_pages(dev, GFP_KERNEL, 9);
    ASSERT_NE(at, 0u);
    ASSERT_NE(other, 0u);
    EXPECT_EQ(at % (PAGE_SIZE << 3), 0u);
    EXPECT_EQ(devm_get_free_pages(dev, GFP_KERNEL, MAX_PAGE_ORDER + 1), 0u);
    errno = 0;
    devm_free_pages(dev, at + 1);
    EXPECT_EQ(errno, EINVAL);
    devm_free_pages(dev, at);
    errno = 0;
    devm_free_pages(dev, at);
    EXPECT_EQ(errno, EINVAL) << "twice";
    close();
    EXPECT_GE(nr_free_pages() + 1, free_before) << "the other one went with the device";
}

TEST_F(managed_test, claims) {
    EXPECT_NE(devm_request_mem_region(dev, kBarAt, 4096, "first"), nullptr);
    EXPECT_EQ(devm_request_mem_region(dev, kBarAt + 100, 1, "second"), nullptr);
    EXPECT_EQ(errno, EBUSY);
    EXPECT_NE(devm_request_mem_region(dev, kBarAt + 4096, 4096, "third"), nullptr);
    errno = 0;
    devm_release_mem_region(dev, kBarAt, 4095);
    EXPECT_EQ(errno, EINVAL);
    devm_release_mem_region(dev, kBarAt, 4096);
    EXPECT_NE(request_mem_region(kBarAt, 4096, "by hand"), nullptr);
    release_mem_region(kBarAt + 4096, 4096); // ended by other means: closing finds nothing
    close();
    dev = pagoda_device_open(kEdu, PAGODA_IOMMU_TYPE1);
    ASSERT_NE(dev, nullptr);
    EXPECT_NE(devm_request_mem_region(dev, kBarAt, 8192, "again"), nullptr);
    resource whole = {kBarAt, kBarAt + 8191, "", IORESOURCE_MEM, nullptr};
    resource part = {kBarAt + 8191, kBarAt + 8191, "", IORESOURCE_MEM, nullptr};
    resource behind = {kBarAt + 8191, kBarAt + 8192, "", IORESOURCE_MEM, nullptr};
    EXPECT_TRUE(resource_contains(&whole, &part));
    EXPECT_FALSE(resource_contains(&whole, &behind));
    EXPECT_TRUE(resource_overlaps(&whole, &behind));
    part.flags = IORESOURCE_IO;
    EXPECT_FALSE(resource_contains(&whole, &part)) << "of another kind";
    behind.start++;
    EXPECT_FALSE(resource_overlaps(&whole, &behind));
}

TEST_F(managed_test, actions_still_reach_the_device) {
    struct registers {
        void *bar;
        int fd;
    } r = {pci_iomap(pci, 0, 0), open((kernel.root + "/dev/device/" + kEdu).c_str(), O_RDONLY)};
    EXPECT_EQ(devm_add_action(
                  dev, [](void *data) { writel(77, static_cast<registers *>(data)->bar); }, &r),
              0);
    close();
    uint32_t value = 0;
    EXPECT_EQ(pread(r.fd, &value, 4, 0), 4);
    EXPECT_EQ(value, 77u);
    ::close(r.fd);
}

TEST_F(managed_test, from_several_threads) {
    auto work = [this] {
        std::vector<void *> mine;
        for (int i = 0; i < 1000; i++) {
            mine.push_back(devm_kmalloc(dev, 64, GFP_KERNEL));
            if (i % 3 == 0) {
                devm_kfree(dev, mine.back());
                mine.pop_back();
            }
        }
        for (size_t i = 0; i < mine.size(); i += 2)
            devm_kfree(dev, mine[i]);
    };
    std::thread other(work);
    work();
    other.join();
}
