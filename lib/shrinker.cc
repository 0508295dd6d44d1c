#include "lib/shrinker.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/misuse.h"
#include "lib/thread.h"

#include <pagoda/shrinker.h>

#include <stdarg.h>
#include <stdio.h>

namespace pagoda {
namespace {

struct record : ::shrinker {
    record *next;
    uint64_t deferred; // objects that earlier calls did not get to
    bool registered;
    bool leaving; // shrinker_free waits for the last callback
    char name[64];
};

// A shrinker at work, on the stack of the thread that runs its callbacks. It pins the record, and
// with it its place in the list.
struct visit {
    record *of;
    const thread_state *thread;
    visit *next;
};

mutex lock{lock_rank::hooks};
record *first = nullptr; // both under the lock
visit *visits = nullptr;
std::atomic<uint32_t> registered{0};
std::atomic<uint32_t> left{0}; // counts ends of visits to shrinkers that leave

// The next shrinker at or behind `r` that may be called, pinned. The lock is held.
record *pin(record *r, gfp_t gfp, visit *v) {
    unsigned refused =
        ((gfp & __GFP_IO) == 0 ? SHRINKER_IO : 0u) | ((gfp & __GFP_FS) == 0 ? SHRINKER_FS : 0u);
    while (r != nullptr && (r->leaving || (r->flags & refused) != 0))
        r = r->next;
    if (r != nullptr) {
        *v = {r, &t_thread, visits};
        visits = v;
    }
    return r;
}

void unpin(const visit *v) {
    visit **at = &visits;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    if (v->of->leaving) {
        left.fetch_add(1);
        sys::futex_wake(left, INT32_MAX);
    }
}

bool is_visited(const record *r) {
    for (const visit *v = visits; v != nullptr; v = v->next)
        if (v->of == r)
            return true;
    return false;
}

bool is_visited_here(const record *r) {
    for (const visit *v = visits; v != nullptr; v = v->next)
        if (v->of == r && v->thread == &t_thread)
            return true;
    return false;
}

// Both callbacks of one shrinker, with no lock held.
shrink_result shrink_one(record *r, gfp_t gfp, int priority) {
    shrink_control sc = {gfp, 0, 0, 0};
    uint64_t freeable = r->count_objects(r, &sc);
    if (freeable == 0 || freeable == SHRINK_EMPTY)
        return {0, 0};
    std::atomic_ref<uint64_t> deferred(r->deferred);
    uint64_t late = deferred.exchange(0, std::memory_order_relaxed);
    uint64_t share = shrink_share(freeable, 0, priority, r->seeks);
    uint64_t left_over = late + share;
    uint64_t todo = shrink_share(freeable, late, priority, r->seeks);
    uint64_t batch = r->batch > 0 ? static_cast<uint64_t>(r->batch) : SHRINK_BATCH;
    uint64_t freed = 0;
    // Less than a batch waits for a later call, unless it is all there is.
    while (todo >= min_of(batch, freeable)) {
        sc.nr_to_scan = min_of(batch, todo);
        sc.nr_scanned = sc.nr_to_scan;
        uint64_t n = r->scan_objects(r, &sc);
        if (n == SHRINK_STOP)
            break;
        freed += n;
        // A shrinker that says it looked at none would be asked for ever.
        uint64_t scanned = max_of(uint64_t{sc.nr_scanned}, uint64_t{1});
        todo -= min_of(todo, scanned);
        left_over -= min_of(left_over, scanned);
    }
    deferred.fetch_add(min_of(left_over, 2 * freeable), std::memory_order_relaxed);
    return {freed, freeable};
}

} // namespace

uint64_t shrink_share(uint64_t freeable, uint64_t deferred, int priority, int seeks) {
    uint64_t share =
        seeks > 0 ? (freeable >> priority) * 4 / static_cast<uint64_t>(seeks) : freeable / 2;
    return min_of(share + (deferred >> priority), 2 * freeable);
}

bool shrinkers_registered() { return registered.load(std::memory_order_relaxed) != 0; }

shrink_result shrink_all(gfp_t gfp, int priority) {
    PAGODA_INVARIANT(t_thread.depth == 0);
    shrink_result all = {0, 0};
    if (!shrinkers_registered())
        return all;
    visit v;
    record *r = nullptr;
    {
        slow_path scope;
        lock_guard g(lock);
        r = pin(first, gfp, &v);
    }
    while (r != nullptr) {
        shrink_result one = shrink_one(r, gfp, priority);
        all.freed += one.freed;
        all.freeable += one.freeable;
        slow_path scope;
        lock_guard g(lock);
        unpin(&v);
        r = pin(r->next, gfp, &v); // still in the list: whoever frees it needs this lock
    }
    return all;
}

mutex &shrinkers_lock() { return lock; }

void shrinkers_after_fork_in_child() {
    for (visit **at = &visits; *at != nullptr;) {
        if ((*at)->thread == &t_thread)
            at = &(*at)->next;
        else
            *at = (*at)->next;
    }
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT struct shrinker *pagoda_shrinker_alloc(unsigned int flags, const char *fmt, ...) {
    if (!kernel_api_enter(GFP_KERNEL))
        return nullptr;
    auto *r = static_cast<record *>(heap_alloc(sizeof(record), GFP_KERNEL | __GFP_ZERO));
    if (r == nullptr)
        return nullptr;
    r->flags = flags;
    r->seeks = DEFAULT_SEEKS;
    va_list arguments;
    va_start(arguments, fmt);
    vsnprintf(r->name, sizeof r->name, fmt, arguments);
    va_end(arguments);
    return r;
}

PAGODA_EXPORT void pagoda_shrinker_register(struct shrinker *shrinker) {
    auto *r = static_cast<record *>(shrinker);
    slow_path scope;
    lock_guard g(lock);
    if (r->registered)
        return;
    record **at = &first; // called in the order of registration
    while (*at != nullptr)
        at = &(*at)->next;
    *at = r;
    r->registered = true;
    registered.fetch_add(1);
}

PAGODA_EXPORT void pagoda_shrinker_free(struct shrinker *shrinker) {
    auto *r = static_cast<record *>(shrinker);
    if (r == nullptr)
        return;
    if (r->registered) {
        slow_path scope;
        lock.lock();
        if (is_visited_here(r)) {
            lock.unlock();
            text_buffer<160> line;
            line << "shrinker_free(" << r->name << ") in a callback of that shrinker";
            misuse(line);
            return;
        }
        r->leaving = true;
        while (is_visited(r)) {
            uint32_t seen = left.load();
            lock.unlock();
            sys::futex_wait(left, seen);
            lock.lock();
        }
        record **at = &first;
        while (*at != r)
            at = &(*at)->next;
        *at = r->next;
        registered.fetch_sub(1);
        lock.unlock();
    }
    heap_free(r, GFP_KERNEL);
}
