#include "lib/group.h"

#include "tests/unit.h"

#include <thread>
#include <vector>

using namespace pagoda::test;

namespace {

class Group : public ::testing::Test {
  protected:
    pagoda_group *group_ = pagoda_group_create("tenant", 1 << 20);
    void SetUp() override { EXPECT_EQ(pagoda_group_enter(group_), nullptr); }
    void TearDown() override {
        EXPECT_EQ(pagoda_group_enter(nullptr), group_);
        EXPECT_EQ(pagoda_group_usage(group_), 0u);
        pagoda_group_destroy(group_);
    }
};

TEST_F(Group, AccountedObjectsAreChargedUntilTheyAreFreed) {
    void *p = kmalloc(100, GFP_KERNEL_ACCOUNT);
    size_t one = pagoda_group_usage(group_);
    EXPECT_GE(one, 100u);
    EXPECT_LE(one, 256u);
    void *run = kmalloc(100000, GFP_KERNEL | __GFP_ACCOUNT | __GFP_ZERO);
    ASSERT_NE(run, nullptr);
    EXPECT_EQ(static_cast<char *>(run)[99999], 0);
    EXPECT_GE(pagoda_group_usage(group_), one + 100000);
    void *plain = kmalloc(100, GFP_KERNEL);
    EXPECT_LT(pagoda_group_usage(group_), one + 140000);
    std::thread([&] { // whoever frees it
        kfree(run);
        kfree(p);
    })
        .join();
    EXPECT_EQ(pagoda_group_usage(group_), 0u);
    EXPECT_GE(pagoda_group_peak(group_), 100000u);
    kfree(plain);
}

TEST_F(Group, OverTheLimitOnlyThatGroupFails) {
    std::vector<void *> held;
    while (void *p = kmalloc(1000, GFP_KERNEL_ACCOUNT | __GFP_NOWARN))
        held.push_back(p);
    EXPECT_GT(held.size(), 900u);
    EXPECT_LE(pagoda_group_usage(group_), pagoda_group_limit(group_));
    EXPECT_GT(pagoda_group_failures(group_), 0u);
    EXPECT_EQ(kmalloc(500000, GFP_KERNEL_ACCOUNT | __GFP_NOWARN), nullptr);
    void *other = kmalloc(1000, GFP_KERNEL);
    EXPECT_NE(other, nullptr) << "what is not accounted";
    pagoda_group *second = pagoda_group_create("second", SIZE_MAX);
    pagoda_group_enter(second);
    void *theirs = kmalloc(1000, GFP_KERNEL_ACCOUNT);
    EXPECT_NE(theirs, nullptr);
    kfree(theirs);
    pagoda_group_enter(group_);
    pagoda_group_destroy(second);
    kfree(held.back());
    held.pop_back();
    void *again = kmalloc(1000, GFP_KERNEL_ACCOUNT);
    EXPECT_NE(again, nullptr);
    kfree(again);
    pagoda_group_set_limit(group_, 1000);
    EXPECT_EQ(kmalloc(10, GFP_KERNEL_ACCOUNT | __GFP_NOWARN), nullptr);
    for (void *p : held)
        kfree(p);
    kfree(other);
}

TEST_F(Group, CachesAccountByFlagOrByTheCallsFlag) {
    struct kmem_cache *always = kmem_cache_create("always", 64, nullptr, SLAB_ACCOUNT);
    struct kmem_cache *asked = kmem_cache_create("asked", 64, nullptr, SLAB_NO_MERGE);
    void *a = kmem_cache_alloc(always, GFP_KERNEL);
    size_t one = pagoda_group_usage(group_);
    EXPECT_GE(one, 64u);
    void *b = kmem_cache_alloc(asked, GFP_KERNEL);
    EXPECT_EQ(pagoda_group_usage(group_), one);
    void *c = kmem_cache_alloc(asked, GFP_KERNEL_ACCOUNT);
    EXPECT_GT(pagoda_group_usage(group_), one);
    EXPECT_EQ(ksize(c), 64u);
    kmem_cache_free(always, a);
    kmem_cache_free(asked, b);
    kmem_cache_free(asked, c);
    EXPECT_EQ(pagoda_group_usage(group_), 0u);
    kmem_cache_destroy(always);
    kmem_cache_destroy(asked);
}

// A cache without sheaves serves its accounted objects itself.
TEST_F(Group, CachesWithoutSheavesAccountByTheCallsFlag) {
    struct kmem_cache *checked = kmem_cache_create("checked", 64, nullptr, SLAB_RED_ZONE);
    void *plain = kmem_cache_alloc(checked, GFP_KERNEL);
    EXPECT_EQ(pagoda_group_usage(group_), 0u);
    void *charged = kmem_cache_alloc(checked, GFP_KERNEL_ACCOUNT);
    size_t one = pagoda_group_usage(group_);
    EXPECT_GE(one, 64u);
    kmem_cache_free(checked, plain);
    EXPECT_EQ(pagoda_group_usage(group_), one);
    kmem_cache_free(checked, charged);
    EXPECT_EQ(pagoda_group_usage(group_), 0u);
    for (int i = 0; i < 100; i++) // places of charged objects among them
        kmem_cache_free(checked, kmem_cache_alloc(checked, GFP_KERNEL));
    std::vector<void *> held;
    while (held.size() < (1 << 20) / 64)
        held.push_back(kmem_cache_alloc(checked, GFP_KERNEL_ACCOUNT | __GFP_NOWARN));
    EXPECT_NE(held[1000], nullptr);
    EXPECT_EQ(held.back(), nullptr) << "over the limit";
    EXPECT_LE(pagoda_group_usage(group_), pagoda_group_limit(group_));
    for (void *p : held)
        kmem_cache_free(checked, p);
    kmem_cache_destroy(checked);
}

TEST_F(Group, HeapsAccountUntilTheyAreDestroyed) {
    pagoda_heap *heap = pagoda_heap_create("tenants");
    void *p = pagoda_heap_alloc(heap, 100, GFP_KERNEL_ACCOUNT);
    EXPECT_GE(pagoda_group_usage(group_), 100u);
    EXPECT_NE(pagoda_heap_alloc(heap, 1 << 21, GFP_KERNEL), nullptr) << "not charged";
    EXPECT_EQ(pagoda_heap_alloc(heap, 1 << 21, GFP_KERNEL_ACCOUNT | __GFP_NOWARN), nullptr);
    size_t one = pagoda_group_usage(group_);
    EXPECT_NE(pagoda_heap_alloc(heap, 1000, GFP_KERNEL_ACCOUNT), nullptr);
    pagoda_heap_free(p);
    EXPECT_NE(pagoda_group_usage(group_), one);
    pagoda_heap_destroy(heap);
    EXPECT_EQ(pagoda_group_usage(group_), 0u);
}

TEST_F(Group, AnUnchargedObjectCanBeChargedLater) {
    struct kmem_cache *c = kmem_cache_create("later", 64, nullptr, SLAB_ACCOUNT);
    pagoda_group_enter(nullptr);
    void *p = kmem_cache_alloc(c, GFP_KERNEL);
    EXPECT_TRUE(kmem_cache_charge(p, GFP_KERNEL)) << "there is nothing to charge it to";
    pagoda_group_enter(group_);
    EXPECT_EQ(pagoda_group_usage(group_), 0u);
    EXPECT_TRUE(kmem_cache_charge(p, GFP_KERNEL));
    size_t one = pagoda_group_usage(group_);
    EXPECT_GE(one, 64u);
    EXPECT_TRUE(kmem_cache_charge(p, GFP_KERNEL));
    EXPECT_EQ(pagoda_group_usage(group_), one) << "once";
    void *plain = kmalloc(64, GFP_KERNEL);
    EXPECT_FALSE(kmem_cache_charge(plain, GFP_KERNEL));
    pagoda_group_enter(nullptr);
    EXPECT_TRUE(kmem_cache_charge(plain, GFP_KERNEL)) << "there is nothing to charge it to";
    pagoda_group_enter(group_);
    kfree(plain);
    kmem_cache_free(c, p);
    kmem_cache_destroy(c);
}

TEST(Groups, OneThatIsDestroyedLivesOnWithItsObjects) {
    pagoda_group *g = pagoda_group_create(nullptr, SIZE_MAX);
    pagoda_group_enter(g);
    void *p = kmalloc(64, GFP_KERNEL_ACCOUNT);
    EXPECT_NE(p, nullptr);
    pagoda_group_destroy(g);
    EXPECT_EQ(kmalloc(64, GFP_KERNEL_ACCOUNT | __GFP_NOWARN), nullptr);
    pagoda_group_enter(nullptr);
    kfree(p);
    pagoda_group_destroy(nullptr);
    void *free_of_charge = kmalloc(64, GFP_KERNEL_ACCOUNT);
    EXPECT_NE(free_of_charge, nullptr) << "without a group nothing is charged";
    kfree(free_of_charge);
}

TEST(Groups, ManyThreadsChargeExactly) {
    pagoda_group *g = pagoda_group_create("shared", 4 << 20);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([g, t] {
            pagoda_group_enter(g);
            random_numbers random(t);
            std::vector<void *> held;
            for (int i = 0; i < 20000; i++) {
                if (random.one_in(2)) {
                    if (void *p = kmalloc(1 + random.skewed(12), GFP_KERNEL_ACCOUNT | __GFP_NOWARN))
                        held.push_back(p);
                } else if (!held.empty()) {
                    kfree(held.back());
                    held.pop_back();
                }
                ASSERT_LE(pagoda_group_peak(g), pagoda_group_limit(g));
            }
            for (void *p : held)
                kfree(p);
        });
    }
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(pagoda_group_usage(g), 0u);
    pagoda_group_destroy(g);
}

} // namespace
