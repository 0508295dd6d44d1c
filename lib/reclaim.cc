#include "lib/reclaim.h"

#include "hugepage/address_space.h"
#include "hugepage/sys.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/oom.h"
#include "lib/shrinker.h"
#include "lib/thread.h"

#include <errno.h>

namespace pagoda {

std::atomic<uint32_t> g_memory_waiters{0};

namespace {

constexpr uint64_t kCostly = uint64_t{8} << kPageShift; // order 3
constexpr uint8_t kMaxIdle = 16;
// A shrinker that claims to free and does not must not keep malloc for ever. One round asks for all
// objects that there are.
constexpr uint8_t kMaxRounds = 64;
constexpr uint8_t kMaxResorts = 16;
// Frees that enter no slow path wake nobody: so long they stay unseen.
constexpr unsigned kWaitMs = 2;

std::atomic<uint32_t> free_events{0};
std::atomic<uint64_t> rounds{0};
std::atomic<uint64_t> objects_freed{0};
std::atomic<uint64_t> waits{0};

// What every CPU's caches keep goes back to the slabs and the zone.
void take_back(gfp_t gfp) {
    if (!heap_ready())
        return;
    slow_path scope;
    scope.limit(gfp);
    caches_drain();
}

// Until somebody frees memory, for a short time.
void wait_for_free(uint32_t seen) {
    waits.fetch_add(1, std::memory_order_relaxed);
    g_memory_waiters.fetch_add(1);
    sys::futex_wait_for(free_events, seen, kWaitMs);
    // A handler that forked meanwhile: its child counts from 0.
    for (uint32_t n = g_memory_waiters.load();
         n != 0 && !g_memory_waiters.compare_exchange_weak(n, n - 1);) {
    }
}

// Callbacks run as a shrinker may expect: their own allocations do not come back here.
class callbacks {
  public:
    callbacks() : opened_(pagoda_memalloc_save(PAGODA_SCOPE_NORECLAIM)), errno_(errno) {}
    ~callbacks() {
        errno = errno_;
        pagoda_memalloc_restore(opened_);
    }
    callbacks(const callbacks &) = delete;
    callbacks &operator=(const callbacks &) = delete;

  private:
    unsigned opened_;
    int errno_;
};

bool inside_reclaim() { return (t_thread.scopes & PAGODA_SCOPE_NORECLAIM) != 0; }

} // namespace

retry_rule retry_rule_for(gfp_t gfp, uint64_t bytes) {
    bool fs = (gfp & __GFP_FS) != 0;
    if (!gfpflags_allow_blocking(gfp) || bytes > kZoneSpan / 2)
        return {};
    if ((gfp & __GFP_NOFAIL) != 0)
        return {kMaxRounds, kMaxIdle, true, fs, true};
    if ((gfp & __GFP_NORETRY) != 0)
        return {1, 1, false, false, false};
    if ((gfp & __GFP_RETRY_MAYFAIL) != 0)
        return {kMaxRounds, kMaxIdle, true, false, false};
    if (bytes > kCostly)
        return {kMaxRounds, 1, false, false, false};
    return {kMaxRounds, kMaxIdle, false, fs, false};
}

reclaim_loop::reclaim_loop(gfp_t gfp, uint64_t bytes)
    : gfp_(gfp_now(gfp)), bytes_(bytes), rule_(retry_rule_for(gfp_, bytes)),
      priority_(kFirstPriority), seen_(free_events.load(std::memory_order_acquire)) {
    if (inside_reclaim() && !rule_.for_ever)
        rule_ = {};
}

bool reclaim_loop::again() {
    if (rule_.rounds == 0) {
        note_alloc_failure(gfp_, bytes_);
        return false;
    }
    if (!drained_) {
        drained_ = true;
        take_back(gfp_);
        return true;
    }
    bool once_more = shrink_step() || end_round();
    if (!once_more) {
        note_alloc_failure(gfp_, bytes_);
        rule_ = {};
    }
    return once_more;
}

// Goes on with the round until a priority frees something.
bool reclaim_loop::shrink_step() {
    if (inside_reclaim())
        return false;
    callbacks c;
    while (priority_ >= 0) {
        if (priority_ == kFirstPriority)
            rounds.fetch_add(1, std::memory_order_relaxed);
        shrink_result r = shrink_all(gfp_, priority_--);
        objects_freed.fetch_add(r.freed, std::memory_order_relaxed);
        if (r.freeable == 0)
            priority_ = -1;
        if (r.freed != 0) {
            progress_ = true;
            seen_ = free_events.load(std::memory_order_acquire);
            return true;
        }
    }
    return false;
}

bool reclaim_loop::end_round() {
    bool idle = !progress_;
    idle_ = idle ? static_cast<uint8_t>(idle_ + 1) : 0;
    progress_ = false;
    priority_ = kFirstPriority;
    rule_.rounds--;
    bool hopeless = idle_ >= rule_.idle || (!rule_.waits && !shrinkers_registered());
    if (hopeless || rule_.rounds == 0) {
        uint64_t freed = 0;
        if (rule_.last_resort && resorts_ < kMaxResorts && !inside_reclaim()) {
            callbacks c;
            freed = call_oom_notifiers();
        }
        if (freed == 0 && !rule_.for_ever)
            return false;
        resorts_ = rule_.for_ever ? 0 : static_cast<uint8_t>(resorts_ + 1);
        rule_.rounds = kMaxRounds;
        idle_ = 0;
    }
    if (idle && rule_.waits)
        wait_for_free(seen_);
    seen_ = free_events.load(std::memory_order_acquire);
    take_back(gfp_); // what was freed meanwhile may lie in any CPU's caches
    return true;
}

void wake_memory_waiters() {
    // Where there is no rseq nobody else can take what this thread caches.
    if (!percpu::has_rseq())
        caches_reclaim();
    free_events.fetch_add(1, std::memory_order_release);
    sys::futex_wake(free_events, INT32_MAX);
}

void reclaim_after_fork_in_child() { g_memory_waiters = 0; }

reclaim_stats reclaim_get_stats() { return {rounds.load(), objects_freed.load(), waits.load()}; }

} // namespace pagoda
