// The zone: pages with watermarks, growth from the configured providers (hugetlb,
// THP, base pages), and the bound on free memory that is kept. All of malloc's, slabs' and page
// runs' pages come from here.
#pragma once

#include "hugepage/absent.h"
#include "hugepage/buddy.h"
#include "hugepage/limits.h"
#include "hugepage/lock.h"
#include "hugepage/reserve.h"

#include <pagoda/gfp.h>

namespace pagoda {

inline constexpr uint64_t kDirtyCap = uint64_t{1} << 30; // of what lives, and of the bonus

// From this much live memory on it is made of huge pages where it can be.
inline constexpr uint64_t kHugeHeap = 8 << 20;
// Memory that is wanted again so soon was given back too early.
inline constexpr uint64_t kRefaultWindowMs = 1000;

// What the caller may assume about pages it just got.
struct page_state {
    bool zeroed; // they read as zero
    bool backed; // they hold memory already: touching them faults nothing
};

struct zone_stats {
    uint64_t present;       // pages that are mapped
    uint64_t spanned;       // pages from the zone's first to its last, holes included
    uint64_t free;          // pages
    uint64_t dirty;         // free pages that hold memory, without the reserve's
    uint64_t reserved;      // free pages in the reserve
    uint64_t hugetlb;       // pages from the hugetlb pool
    uint64_t huge_blocks;   // pageblocks made of transparent huge pages
    uint64_t allocated;     // pages handed out, ever
    uint64_t released;      // pages taken back, ever
    uint64_t purged;        // pages given back to the kernel, ever
    uint64_t peak_bytes;    // the most that this zone and vmalloc ever had mapped
    uint64_t refault_bonus; // bytes by which quick refaults have raised the dirty bound
    uint64_t set_aside;     // pages that somebody else manages
};

// Above 0: nothing that this thread does gives memory back to the system (no __GFP_IO).
extern PAGODA_INTERNAL constinit thread_local uint32_t t_keeps_memory
    __attribute__((tls_model("initial-exec")));
inline bool may_give_back() { return t_keeps_memory == 0; }

class zone {
  public:
    // `count` pages in a row, their first aligned to 2^align_order pages (at most 1 GiB). Blocking
    // flags may map memory, purge and wait for the lock. Others return kNoPage instead of any of
    // that, get pages that hold memory already, 512 at most, and by kReserveRules have the reserve
    // after the rest.
    uint32_t alloc(uint32_t count, unsigned align_order, gfp_t gfp, page_state *state);

    // Gives pages back, in one piece or in several. `dirty`: they may hold memory. It never waits:
    // where another thread has the lock, the pages are on a list of which the next holder takes
    // them. Only with blocking flags may it purge.
    void free(uint32_t first, uint32_t count, bool dirty, gfp_t gfp);
    // Takes the pages off that list. Blocking.
    void finish_frees();

    // Gives free memory back to the kernel until at most `keep` bytes of it are held; whole
    // pageblocks with their addresses where those are limited. Returns bytes; 0 too where another
    // thread is at it. Without `may_wait` it ends where another thread has the zone's lock.
    uint64_t purge(uint64_t keep, bool may_wait = true);
    // Takes back what the layers above keep free. Waits for another thread that is at it.
    void reclaim();
    // A mapping of `wanted` bytes was refused: gives back all that can be, caches above included,
    // memory and addresses. Waits for another thread that is at it; then it is worth one more try.
    void squeeze(uint64_t wanted);

    // Memory of the vmalloc range, which shares the dirty bound. Deltas in bytes.
    void note_vmalloc(int64_t live, int64_t dirty);
    // Memory unmapped by vmalloc came back within a second.
    void note_refault(uint64_t bytes);
    // Called before memory is mapped elsewhere: free dirty memory beyond the bound without its
    // bonus pays for it.
    void make_room();
    // What is in use, of the zone and of vmalloc; what was set aside is not.
    uint64_t live_bytes() const;
    // `count` whole pageblocks in a row, the first aligned as by alloc(), for somebody who manages
    // them himself; kNoPage at a limit. Blocks.
    uint32_t set_aside(uint32_t count, unsigned align_order = kPageblockOrder);
    // Before pageblocks that are set aside are mapped anew. False: they are parts of larger pages,
    // or held. No locks held that the library above waits for.
    bool begin_other_mapping(uint32_t first_block, uint32_t count);
    // They are private pages of the zone again.
    void end_other_mapping(uint32_t first_block, uint32_t count);
    // Gives their memory back to the kernel, all or some. True: they read as zero.
    bool discard_set_aside(uint32_t first, uint32_t count);
    // Gives pages of them back, all or some; `dirty` as in free(). Blocks.
    void free_set_aside(uint32_t first, uint32_t count, bool dirty);
    // Called before `bytes` more are mapped: under a limit on memory, what is kept free, here and
    // in the caches above, must not add up with it to more than the limit.
    void pay_for(uint64_t bytes) {
        if (PAGODA_UNLIKELY(limit_ != kNoLimit))
            pay_under_limit(bytes);
    }
    // What this process may have; from zones_init(), before anything is allocated.
    void set_limits(const memory_limits &limits);

    // Memory that is in use or kept free, here and in the vmalloc range, in bytes: what limit=SIZE
    // bounds.
    uint64_t committed();
    // Before vmalloc maps `bytes`: false, and nothing happened, where that would pass the limit
    // even after all that is kept free was given back. Blocking.
    bool charge(uint64_t bytes);
    // After it unmapped them, or where they could not be mapped.
    void uncharge(uint64_t bytes) { areas_.fetch_sub(bytes, std::memory_order_relaxed); }
    // How much dirty memory may be kept now, and whether more is.
    uint64_t dirty_bound();
    bool over_dirty_bound();

    // Stocks the reserve: whole pageblocks, populated. False: there is less; blocking callers that
    // come by try again.
    bool set_reserve(uint64_t bytes);
    uint64_t watermark_pages(watermark w) const { return watermark_of(reserve_.target(), w); }
    // From now on every page that leaves the zone holds memory, and so does every one that came
    // back and was not purged, the tables that describe them too. Blocking.
    void keep_backed();
    // A blocking caller should call restock(): it refills the reserve, or gives back what is a
    // pageblock too much. A free does not wait for locks.
    bool wants_restock() const {
        return reserve_.is_short() || reserve_.free_pages() >= reserve_.target() + kPageblockPages;
    }
    void restock(bool may_wait);

    // Holds a pageblock with a live page in it, or ends that. 0; -EFAULT: it is not all there, or
    // not the zone's; -ENOMEM. Blocks.
    int hold_block(uint32_t number);
    void unhold_block(uint32_t number);
    // There is memory of the zone's own behind this page's address: nobody else's, and not given
    // to somebody who maps other memory there. Blocks.
    bool is_ordinary(uint32_t page);
    // One of the pageblocks of these pages is held. A hint, but for who keeps purges out.
    bool is_held(uint32_t first, uint32_t count) const;

    // Set by the layers that keep memory above: `take_back` drops all of it, `purge_areas` what the
    // vmalloc range keeps free beyond so many bytes, `purge_held_areas` the same where devices
    // reach it, called without locks.
    void set_reclaim(void (*take_back)(), uint64_t (*purge_areas)(uint64_t keep),
                     uint64_t (*purge_held_areas)(uint64_t keep) = nullptr) {
        reclaim_ = take_back;
        purge_areas_ = purge_areas;
        purge_held_areas_ = purge_held_areas;
    }

    // The hugetlb option's budget and the kernel's pool are not used up yet.
    bool hugetlb_left() const;

    zone_stats stats();
    bool consistent();

    mutex &lock() { return lock_; }
    mutex &reserve_lock() { return reserve_.lock(); }
    void after_fork_in_child();
    // First growth; once, from zones_init().
    bool start();

  private:
    bool grow(uint32_t blocks, unsigned order, unsigned align_order);
    bool extend(uint32_t pages);
    bool extend_hugetlb();
    bool tables_reach(uint64_t end_page);
    uint32_t alloc_blocking(uint32_t count, unsigned align_order, unsigned order,
                            page_state *state);
    uint32_t alloc_at_once(uint32_t count, unsigned align_order, unsigned order, gfp_t gfp,
                           page_state *state);
    uint32_t take_backed(uint32_t count, unsigned align_order, page_state *state);
    uint32_t take(uint32_t count, unsigned order, unsigned align_order, page_state *state);
    uint32_t take_exact(uint32_t count, page_state *state);
    void note_taken_again(uint32_t first, uint32_t count);
    void note_taken(uint32_t first, uint32_t count, uint32_t got, uint32_t dirty,
                    page_state *state);
    bool want_huge(unsigned order) const;
    uint32_t take_huge_block(uint32_t count, unsigned order, page_state *state);
    void release_locked(uint32_t first, uint32_t count, bool dirty);
    void defer(uint32_t first, uint32_t count, bool dirty);
    void finish_frees_locked();
    void leave_to_holder();
    void give_back(uint32_t first, uint32_t count, bool dirty, bool may_spin);
    void unlock();
    void balance();
    uint32_t take_for_reserve(bool may_wait);
    bool populate(uint32_t first, uint32_t count);
    uint64_t committed_locked() const;
    bool within_limit(uint64_t pages) const;
    void give_back_for(uint64_t bytes, bool all);
    uint64_t decayed_bonus();
    void note_peak();
    uint64_t base_bound() const;
    uint64_t limit_bound(uint64_t wanted) const;
    void pay_under_limit(uint64_t bytes);
    bool lock_as(bool may_wait);
    bool purge_once(uint64_t keep, bool may_wait, uint64_t *done);
    void give_back_excess(uint64_t bytes, bool all);
    bool complete(uint32_t number);
    void unpin(uint32_t number);
    bool let_go(uint64_t keep, bool may_wait);
    void end_let_go(uint32_t number, bool gone);
    bool let_go_block(uint32_t number);
    void forget_holds_in_child();
    uint64_t purge_dirty(uint64_t keep, bool addresses_too, bool may_wait);
    uint64_t unmap_clean(uint64_t keep, bool may_wait);
    bool purge_isolated(uint32_t number, bool unmap, bool may_wait, uint64_t *done, purge_end *end);
    bool discard_isolated(uint32_t number, uint64_t *done);
    void end_purge(uint32_t number, purge_end end);
    void finish_purges_locked();
    bool begin_leaving(uint32_t number);
    bool unmap_block(uint32_t number);
    void note_absent(uint32_t number);
    void step_back();
    bool is_last(uint32_t number) const;
    bool map_absent(uint32_t blocks);
    bool map_absent_at(uint32_t first, uint32_t blocks, int *error);

    mutex lock_{lock_rank::zone};
    mutex purge_lock_{lock_rank::purge};
    buddy buddy_;
    reserve reserve_;
    std::atomic<uint32_t> deferred_{0};    // freed without the lock: page index + 1, linked
    std::atomic<bool> purges_left_{false}; // some ended without the lock
    std::atomic<bool> keep_backed_{false};
    std::atomic<uint64_t> refill_pause_until_{0}; // ms
    std::atomic<uint64_t> areas_{0};              // bytes that vmalloc has mapped or is about to
    absent_blocks absent_;
    uint64_t end_ = 0;             // first page index not in the zone yet
    uint64_t present_ = 0;         // pages
    bool tail_extensible_ = false; // the mapping that ends at end_ is ours and can grow
    uint64_t hugetlb_pages_ = 0;
    bool hugetlb_empty_ = false; // the kernel's pool has no more
    uint64_t huge_blocks_ = 0;
    uint64_t allocated_ = 0;
    uint64_t released_ = 0;
    std::atomic<uint64_t> purged_{0};
    uint64_t set_aside_ = 0; // pages
    std::atomic<int64_t> vmalloc_live_{0};
    std::atomic<int64_t> vmalloc_dirty_{0};
    std::atomic<uint64_t> peak_bytes_{0};
    std::atomic<uint64_t> bonus_{0};
    std::atomic<uint64_t> bonus_second_{0};
    std::atomic<bool> tight_{false}; // addresses are short: what is purged is unmapped
    // By set_limits(); zero before, so that the zones are of zeros and cost no page of the file.
    uint64_t bonus_cap_ = 0;
    uint64_t limit_ = 0; // bytes of memory or addresses that all of this may take
    std::atomic<uint64_t> purge_pause_until_{0}; // ms: the kernel refused (mlocked memory)
    void (*reclaim_)() = nullptr;
    uint64_t (*purge_areas_)(uint64_t keep) = nullptr;
    uint64_t (*purge_held_areas_)(uint64_t keep) = nullptr;
    bool ever_held_ = false;
};

extern PAGODA_INTERNAL zone g_zone_normal;
// What malloc's memory is made of, and all of it that no flag asks of another zone. DMA and DMA32
// are pageblocks set aside here: lib/device_pages.h.
inline zone &zone_normal() { return g_zone_normal; }

// Called once, after address_space_init: makes the pagemap readable.
bool zones_init();

} // namespace pagoda
