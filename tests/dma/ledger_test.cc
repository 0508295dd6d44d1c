#include "dma/ledger.h"

#include "tests/unit.h"

#include <errno.h>
#include <map>

namespace pagoda::dma {
namespace {

// Spaces are keys alone here.
const space *number(uintptr_t n) { return reinterpret_cast<const space *>(n); }

TEST(Ledger, FindsAndRemovesByAddress) {
    ledger_entry entry{number(1), 0x5000, this, 100, entry_kind::range, true}, found;
    ASSERT_EQ(ledger_add(entry, true), 0);
    EXPECT_FALSE(ledger_find(number(2), 0x5000, &found)) << "of another space";
    EXPECT_FALSE(ledger_find(number(1), 0x5001, &found));
    ASSERT_TRUE(ledger_find(number(1), 0x5000, &found));
    EXPECT_EQ(found.memory, this);
    EXPECT_EQ(found.bytes, 100u);
    EXPECT_TRUE(found.held);
    ledger_entry other = entry;
    other.bytes = 99;
    EXPECT_FALSE(ledger_remove(other));
    EXPECT_TRUE(ledger_remove(entry));
    ledger_put_back(entry);
    EXPECT_TRUE(ledger_remove(entry));
    EXPECT_FALSE(ledger_remove(entry));
    EXPECT_FALSE(ledger_find(number(1), 0x5000, &found));
}

TEST(Ledger, ForgetsASpace) {
    ledger_entry entry{number(7), 0x5000, this, 100, entry_kind::range, false}, found;
    for (entry.address = 0; entry.address < 100 << 12; entry.address += 1 << 12)
        ASSERT_EQ(ledger_add(entry, true), 0);
    entry.in = number(8);
    ASSERT_EQ(ledger_add(entry, true), 0);
    EXPECT_EQ(ledger_forget(number(7)), 100u);
    EXPECT_EQ(ledger_forget(number(7)), 0u);
    EXPECT_FALSE(ledger_find(number(7), 0x5000, &found));
    EXPECT_TRUE(ledger_remove(entry));
}

TEST(Ledger, RandomOperationsAgainstAModel) {
    test::random_numbers random(3);
    std::map<std::pair<uintptr_t, uint64_t>, ledger_entry> model;
    for (int op = 0; op < 300000; op++) {
        uintptr_t in = 1 + random.below(3);
        uint64_t address = random.below(2000) << 12;
        auto found = model.find({in, address});
        ledger_entry entry;
        ASSERT_EQ(ledger_find(number(in), address, &entry), found != model.end());
        if (found == model.end()) {
            entry = {number(in), address, &model, random.next() >> 8, entry_kind::piece, false};
            ASSERT_EQ(ledger_add(entry, random.one_in(2)), 0);
            model[{in, address}] = entry;
        } else {
            ASSERT_EQ(entry.bytes, found->second.bytes);
            ASSERT_TRUE(ledger_remove(entry));
            model.erase(found);
        }
    }
    for (auto &[key, entry] : model)
        EXPECT_TRUE(ledger_remove(entry));
    for (uintptr_t in = 1; in <= 3; in++)
        EXPECT_EQ(ledger_forget(number(in)), 0u);
}

} // namespace
} // namespace pagoda::dma
