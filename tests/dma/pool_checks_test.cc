#include "dma/pool_checks.h"

#include "tests/unit.h"

#include <map>

namespace pagoda::dma {
namespace {

using state = pool_checks::state;

void count(void *context, void *block) {
    EXPECT_EQ((*static_cast<std::map<void *, state> *>(context))[block], state::used);
}

TEST(PoolChecks, RememberEachBlock) {
    auto checks = std::make_unique<pool_checks>();
    std::map<void *, state> model;
    test::random_numbers random(5);
    for (int i = 0; i < 100'000; i++) {
        void *block = reinterpret_cast<void *>(0x10000 + 64 * random.below(2000));
        auto known = model.find(block);
        ASSERT_EQ(checks->state_of(block), known == model.end() ? state::unknown : known->second);
        state to = random.one_in(2) ? state::used : state::free;
        ASSERT_TRUE(checks->set(block, to, GFP_KERNEL));
        model[block] = to;
    }
    size_t used = 0;
    for (auto [block, is] : model)
        used += is == state::used;
    EXPECT_EQ(checks->each_used(count, &model), used);
}

} // namespace
} // namespace pagoda::dma
