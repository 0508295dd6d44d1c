#include "tests/unit.h"

#include "hugepage/options.h"
#include "lib/heap.h"
#include "lib/percpu.h"
#include "lib/sheaf.h"
#include "lib/thread.h"

namespace pagoda::test {
namespace {

// No allocation of this test goes through the class, so its words are the test's alone.
constexpr unsigned kClass = 30;

void push_and_pop_in_order() {
    ASSERT_TRUE(heap_init());
    slow_path scope;
    const uint16_t capacity = kClassTable.info[kClass].capacity;
    EXPECT_EQ(percpu::pop(kClass), nullptr);
    uint32_t id = sheaf_alloc(capacity, true);
    ASSERT_NE(id, 0u);
    ASSERT_TRUE(percpu::replace(kClass, 0, sheaf_empty_top(id, capacity)));
    EXPECT_EQ(percpu::word(kClass), sheaf_empty_top(id, capacity));
    static char objects[512];
    for (int i = 0; i < capacity; i++)
        EXPECT_TRUE(percpu::push(kClass, objects + i));
    EXPECT_FALSE(percpu::push(kClass, objects + capacity)) << "the sheaf is full";
    EXPECT_EQ(percpu::word(kClass), sheaf_full_top(id));
    for (int i = capacity; i-- > 0;)
        EXPECT_EQ(percpu::pop(kClass), objects + i);
    EXPECT_EQ(percpu::pop(kClass), nullptr);
    EXPECT_FALSE(percpu::replace(kClass, 1, 0)) << "another word is there";
    EXPECT_TRUE(percpu::replace(kClass, sheaf_empty_top(id, capacity), 0));
    sheaf_free(id);
}

void stacks_keep_their_limit() {
    ASSERT_TRUE(heap_init());
    slow_path scope;
    uint32_t a = sheaf_alloc(127, true);
    uint32_t b = sheaf_alloc(127, true);
    for (auto kind : {percpu::stack_kind::full, percpu::stack_kind::empty}) {
        EXPECT_EQ(percpu::stack_pop(kClass, kind), 0u);
        EXPECT_FALSE(percpu::stack_push(kClass, kind, a, 0));
        EXPECT_TRUE(percpu::stack_push(kClass, kind, a, 2));
        EXPECT_FALSE(percpu::stack_push(kClass, kind, b, 1));
        EXPECT_TRUE(percpu::stack_push(kClass, kind, b, 2));
        EXPECT_EQ(percpu::stack_pop(kClass, kind), b);
        EXPECT_EQ(percpu::stack_pop(kClass, kind), a);
        EXPECT_EQ(percpu::stack_pop(kClass, kind), 0u);
    }
    sheaf_free(a);
    sheaf_free(b);
}

// On one CPU, so that a migration does not change what the words say.
template <class F> child_end on_one_cpu(percpu_policy policy, F body) {
    return in_child([&] {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof one, &one);
        mutable_options().percpu = policy;
        ASSERT_TRUE(heap_init());
        EXPECT_TRUE(policy != percpu_policy::off || !percpu::has_rseq());
        body();
    });
}

TEST(percpu, without_rseq_objects_come_back_in_order) {
    EXPECT_TRUE(succeeded(on_one_cpu(percpu_policy::off, push_and_pop_in_order)));
}

TEST(percpu, without_rseq_stacks_keep_their_limit) {
    EXPECT_TRUE(succeeded(on_one_cpu(percpu_policy::off, stacks_keep_their_limit)));
}

} // namespace
} // namespace pagoda::test
