#include "hugepage/buddy.h"

#include "hugepage/address_space.h"
#include "tests/unit.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::random_numbers;

constexpr uint32_t kBlocks = 32;
constexpr uint32_t kPages = kBlocks * kPageblockPages;

class BuddyTest : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        ASSERT_TRUE(address_space_init(kPageSize));
        ASSERT_TRUE(g_space.pageblocks.reach(kBlocks * sizeof(pageblock)));
    }
    // Every test starts with a zone of which no page is free.
    void SetUp() override { memset(g_space.pageblocks.as<char>(), 0, g_space.pageblocks.bytes()); }

    uint32_t take(unsigned order) { return buddy_.take(order, &dirty_); }
    uint32_t take_exact(uint32_t count) { return buddy_.take_exact(count, &dirty_); }
    uint32_t take_blocks(uint32_t count) { return buddy_.take_blocks(count, 1, &dirty_); }
    // As zone::hold_block(): first what holds no memory gets some.
    void hold(uint32_t number) {
        uint64_t clean[8];
        buddy_.take_clean(number, clean);
        buddy_.pin(number, true);
        for (uint32_t at = 0; at < kPageblockPages; at++)
            if ((clean[at / 64] >> (at % 64) & 1) != 0)
                buddy_.release(number * kPageblockPages + at, 1, true);
    }
    std::vector<uint64_t> free_blocks() const {
        std::vector<uint64_t> counts;
        for (unsigned order = 0; order <= kPageblockOrder; order++)
            counts.push_back(buddy_.free_blocks(order));
        return counts;
    }

    buddy buddy_;
    uint32_t dirty_ = 0; // of the pages taken last
};

using counts = std::vector<uint64_t>;

TEST_F(BuddyTest, AnEmptyZoneGivesNothing) {
    for (unsigned order = 0; order <= kPageblockOrder; order++)
        EXPECT_EQ(take(order), kNoPage);
    EXPECT_EQ(take_blocks(1), kNoPage);
    uint32_t block = 0;
    EXPECT_FALSE(buddy_.isolate_dirty(&block));
    EXPECT_FALSE(buddy_.would_break_clean(0));
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, SplitsDownToOnePageAndMergesBack) {
    buddy_.release(0, kPageblockPages, false);
    EXPECT_EQ(free_blocks(), (counts{0, 0, 0, 0, 0, 0, 0, 0, 0, 1}));
    EXPECT_EQ(take(0), 0u);
    EXPECT_EQ(free_blocks(), (counts{1, 1, 1, 1, 1, 1, 1, 1, 1, 0}));
    EXPECT_EQ(buddy_.free_pages(), kPageblockPages - 1);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
    buddy_.release(0, 1, false);
    EXPECT_EQ(free_blocks(), (counts{0, 0, 0, 0, 0, 0, 0, 0, 0, 1}));
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, BackedPagesAreThoseThatHoldMemory) {
    buddy_.release(0, 2 * kPageblockPages, false);
    EXPECT_EQ(buddy_.take_backed(1, 0), kNoPage);
    uint32_t first = take(kPageblockOrder);
    buddy_.release(first + 3, 20, true);
    EXPECT_EQ(buddy_.take_backed(21, 0), kNoPage);
    EXPECT_EQ(buddy_.take_backed(8, 3), first + 8);
    EXPECT_EQ(buddy_.take_backed(8, 3), kNoPage);
    EXPECT_EQ(buddy_.take_backed(5, 0), first + 3);
    EXPECT_EQ(buddy_.take_backed(7, 0), first + 16);
    EXPECT_EQ(buddy_.dirty_pages(), 0u);
    buddy_.release(first, kPageblockPages, true);
    EXPECT_EQ(buddy_.take_backed(kPageblockPages, kPageblockOrder), first);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, BlocksAreAlignedToTheirSize) {
    for (unsigned order = 0; order <= kPageblockOrder; order++) {
        buddy_.release(0, 2 * kPageblockPages, false);
        uint32_t one = take(0); // makes the next one come from further up
        uint32_t first = take(order);
        ASSERT_NE(first, kNoPage);
        EXPECT_EQ(first % (1u << order), 0u);
        buddy_.release(first, 1u << order, false);
        buddy_.release(one, 1, false);
        for (int whole = 0; whole < 2; whole++)
            ASSERT_NE(take(kPageblockOrder), kNoPage) << "order " << order;
    }
}

TEST_F(BuddyTest, BuddiesMergeOnlyWithinTheirPageblock) {
    buddy_.release(kPageblockPages - 1, 2, false);
    EXPECT_EQ(buddy_.free_blocks(0), 2u);
    EXPECT_EQ(buddy_.free_blocks(1), 0u);
    EXPECT_EQ(take(1), kNoPage);
}

TEST_F(BuddyTest, NeighboursThatAreNoBuddiesStaySeparate) {
    buddy_.release(1, 2, false);
    EXPECT_EQ(buddy_.free_blocks(0), 2u);
    buddy_.release(0, 1, false);
    buddy_.release(3, 1, false);
    EXPECT_EQ(free_blocks(), (counts{0, 0, 1, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_F(BuddyTest, AnExactTailGoesBackInItsLargestBlocks) {
    buddy_.release(0, kPageblockPages, false);
    ASSERT_EQ(take(3), 0u);
    buddy_.release(5, 3, false);
    EXPECT_EQ(buddy_.free_blocks(0), 1u);
    EXPECT_EQ(buddy_.free_blocks(1), 1u);
    EXPECT_EQ(take(0), 5u);
    EXPECT_EQ(take(1), 6u);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, TakesFromTheSmallestOrderThatHasOne) {
    buddy_.release(0, kPageblockPages, false);
    buddy_.release(kPageblockPages + 64, 4, false);
    EXPECT_EQ(take(1), kPageblockPages + 64u);
    EXPECT_EQ(buddy_.free_blocks(9), 1u);
}

TEST_F(BuddyTest, PrefersTheFullestPageblock) {
    for (uint32_t page = 0; page < kPageblockPages; page += 2)
        buddy_.release(page, 1, false); // half free
    for (uint32_t page : {1u, 3u, 5u})
        buddy_.release(kPageblockPages + page, 1, false); // nearly full
    EXPECT_EQ(take(0), kPageblockPages + 1u);
    EXPECT_EQ(take(0), kPageblockPages + 3u);
    EXPECT_EQ(take(0), kPageblockPages + 5u);
    EXPECT_EQ(take(0), 0u);
}

TEST_F(BuddyTest, WholePageblocksWithMemoryGoFirst) {
    buddy_.release(0, kPageblockPages, false);
    buddy_.release(kPageblockPages, kPageblockPages, true);
    EXPECT_FALSE(buddy_.would_break_clean(0));
    EXPECT_EQ(take(kPageblockOrder), kPageblockPages);
    EXPECT_EQ(dirty_, kPageblockPages);
    EXPECT_TRUE(buddy_.would_break_clean(0));
    EXPECT_EQ(take(kPageblockOrder), 0u);
    EXPECT_EQ(dirty_, 0u);
}

TEST_F(BuddyTest, PageblocksInARowStartWhereAsked) {
    buddy_.release(kPageblockPages, 4 * kPageblockPages, false); // blocks 1 to 4
    EXPECT_EQ(buddy_.take_blocks(2, 2, &dirty_), 2 * kPageblockPages);
    EXPECT_EQ(buddy_.take_blocks(2, 2, &dirty_), kNoPage);
    EXPECT_EQ(buddy_.take_blocks(1, 4, &dirty_), 4 * kPageblockPages);
    EXPECT_EQ(buddy_.take_blocks(1, 1, &dirty_), kPageblockPages);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, ARowHasNoPageblocksOfTheReserve) {
    buddy reserve;
    buddy_.block(2).reserved = true;
    reserve.release(2 * kPageblockPages, kPageblockPages, true);
    buddy_.release(0, 2 * kPageblockPages, false);
    buddy_.release(3 * kPageblockPages, kPageblockPages, false);
    EXPECT_EQ(take_blocks(3), kNoPage);
    EXPECT_EQ(take_blocks(2), 0u);
    EXPECT_EQ(reserve.free_pages(), kPageblockPages);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, ASmallerBlockSavesTheCleanPageblock) {
    buddy_.release(0, kPageblockPages, false);
    buddy_.release(kPageblockPages, 4, false);
    EXPECT_FALSE(buddy_.would_break_clean(2));
    EXPECT_TRUE(buddy_.would_break_clean(3));
}

TEST_F(BuddyTest, SaysHowManyPagesHoldMemory) {
    buddy_.release(0, 2, false);
    buddy_.release(2, 2, true);
    EXPECT_EQ(buddy_.dirty_pages(), 2u);
    EXPECT_EQ(take(2), 0u);
    EXPECT_EQ(dirty_, 2u);
    EXPECT_EQ(buddy_.dirty_pages(), 0u);
}

TEST_F(BuddyTest, AnExactRunComesFromTheShortestThatHoldsMemory) {
    buddy_.release(0, kPageblockPages, false);
    buddy_.release(kPageblockPages + 1, 7, false);
    buddy_.release(2 * kPageblockPages + 3, 40, true);
    buddy_.release(3 * kPageblockPages + 5, 13, true);
    buddy_.release(3 * kPageblockPages + 101, 12, true);
    EXPECT_EQ(take_exact(11), 3 * kPageblockPages + 101);
    EXPECT_EQ(dirty_, 11u);
    EXPECT_EQ(take_exact(11), 3 * kPageblockPages + 5);
    EXPECT_EQ(take_exact(11), 2 * kPageblockPages + 3);
    EXPECT_EQ(take_exact(40), kNoPage) << "a whole pageblock without memory is take()'s";
    EXPECT_EQ(take_exact(28), 2 * kPageblockPages + 14);
    EXPECT_EQ(take_exact(7), kPageblockPages + 1);
    EXPECT_EQ(dirty_, 0u);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, TakesPageblocksInARow) {
    for (uint32_t n : {0u, 2u, 3u, 5u, 6u, 7u})
        buddy_.release(n * kPageblockPages, kPageblockPages, n == 6);
    EXPECT_EQ(take_blocks(4), kNoPage);
    EXPECT_EQ(take_blocks(3), 5 * kPageblockPages);
    EXPECT_EQ(dirty_, kPageblockPages);
    EXPECT_EQ(take_blocks(2), 2 * kPageblockPages);
    EXPECT_EQ(dirty_, 0u);
    EXPECT_EQ(take_blocks(2), kNoPage);
    EXPECT_EQ(take_blocks(1), 0u);
    EXPECT_EQ(buddy_.free_pages(), 0u);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, PageblocksInARowEndWithTheTable) {
    uint32_t last = static_cast<uint32_t>(g_space.pageblocks.bytes() / sizeof(pageblock)) - 1;
    buddy_.release(last * kPageblockPages, kPageblockPages, false);
    EXPECT_EQ(take_blocks(2), kNoPage);
    EXPECT_EQ(take_blocks(1), last * kPageblockPages);
}

TEST_F(BuddyTest, IsolatesWhatGivesMostFirst) {
    buddy_.release(0, 100, true);
    buddy_.release(kPageblockPages, 300, true);
    buddy_.release(2 * kPageblockPages, kPageblockPages, true);
    for (uint32_t expected : {2u, 1u, 0u}) {
        uint32_t block = ~0u;
        ASSERT_TRUE(buddy_.isolate_dirty(&block));
        EXPECT_EQ(block, expected);
    }
    EXPECT_EQ(buddy_.dirty_pages(), 0u);
    EXPECT_EQ(buddy_.free_pages(), 0u);
    EXPECT_EQ(take(0), kNoPage);
}

TEST_F(BuddyTest, IsolatedPagesComeBackCleanOrDirty) {
    for (bool dirty : {false, true}) {
        buddy_.release(8, 8, true);
        uint32_t block = ~0u;
        ASSERT_TRUE(buddy_.isolate_dirty(&block));
        EXPECT_FALSE(buddy_.isolate_dirty(&block));
        EXPECT_EQ(take(0), kNoPage);
        buddy_.unisolate(block, dirty);
        EXPECT_EQ(buddy_.free_pages(), 8u);
        EXPECT_EQ(buddy_.dirty_pages(), dirty ? 8u : 0u);
        EXPECT_TRUE(buddy_.consistent(kBlocks));
        EXPECT_EQ(take(3), 8u);
        EXPECT_EQ(dirty_ == 0, !dirty);
    }
}

TEST_F(BuddyTest, AForkChildFindsEverythingIsolated) {
    EXPECT_EQ(buddy_.any_isolated(), kNoPage);
    buddy_.release(0, 3 * kPageblockPages, true);
    uint32_t block = 0;
    for (int i = 0; i < 3; i++)
        ASSERT_TRUE(buddy_.isolate_dirty(&block));
    while (buddy_.any_isolated() != kNoPage)
        buddy_.unisolate(buddy_.any_isolated(), true);
    EXPECT_EQ(buddy_.free_pages(), 3 * kPageblockPages);
    EXPECT_EQ(buddy_.dirty_pages(), 3 * kPageblockPages); // nobody knows what the parent discarded
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, WholeCleanBlocksCanLeave) {
    buddy_.release(0, 4 * kPageblockPages - 1, false);
    hold(0);
    buddy_.block(1).flags = kBlockHugetlb;
    uint32_t block = 0;
    ASSERT_TRUE(buddy_.isolate_clean(&block));
    EXPECT_EQ(block, 2u);
    EXPECT_FALSE(buddy_.isolate_clean(&block)); // pinned, the pool's, and not whole
    buddy_.forget_isolated(2);
    EXPECT_EQ(buddy_.any_isolated(), kNoPage);
    EXPECT_EQ(buddy_.free_pages(), 3 * kPageblockPages - 1);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
    buddy_.release(2 * kPageblockPages, kPageblockPages, false);
    EXPECT_TRUE(buddy_.isolate_clean(&block));
    buddy_.unisolate(block, false);
    EXPECT_EQ(buddy_.free_pages(), 4 * kPageblockPages - 1);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, HeldBlocksHoldMemoryAndGoLast) {
    buddy_.release(0, 2 * kPageblockPages, false);
    hold(0);
    EXPECT_EQ(buddy_.dirty_pages(), kPageblockPages);
    EXPECT_EQ(buddy_.purgeable_pages(), kPageblockPages) << "somebody may let go of it";
    uint32_t block = 1;
    EXPECT_FALSE(buddy_.isolate_dirty(&block));
    ASSERT_TRUE(buddy_.isolate_held(false, &block));
    EXPECT_EQ(block, 0u);
    EXPECT_EQ(buddy_.purgeable_pages(), 0u);
    buddy_.block(0).flags |= kBlockRefused;
    buddy_.unisolate(0, true);
    EXPECT_FALSE(buddy_.isolate_held(false, &block));
    EXPECT_EQ(buddy_.purgeable_pages(), 0u);
    EXPECT_EQ(buddy_.purgeable_pages(true), kPageblockPages);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
    EXPECT_EQ(take(0), 0u); // in use again, and then free
    EXPECT_EQ(dirty_, 1u);
    EXPECT_EQ(buddy_.held_blocks(true), 0u);
    buddy_.release(0, 1, false);
    EXPECT_EQ(buddy_.dirty_pages(), kPageblockPages) << "what is held holds memory";
    EXPECT_TRUE(buddy_.isolate_held(false, &block));
    buddy_.pin(0, false);
    buddy_.unisolate(0, true);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
    EXPECT_TRUE(buddy_.isolate_dirty(&block));
}

TEST_F(BuddyTest, PinnedAndHugetlbBlocksAreNeverPurged) {
    buddy_.pin(0, true);
    buddy_.block(1).flags = kBlockHugetlb;
    buddy_.release(0, 2 * kPageblockPages, true);
    uint32_t block = 0;
    EXPECT_FALSE(buddy_.isolate_dirty(&block));
    EXPECT_EQ(buddy_.dirty_pages(), 2 * kPageblockPages);
}

TEST_F(BuddyTest, ExactPagesLieBackToBackInAPageblockInUse) {
    buddy_.release(0, kPageblockPages, false);
    EXPECT_EQ(take_exact(35), kNoPage) << "it breaks no whole one";
    ASSERT_EQ(take(0), 0u);
    for (uint32_t at = 1; at + 35 <= kPageblockPages; at += 35)
        EXPECT_EQ(take_exact(35), at);
    EXPECT_EQ(take_exact(35), kNoPage);
    EXPECT_EQ(buddy_.free_pages(), (kPageblockPages - 1) % 35);
    EXPECT_TRUE(buddy_.consistent(kBlocks));
}

TEST_F(BuddyTest, DebugBuildsDieOfADoubleRelease) {
    if (!kDebug)
        GTEST_SKIP() << "release builds assume that it does not happen";
    auto end = in_child([this] {
        buddy_.release(0, 1, false);
        buddy_.release(0, 1, false);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("invariant")) << end.errors;
}

// Random operations, and a map with the state of each page to compare with.
class model {
  public:
    model(buddy &b, uint64_t seed) : buddy_(b), random_(seed) {
        buddy_.release(0, kPages, false);
        std::fill_n(state_.get(), kPages, clean);
        free_ = kPages;
    }

    void run(uint64_t operations) {
        uint64_t target = kPages / 2; // of free pages; moves between a full zone and an empty one
        for (uint64_t i = 0; i < operations && !::testing::Test::HasFailure(); i++) {
            if (i % 50'000 == 0)
                target = random_.below(kPages);
            if (random_.one_in(500))
                purge();
            else if (random_.one_in(2000))
                take_blocks(1 + static_cast<uint32_t>(random_.below(3)));
            else if (random_.below(100) < (free_ > target ? 65u : 35u))
                random_.one_in(4) ? take_backed() : random_.one_in(2) ? take() : take_exact();
            else
                release();
            ASSERT_EQ(buddy_.free_pages(), free_);
            ASSERT_EQ(buddy_.dirty_pages(), dirty_);
            if (i % 200'000 == 0) {
                ASSERT_TRUE(buddy_.consistent(kBlocks));
            }
        }
        while (!runs_.empty() && !::testing::Test::HasFailure())
            release();
        EXPECT_TRUE(buddy_.consistent(kBlocks));
        EXPECT_EQ(buddy_.free_pages(), kPages);
        EXPECT_EQ(buddy_.free_blocks(kPageblockOrder), kBlocks); // everything merged
    }

  private:
    enum page_state : uint8_t { taken, clean, dirty, isolated };
    struct run_of_pages {
        uint32_t first;
        uint32_t count;
    };

    void take() {
        unsigned order = static_cast<unsigned>(__builtin_ctzll(random_.next() | 1u << 9));
        uint32_t pages = 1u << order;
        uint32_t marked = 0;
        uint32_t first = buddy_.take(order, &marked);
        if (first == kNoPage) {
            ASSERT_FALSE(has_free(pages, pages)) << "order " << order;
            return;
        }
        ASSERT_EQ(first % pages, 0u);
        take_out(first, pages, marked);
        uint32_t used = random_.one_in(4) ? 1 + static_cast<uint32_t>(random_.below(pages)) : pages;
        if (used < pages)
            put_back({first + used, pages - used}, marked != 0);
        runs_.push_back({first, used});
    }

    void take_exact() {
        // Lengths of page runs: an eighth of a power of two is their step.
        uint32_t count = (1 + static_cast<uint32_t>(random_.below(16)))
                         << static_cast<uint32_t>(random_.below(6));
        uint32_t marked = 0;
        bool look = random_.one_in(200); // it takes long
        uint32_t with_memory = look ? longest_run(true) : 0;
        uint32_t any = look ? longest_run(false) : 0;
        uint32_t first = buddy_.take_exact(count, &marked);
        if (look) {
            ASSERT_EQ(first != kNoPage, with_memory >= count || any >= count) << count << " pages";
        }
        if (with_memory >= count) {
            ASSERT_EQ(marked, count);
        }
        if (first == kNoPage)
            return;
        take_out(first, count, marked);
        runs_.push_back({first, count});
    }

    void take_backed() {
        uint32_t count = 1 + static_cast<uint32_t>(random_.skewed(7));
        unsigned order = random_.one_in(2) ? 0 : static_cast<unsigned>(random_.below(8));
        uint32_t align = 1u << order;
        uint32_t longest = random_.one_in(200) ? longest_run(true) : 0; // it takes long
        uint32_t first = buddy_.take_backed(count, order);
        if (first == kNoPage) {
            // It need not find a run that is hardly long enough.
            ASSERT_LT(longest, 2 * (count + align)) << count << " pages";
            return;
        }
        ASSERT_EQ(first % align, 0u);
        take_out(first, count, count);
        runs_.push_back({first, count});
    }

    void take_blocks(uint32_t count) {
        uint32_t marked = 0;
        uint32_t first = buddy_.take_blocks(count, 1, &marked);
        if (first == kNoPage) {
            ASSERT_FALSE(has_free(count * kPageblockPages, kPageblockPages)) << count << " blocks";
            return;
        }
        ASSERT_EQ(first % kPageblockPages, 0u);
        take_out(first, count * kPageblockPages, marked);
        runs_.push_back({first, count * kPageblockPages});
    }

    void release() {
        if (runs_.empty())
            return;
        run_of_pages &at = runs_[random_.below(runs_.size())];
        run_of_pages run = at;
        if (run.count > 1 && random_.one_in(4)) { // in two pieces
            uint32_t kept = 1 + static_cast<uint32_t>(random_.below(run.count - 1));
            at.count = kept;
            run = {run.first + kept, run.count - kept};
        } else {
            at = runs_.back();
            runs_.pop_back();
        }
        put_back(run, random_.one_in(2));
    }

    void purge() {
        uint32_t number = 0;
        if (!buddy_.isolate_dirty(&number)) {
            ASSERT_EQ(dirty_, 0u);
            return;
        }
        for (uint32_t i = 0; i < kPageblockPages; i++) {
            uint8_t &state = state_[number * kPageblockPages + i];
            if ((buddy_.block(number).isolated[i / 64] >> (i % 64) & 1) != 0) {
                ASSERT_TRUE(state == clean || state == dirty);
                free_--;
                dirty_ -= state == dirty;
                state = isolated;
            } else {
                ASSERT_NE(state, dirty);
            }
        }
        ASSERT_EQ(buddy_.free_pages(), free_);
        bool still_dirty = random_.one_in(4);
        buddy_.unisolate(number, still_dirty);
        for (uint32_t i = 0; i < kPageblockPages; i++) {
            uint8_t &state = state_[number * kPageblockPages + i];
            if (state != isolated)
                continue;
            state = still_dirty ? dirty : clean;
            free_++;
            dirty_ += still_dirty;
        }
    }

    void take_out(uint32_t first, uint32_t count, uint32_t said) {
        uint32_t marked = 0;
        for (uint32_t i = first; i < first + count; i++) {
            ASSERT_TRUE(state_[i] == clean || state_[i] == dirty) << "page " << i;
            marked += state_[i] == dirty;
            state_[i] = taken;
        }
        ASSERT_EQ(said, marked);
        free_ -= count;
        dirty_ -= marked;
    }

    void put_back(run_of_pages run, bool is_dirty) {
        buddy_.release(run.first, run.count, is_dirty);
        std::fill_n(state_.get() + run.first, run.count, is_dirty ? dirty : clean);
        free_ += run.count;
        dirty_ += is_dirty ? run.count : 0;
    }

    bool has_free(uint32_t count, uint32_t align) const {
        for (uint32_t at = 0; at + count <= kPages; at += align) {
            uint32_t n = 0;
            while (n < count && state_[at + n] != taken)
                n++;
            if (n == count)
                return true;
        }
        return false;
    }

    // Of dirty pages, or of free ones in pageblocks that are partly in use.
    uint32_t longest_run(bool of_dirty) const {
        uint32_t longest = 0;
        for (uint32_t block = 0; block < kPages; block += kPageblockPages) {
            uint32_t here = 0;
            for (uint32_t at = block, length = 0; at < block + kPageblockPages; at++) {
                bool wanted = of_dirty ? state_[at] == dirty : state_[at] != taken;
                length = wanted ? length + 1 : 0;
                here = std::max(here, length);
            }
            if (of_dirty || here < kPageblockPages)
                longest = std::max(longest, here);
        }
        return longest;
    }

    buddy &buddy_;
    random_numbers random_;
    std::unique_ptr<uint8_t[]> state_{new uint8_t[kPages]};
    std::vector<run_of_pages> runs_;
    uint64_t free_ = 0;
    uint64_t dirty_ = 0;
};

TEST_F(BuddyTest, AgreesWithAMapOfPages) {
    model m(buddy_, 1);
    m.run(test::operations());
}

} // namespace
} // namespace pagoda
