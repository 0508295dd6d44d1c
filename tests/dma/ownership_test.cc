#include "dma/ownership.h"

#include "tests/unit.h"

#include <pagoda/pagoda.h>

#include <string>

namespace pagoda::dma {
namespace {

// A letter for each byte's owner.
std::string owners(const ownership &o, size_t from, size_t to) {
    std::string all(to - from, '?');
    auto mark = [&](char owner) {
        return [&all, from, owner](size_t at, size_t bytes) {
            EXPECT_EQ(all.substr(at - from, bytes), std::string(bytes, '?'));
            all.replace(at - from, bytes, bytes, owner);
        };
    };
    o.each_of_device(from, to, mark('d'));
    o.each_of_processor(from, to, mark('p'));
    return all;
}

TEST(Ownership, WholeMappingsNeedNoMemory) {
    ownership o = {};
    o.begin(100);
    pagoda_set_failure_hook([](size_t, gfp_t, void *) { return true; }, nullptr);
    o.give_to_device(10, 20);
    EXPECT_TRUE(o.is_all_device());
    o.give_to_processor(0, 100);
    o.give_to_processor(3, 50);
    EXPECT_EQ(owners(o, 0, 100), std::string(100, 'p'));
    o.give_to_device(0, 100);
    o.give_to_processor(7, 7);
    EXPECT_EQ(owners(o, 0, 100), std::string(100, 'd'));
    pagoda_set_failure_hook(nullptr, nullptr);
}

TEST(Ownership, WithoutMemoryAllIsTheProcessorsUntilAllIsTheDevices) {
    ownership o = {};
    o.begin(100);
    pagoda_set_failure_hook([](size_t, gfp_t, void *) { return true; }, nullptr);
    EXPECT_FALSE(o.reserve());
    o.give_to_processor(10, 20);
    EXPECT_EQ(owners(o, 0, 100), std::string(100, 'p'));
    o.give_to_device(10, 20);
    EXPECT_EQ(owners(o, 0, 100), std::string(100, 'p'));
    o.give_to_device(0, 100);
    EXPECT_TRUE(o.is_all_device());
    pagoda_set_failure_hook(nullptr, nullptr);
    EXPECT_TRUE(o.reserve());
    o.give_to_processor(10, 20);
    EXPECT_EQ(owners(o, 5, 25), "dddddppppppppppddddd");
    o.end();
}

TEST(Ownership, AgreesWithALetterPerByte) {
    test::random_numbers random(11);
    for (size_t bytes : {1, 63, 64, 65, 1000}) {
        ownership o = {};
        o.begin(bytes);
        std::string model(bytes, 'd');
        for (int round = 0; round < 2000; round++) {
            size_t from = random.below(bytes), n = 1 + random.below(bytes - from);
            bool processor = random.below(2) == 0;
            if (processor)
                o.give_to_processor(from, from + n);
            else
                o.give_to_device(from, from + n);
            model.replace(from, n, n, processor ? 'p' : 'd');
            ASSERT_EQ(o.is_all_device(), model == std::string(bytes, 'd'));
            from = random.below(bytes), n = 1 + random.below(bytes - from);
            ASSERT_EQ(owners(o, from, from + n), model.substr(from, n));
        }
        o.end();
    }
}

} // namespace
} // namespace pagoda::dma
