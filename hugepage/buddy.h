// The buddy allocator of one zone, over page indices. Free blocks are bits in their pageblock's
// own record, never links in the free memory itself, so purged pages stay untouched. No locks and
// no system calls here: the zone has them.
#pragma once

#include "hugepage/base.h"
#include "hugepage/page.h"
#include "hugepage/purge.h"

namespace pagoda {

// One 2 MiB pageblock. Free blocks of order o (0..9) are bits [2^(9-o), 2^(10-o)) of `free`: the
// numbering of a binary heap, so a block's buddy is its number ^ 1 and its parent number / 2.
struct pageblock {
    uint64_t free[16];
    uint64_t pages[8];    // the same by page: free ones
    uint64_t dirty[8];    // free pages that hold memory (not fresh, not purged)
    uint64_t isolated[8]; // pages out with a purge
    uint32_t next[14];    // by list (see `buddy`); pageblock number + 1, 0 = end
    uint32_t prev[14];
    uint16_t blocks[10];     // free blocks per order
    uint16_t nfree;          // pages
    uint16_t ndirty;         // pages, among the free ones
    uint16_t longest;        // run of free pages
    uint16_t longest_dirty;  // run of dirty ones
    uint16_t isolated_clean; // isolated pages that hold no memory
    uint8_t bucket[14];      // bucket of each list the block is in + 1, 0 = none
    uint8_t flags;
    uint32_t pins;      // 1: held for devices, see hugepage/block_hold.cc; never purged
    uint32_t purged_at; // ms; 0 = never
    uint32_t isolated_next;
    std::atomic<purge_end> purge_ended; // without the zone's lock
    std::atomic<bool> reserved;         // a zone's reserve has it: see hugepage/reserve.h
    std::atomic<uint8_t> device;        // it is memory for devices: see lib/device_pages.h
};
static_assert(sizeof(pageblock) <= 512);

inline constexpr uint8_t kBlockHugetlb = 1;  // backed by the hugetlb pool: never purged
inline constexpr uint8_t kBlockLeaving = 2;  // isolated, and about to be unmapped
inline constexpr uint8_t kBlockAbsent = 4;   // unmapped: see hugepage/absent.h
inline constexpr uint8_t kBlockOrdinary = 8; // up to its end ordinary pages of the zone
inline constexpr uint8_t kBlockRefused = 16; // held, wholly free, and refused when it was asked for

class buddy {
  public:
    // Pages [first, first + count) become free. `dirty`: they may hold memory and old bytes.
    void release(uint32_t first, uint32_t count, bool dirty);

    // Each of the next three says in *dirty how many of the pages it took hold memory; 0: they
    // read as zero.

    // A block of 2^order pages, order <= 9: the smallest order that has one, in the fullest
    // pageblock among equals, at the lowest address there. kNoPage when there is none.
    uint32_t take(unsigned order, uint32_t *dirty);

    // `count` pages (<= 512) in a row, whatever their alignment: the shortest run that is long
    // enough, among those that hold memory if there is one. kNoPage: only whole pageblocks that
    // hold none are left; take() serves.
    uint32_t take_exact(uint32_t count, uint32_t *dirty);

    // `count` whole pageblocks in a row, the first at a multiple of `align` (order 10 and more).
    // Rare, so it searches.
    uint32_t take_blocks(uint32_t count, uint32_t align, uint32_t *dirty);

    // `count` pages (<= 512) in a row that all hold memory, their first aligned to 2^align_order.
    // Looks at so many pageblocks only: kNoPage does not say that there are none.
    uint32_t take_backed(uint32_t count, unsigned align_order);

    // True when take(order) would have to break a whole free pageblock that holds no memory.
    bool would_break_clean(unsigned order) const;

    // Takes the free, dirty pages of the pageblock that has most to give (whole ones first) off
    // the free lists and into its `isolated` map. False when nothing is dirty.
    bool isolate_dirty(uint32_t *block);
    // The same with a whole free pageblock that holds no memory. False when there is none.
    bool isolate_clean(uint32_t *block);
    // Ends it: the isolated pages are free again, clean or dirty.
    void unisolate(uint32_t block, bool dirty);
    // Ends it: the isolated pages, a whole pageblock, are not there any more.
    void forget_isolated(uint32_t block);
    // A pageblock that is isolated; kNoPage: none.
    uint32_t any_isolated() const { return isolated_head_ != 0 ? isolated_head_ - 1 : kNoPage; }

    uint32_t next_isolated(uint32_t block_number) const {
        uint32_t next = block(block_number).isolated_next;
        return next != 0 ? next - 1 : kNoPage;
    }

    // Holds a pageblock, or ends that: while it is held, free pages in it hold memory, and
    // isolate_dirty() passes it by.
    void pin(uint32_t block, bool held);
    // Takes the free pages of a pageblock that hold no memory; their bits.
    void take_clean(uint32_t block, uint64_t (&pages)[8]);
    // Isolates a wholly free held pageblock; with `again` also one that was refused. False: none.
    bool isolate_held(bool again, uint32_t *block);
    // How many there are.
    uint64_t held_blocks(bool again) const { return held_[0] + (again ? held_[1] : 0); }
    // Dirty pages that can be purged, or will be once somebody lets go of them.
    uint64_t purgeable_pages(bool again = false) const {
        return dirty_pages_ - held_dirty_ + held_blocks(again) * kPageblockPages;
    }

    uint64_t free_pages() const { return free_pages_; }
    uint64_t dirty_pages() const { return dirty_pages_; }
    // Isolated pages that held no memory when they were.
    uint64_t isolated_clean_pages() const { return isolated_clean_; }
    uint64_t free_blocks(unsigned order) const { return total_blocks_[order]; }
    pageblock &block(uint32_t number) const { return g_space.pageblocks.as<pageblock>()[number]; }

    // Walks every list and map and checks that they agree (tests, debug); of the pageblocks that
    // a reserve has, or of the others.
    bool consistent(uint32_t blocks, bool reserved = false) const;

  private:
    // Lists of pageblocks: [0..9] those with a free block of that order, the fullest first; then by
    // dirty pages, by the longest run of dirty pages, and by the longest run of free ones; and
    // those that are held and wholly free.
    static constexpr unsigned kDirtyList = 10;
    static constexpr unsigned kDirtyRuns = 11;
    static constexpr unsigned kFreeRuns = 12;
    static constexpr unsigned kHeldList = 13;
    static constexpr unsigned kLists = 14;
    static constexpr unsigned kBuckets = 57;
    static constexpr unsigned kWholeRun = 56; // bucket of a run that is the whole pageblock

    void mark(pageblock &b, unsigned order, uint32_t node, bool is_free);
    void insert(pageblock &b, unsigned order, uint32_t node);
    void carve(pageblock &b, uint32_t offset, uint32_t count);
    void insert_range(pageblock &b, uint32_t offset, uint32_t count);
    uint32_t take_run(unsigned list, unsigned last_bucket, uint32_t count, uint32_t *dirty);
    uint32_t take_pages(pageblock &b, uint32_t offset, uint32_t count);
    void relist(uint32_t number);
    void note_isolated(pageblock &b, int32_t clean);
    void link_isolated(uint32_t number);
    void unlink_isolated(uint32_t number);
    void link(uint32_t number, unsigned list, unsigned bucket);
    void unlink(uint32_t number, unsigned list);
    static unsigned bucket_for(const pageblock &b, unsigned list);
    static bool belongs(const pageblock &b, unsigned list);

    uint32_t heads_[kLists][kBuckets] = {};
    uint32_t tails_[kLists][kBuckets] = {};
    uint64_t filled_[kLists] = {}; // buckets with pageblocks
    uint64_t free_pages_ = 0;
    uint64_t dirty_pages_ = 0;
    uint64_t held_dirty_ = 0; // in held pageblocks
    uint64_t held_[2] = {};   // wholly free held pageblocks; refused ones
    uint64_t isolated_clean_ = 0;
    uint64_t total_blocks_[10] = {};
    uint32_t isolated_head_ = 0;
};

} // namespace pagoda
