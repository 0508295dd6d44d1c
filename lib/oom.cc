#include "lib/oom.h"

#include "hugepage/sys.h"
#include "lib/thread.h"

#include <pagoda/shrinker.h>

#include <errno.h>

namespace pagoda {
namespace {

mutex lock{lock_rank::hooks};
// All under the lock.
notifier_block *chain = nullptr;
const thread_state *caller = nullptr;   // the thread that walks the chain
notifier_block *being_called = nullptr; // by it
notifier_block *up_next = nullptr;
std::atomic<uint32_t> changes{0}; // counts ends of calls and of walks

// The lock is held, and is again when this returns.
void wait_for_change() {
    uint32_t seen = changes.load();
    lock.unlock();
    sys::futex_wait(changes, seen);
    lock.lock();
}

void note_change() {
    changes.fetch_add(1);
    sys::futex_wake(changes, INT32_MAX);
}

// The next block to call; NULL ends the walk.
notifier_block *advance() {
    slow_path scope;
    lock_guard g(lock);
    being_called = up_next;
    if (being_called != nullptr)
        up_next = being_called->next;
    else
        caller = nullptr;
    note_change();
    return being_called;
}

// False: another thread walked the chain meanwhile, or there is nothing in it.
bool begin_walk(bool *waited) {
    slow_path scope;
    lock_guard g(lock);
    *waited = caller != nullptr;
    while (caller != nullptr)
        wait_for_change();
    if (*waited || chain == nullptr)
        return false;
    caller = &t_thread;
    up_next = chain;
    return true;
}

} // namespace

uint64_t call_oom_notifiers() {
    bool waited = false;
    if (!begin_walk(&waited))
        return waited ? 1 : 0;
    unsigned long freed = 0;
    while (notifier_block *block = advance())
        if ((block->notifier_call(block, 0, &freed) & NOTIFY_STOP_MASK) != 0) {
            slow_path scope;
            lock_guard g(lock);
            up_next = nullptr;
        }
    return freed;
}

mutex &oom_lock() { return lock; }

void oom_after_fork_in_child() {
    if (caller == &t_thread)
        return;
    caller = nullptr;
    being_called = up_next = nullptr;
}

} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT int pagoda_register_oom_notifier(struct notifier_block *block) {
    slow_path scope;
    lock_guard g(lock);
    notifier_block **at = &chain;
    for (notifier_block *each = chain; each != nullptr; each = each->next) {
        if (each == block)
            return -EEXIST;
        if (each->priority >= block->priority)
            at = &each->next;
    }
    block->next = *at;
    *at = block;
    return 0;
}

PAGODA_EXPORT int pagoda_unregister_oom_notifier(struct notifier_block *block) {
    slow_path scope;
    lock_guard g(lock);
    notifier_block **at = &chain;
    while (*at != nullptr && *at != block)
        at = &(*at)->next;
    if (*at == nullptr)
        return -ENOENT;
    *at = block->next;
    if (up_next == block)
        up_next = block->next;
    while (being_called == block && caller != &t_thread)
        wait_for_change();
    return 0;
}
