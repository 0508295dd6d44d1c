#include "dma/device.h"

#include "dma/complain.h"
#include "tests/dma/devices.h"
#include "tests/dma/soft.h"

#include <errno.h>
#include <pagoda/devres.h>
#include <pagoda/dma-mapping.h>
#include <pagoda/dmapool.h>
#include <thread>

namespace pagoda::test {
namespace {

TEST(device, begins_with_the_defaults_of_the_kernels) {
    device_ptr d = software({.name = "a name that is longer than thirty-two characters"});
    EXPECT_STREQ(dev_name(d.get()), "a name that is longer than thir");
    EXPECT_EQ(dev_to_node(d.get()), -1);
    EXPECT_EQ(dev_get_drvdata(d.get()), nullptr);
    dev_set_drvdata(d.get(), &d);
    EXPECT_EQ(dev_get_drvdata(d.get()), &d);
    EXPECT_EQ(d->state->mask, 0xffffffffu);
    EXPECT_EQ(d->state->coherent_mask, 0xffffffffu);
    EXPECT_EQ(d->state->max_segment, 65536u);
    EXPECT_EQ(d->state->boundary, UINT64_MAX);
    EXPECT_EQ(pagoda_device_iommu(d.get()), PAGODA_IOMMU_SOFTWARE);
    pagoda_device_close(nullptr);
}

TEST(device, tells_its_windows) {
    device_ptr d = software();
    uint64_t first[2] = {};
    uint64_t last[2] = {};
    EXPECT_EQ(pagoda_device_windows(d.get(), first, last, 1), 2);
    EXPECT_EQ(last[0], 0xfedfffffu);
    EXPECT_EQ(last[1], 0u) << "beyond the capacity";
    EXPECT_EQ(pagoda_device_windows(d.get(), first, last, 2), 2);
    EXPECT_EQ(first[1], 0xfef00000u);
    EXPECT_EQ(last[1], 0x7fffffffffu);
}

TEST(device, a_failure_is_a_sentence_of_the_thread_that_met_it) {
    std::thread([] {
        EXPECT_STREQ(pagoda_device_error(), "");
        EXPECT_EQ(dma::fail(ENOSPC, "%d are too many", 5), -ENOSPC);
        EXPECT_EQ(errno, ENOSPC);
        EXPECT_STREQ(pagoda_device_error(), "5 are too many");
        std::thread([] { EXPECT_STREQ(pagoda_device_error(), ""); }).join();
        std::string longer(1000, 'x');
        dma::fail(EIO, "%s", longer.c_str());
        EXPECT_GT(strlen(pagoda_device_error()), 200u);
        EXPECT_LT(strlen(pagoda_device_error()), 1000u);
    }).join();
}

TEST(device, closing_does_what_its_maker_asked_for) {
    device_ptr d = software();
    static int closed;
    closed = 0;
    d->state->on_close = [](pagoda_device_state *state) {
        EXPECT_FALSE(state->gone.load());
        closed++;
    };
    d.reset();
    EXPECT_EQ(closed, 1);
}

TEST(device, the_devices_of_a_space_are_all_gone_in_a_child) {
    device_ptr one = software();
    device_ptr two = software({.beside = one.get()});
    EXPECT_TRUE(succeeded(in_child([&] {
        EXPECT_TRUE(one->state->gone.load());
        EXPECT_TRUE(two->state->gone.load());
        device_ptr own = software();
        EXPECT_FALSE(own->state->gone.load()) << "a child may open devices of its own";
        two.reset();
        one.reset();
    })));
    EXPECT_FALSE(one->state->gone.load());
}

// Nothing of the parent's is called, freed or waited for.
TEST(device, closing_a_parent_s_in_a_child_does_nothing) {
    device_ptr d = software();
    void (*released)(void *) = [](void *) { dma::complain("released"); };
    EXPECT_EQ(devm_add_action(d.get(), released, nullptr), 0);
    dma_addr_t at = 0;
    void *memory = dmam_alloc_coherent(d.get(), 4096, &at, GFP_KERNEL);
    ASSERT_NE(memory, nullptr) << pagoda_device_error();
    dma_pool *blocks = dmam_pool_create("blocks", d.get(), 64, 64, 0);
    ASSERT_NE(blocks, nullptr) << pagoda_device_error();
    child_end end = in_child([&] {
        dmam_free_coherent(d.get(), 4096, memory, at);
        dmam_pool_destroy(blocks);
        pagoda_device_close(d.release());
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
    end = in_child([&] { d.reset(); });
    EXPECT_EQ(end.errors, "");
    d->state->on_close = [](pagoda_device_state *) { dma::complain("the child closed it"); };
    end = in_child([&] { d.reset(); });
    EXPECT_EQ(end.errors, "");
    d->state->on_close = nullptr;
    dmam_free_coherent(d.get(), 4096, memory, at);
    dmam_pool_destroy(blocks);
    devm_remove_action(d.get(), released, nullptr);
    end = in_child([&] { // a device of the child's own is closed as ever
        device_ptr own = software();
        EXPECT_EQ(devm_add_action(own.get(), released, nullptr), 0);
    });
    EXPECT_TRUE(end.said("released")) << end.errors;
}

} // namespace
} // namespace pagoda::test
