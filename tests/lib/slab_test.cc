#include "tests/unit.h"

#include "lib/heap.h"
#include "lib/slab.h"

namespace pagoda::test {
namespace {

class slabs : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(heap_init()); }
};

TEST_F(slabs, hold_as_many_objects_as_their_class_says) {
    for (unsigned cls = 1; cls <= kSmallClasses; cls++) {
        const class_info &info = kClassTable.info[cls];
        slab *s = slab_create(cls, info, GFP_KERNEL, false);
        ASSERT_NE(s, nullptr);
        void *objects[32768 / 8];
        uint32_t half = slab_take(s, info, objects, info.objects / 2);
        EXPECT_EQ(half, info.objects / 2u);
        EXPECT_EQ(half + slab_take(s, info, objects + half, 100000), info.objects);
        EXPECT_EQ(s->in_use, info.objects);
        EXPECT_EQ(slab_take(s, info, objects, 1), 0u);
        for (uint32_t i = 0; i < info.objects; i++) {
            slab_position at = slab_find(info, objects[i]);
            EXPECT_EQ(at.slab, s);
            EXPECT_EQ(at.object, i) << "lowest addresses first";
            EXPECT_TRUE(at.exact);
            EXPECT_FALSE(slab_find(info, static_cast<char *>(objects[i]) + 1).exact);
        }
        s->in_use = 0;
        slab_destroy(s, info);
    }
}

TEST_F(slabs, the_fullest_that_has_room_is_served_first) {
    constexpr unsigned cls = 20;
    const class_info &info = kClassTable.info[cls];
    slab_lists lists;
    slab *few = slab_create(cls, info, GFP_KERNEL, false);
    slab *many = slab_create(cls, info, GFP_KERNEL, true);
    void *objects[32768 / 8];
    lists.add(few);
    lists.add(many);
    EXPECT_NE(lists.empty(), nullptr);
    slab_take(few, info, objects, 1);
    lists.update(few);
    slab_take(many, info, objects, info.objects - 1u);
    lists.update(many);
    EXPECT_EQ(lists.empty(), nullptr);
    EXPECT_EQ(lists.fullest(), many);
    slab_take(many, info, objects, 1);
    lists.update(many);
    EXPECT_EQ(lists.fullest(), few) << "a full slab is on no list";
    lists.remove(few);
    EXPECT_EQ(lists.fullest(), nullptr);
    for (slab *s : {few, many}) {
        s->in_use = 0;
        slab_destroy(s, info);
    }
}

} // namespace
} // namespace pagoda::test
