#include "lib/rcu.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/percpu.h"
#include "lib/thread.h"

#include <pagoda/rcupdate.h>
#include <pagoda/slab.h>

namespace pagoda {
namespace {

// Readers count in one of these by CPU, so that they rarely share a line. A section may end on
// another one than it began on: only the sums matter.
constexpr unsigned kCounters = 64;
struct alignas(64) section_counters {
    std::atomic<uint64_t> begun[2];
    std::atomic<uint64_t> ended[2];
};
section_counters counters[kCounters];
// The set that readers enter, in bit 0; above it how many forks lie behind this process.
std::atomic<uint32_t> current{0};

// What one grace period was for, while a thread deals with it; on that thread's stack.
struct batch {
    rcu_item *items = nullptr;
    uint64_t number = 0;
    batch *next = nullptr;
};

mutex lock{lock_rank::grace};
bool busy = false;        // a grace period is under way, for `waiting`
uint32_t flips = 0;       // of it: 0 or 1 done
uint64_t periods = 0;     // begun, that one included
batch *at_work = nullptr; // what threads deal with

std::atomic<rcu_item *> fresh{nullptr}; // deferred; wait for the next grace period
rcu_item *waiting = nullptr;            // wait for the one under way
std::atomic<uint64_t> items{0};

// Another implementation, once one is set; its end of the grace period under way.
std::atomic<bool> used{false};
std::atomic<bool> have_ops{false};
pagoda_rcu_ops ops;
rcu_head batch_head;
std::atomic<bool> batch_over{false};

section_counters &my_counters() {
    uintptr_t by = reinterpret_cast<uintptr_t>(percpu::current_slot()) >> kSlotShift;
    return counters[by % kCounters];
}

// No section of this set is open that began before. The order is what makes it safe: a section
// that is missed among the begun is missed among the ended, too.
bool drained(uint32_t set) {
    uint64_t ended = 0;
    uint64_t begun = 0;
    for (section_counters &c : counters)
        ended += c.ended[set].load(std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    for (section_counters &c : counters)
        begun += c.begun[set].load(std::memory_order_seq_cst);
    return begun == ended;
}

// One step of the grace period under way; true when it is over. Under the lock. Readers may be
// about to enter the set that was left before the last flip, so each set is waited for once.
bool step() {
    if (have_ops.load(std::memory_order_relaxed))
        return batch_over.load(std::memory_order_acquire);
    if (flips == 0) {
        if (!drained(~current.load(std::memory_order_relaxed) & 1))
            return false;
        current.fetch_xor(1, std::memory_order_seq_cst);
        flips = 1;
    }
    return drained(~current.load(std::memory_order_relaxed) & 1);
}

// Moves on as far as it goes without waiting. What is ready is the caller's, for finish().
void advance(batch &ready) {
    bool begins = false;
    {
        slow_path scope;
        if (scope.nested())
            return;
        lock_guard g(lock);
        if (busy && step()) {
            ready = {waiting, periods, at_work};
            at_work = &ready;
            waiting = nullptr;
            busy = false;
        }
        begins = !busy && fresh.load(std::memory_order_relaxed) != nullptr;
        if (begins) {
            waiting = fresh.exchange(nullptr, std::memory_order_acq_rel);
            busy = true;
            periods++;
            flips = 0;
            batch_over.store(false, std::memory_order_relaxed);
        }
    }
    if (begins && have_ops.load(std::memory_order_relaxed)) // not under the lock: it may allocate
        ops.call(&batch_head,
                 [](rcu_head *) { batch_over.store(true, std::memory_order_release); });
}

// `done` below this is the distance from the object to its item: kfree_rcu's.
constexpr uintptr_t kMaxDistance = 4096;

void finish(const batch &ready) {
    if (ready.items == nullptr)
        return;
    for (rcu_item *next, *item = ready.items; item != nullptr; item = next) {
        next = item->next;
        uintptr_t distance = reinterpret_cast<uintptr_t>(item->done);
        if (distance < kMaxDistance)
            heap_free(reinterpret_cast<char *>(item) - distance, GFP_KERNEL);
        else
            item->done(item);
        items.fetch_sub(1, std::memory_order_release);
    }
    slow_path scope;
    lock_guard g(lock);
    batch **at = &at_work;
    while (*at != nullptr && *at != &ready)
        at = &(*at)->next;
    if (*at != nullptr) // nobody is at work in a child of fork
        *at = ready.next;
}

// The grace period that the newest item waits for.
uint64_t newest() {
    slow_path scope;
    lock_guard g(lock);
    return periods + (fresh.load(std::memory_order_acquire) != nullptr ? 1 : 0);
}

// Whether all that waited for this grace period and those before is dealt with.
bool is_over(uint64_t number) {
    slow_path scope;
    lock_guard g(lock);
    bool over = periods > number || (periods == number && !busy);
    for (const batch *b = at_work; b != nullptr; b = b->next)
        over = over && b->number > number;
    return over;
}

uint64_t length(const rcu_item *list) {
    uint64_t n = 0;
    for (; list != nullptr; list = list->next)
        n++;
    return n;
}

// kfree_rcu of an object without a field for it.
struct detached {
    rcu_item item;
    void *object;
};

void finish_detached(rcu_item *item) {
    detached *d = reinterpret_cast<detached *>(item);
    heap_free(d->object, GFP_KERNEL);
    heap_free(d, GFP_KERNEL);
}

bool is_nothing(const void *object) { return ZERO_OR_NULL_PTR(object); }

} // namespace

mutex &rcu_lock() { return lock; }

void rcu_defer(rcu_item *item, void (*done)(rcu_item *item)) {
    used.store(true);
    item->done = done;
    items.fetch_add(1, std::memory_order_relaxed);
    rcu_item *head = fresh.load(std::memory_order_relaxed);
    do
        item->next = head;
    while (!fresh.compare_exchange_weak(head, item, std::memory_order_release,
                                        std::memory_order_relaxed));
}

void rcu_poll() {
    if (PAGODA_LIKELY(items.load(std::memory_order_relaxed) == 0))
        return;
    batch ready;
    advance(ready);
    finish(ready);
}

void rcu_barrier() {
    if (items.load(std::memory_order_acquire) == 0)
        return;
    for (uint64_t last = newest(); !is_over(last);) {
        batch ready;
        advance(ready);
        finish(ready);
        if (ready.items == nullptr && !is_over(last))
            sys::nap(50);
    }
}

uint64_t rcu_waiting() { return items.load(std::memory_order_relaxed); }

// The sections of the parent's other threads will not end here, nor what they were dealing with.
void rcu_after_fork_in_child() {
    for (section_counters &c : counters) {
        for (std::atomic<uint64_t> *n : {&c.begun[0], &c.begun[1], &c.ended[0], &c.ended[1]})
            n->store(0);
    }
    current.fetch_add(2); // sections that end here but began before are not counted
    at_work = nullptr;
    items.store(length(waiting) + length(fresh.load()));
}

PAGODA_EXPORT int pagoda_rcu_read_lock(void) {
    if (have_ops.load(std::memory_order_acquire))
        return ops.read_lock();
    uint32_t section = current.load(std::memory_order_acquire);
    my_counters().begun[section & 1].fetch_add(1, std::memory_order_seq_cst);
    return static_cast<int>(section);
}

PAGODA_EXPORT void pagoda_rcu_read_unlock(int section) {
    if (have_ops.load(std::memory_order_acquire))
        ops.read_unlock(section);
    else if (((static_cast<uint32_t>(section) ^ current.load(std::memory_order_relaxed)) >> 1) == 0)
        my_counters().ended[section & 1].fetch_add(1, std::memory_order_seq_cst);
}

PAGODA_EXPORT void pagoda_synchronize_rcu(void) {
    used.store(true);
    if (have_ops.load(std::memory_order_acquire)) {
        ops.synchronize();
        return;
    }
    detached *nothing = static_cast<detached *>(heap_alloc(sizeof(detached), GFP_KERNEL));
    detached own = {};
    detached *d = nothing != nullptr ? nothing : &own;
    d->object = nullptr;
    rcu_defer(
        &d->item, nothing != nullptr ? finish_detached : [](rcu_item *) {});
    rcu_barrier();
}

PAGODA_EXPORT bool pagoda_rcu_set_ops(const pagoda_rcu_ops *with) {
    if (with == nullptr || with->read_lock == nullptr || with->read_unlock == nullptr ||
        with->synchronize == nullptr || with->call == nullptr || used.exchange(true))
        return false;
    ops = *with;
    have_ops.store(true, std::memory_order_release);
    return true;
}

PAGODA_EXPORT void pagoda_kfree_rcu(const void *object, void *field) {
    if (is_nothing(object))
        return;
    char *start = static_cast<char *>(const_cast<void *>(object));
    uintptr_t distance = static_cast<uintptr_t>(static_cast<char *>(field) - start);
    if (PAGODA_UNLIKELY(distance >= kMaxDistance)) {
        text_buffer<160> t;
        t << "kfree_rcu of " << object << ": its rcu_head at " << field
          << " is not in its first 4095 bytes; it is leaked";
        misuse(t);
        return;
    }
    rcu_defer(static_cast<rcu_item *>(field), reinterpret_cast<void (*)(rcu_item *)>(distance));
}

PAGODA_EXPORT void pagoda_kfree_rcu_mightsleep(const void *object) {
    if (is_nothing(object))
        return;
    detached *d = static_cast<detached *>(heap_alloc(sizeof(detached), GFP_KERNEL));
    if (d == nullptr) {
        pagoda_synchronize_rcu();
        heap_free(const_cast<void *>(object), GFP_KERNEL);
        return;
    }
    d->object = const_cast<void *>(object);
    rcu_defer(&d->item, finish_detached);
    rcu_poll();
}

PAGODA_EXPORT void pagoda_kvfree_rcu_barrier(void) { rcu_barrier(); }

} // namespace pagoda
