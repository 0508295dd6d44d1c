#include "lib/thread_slot.h"

#include "hugepage/address_space.h"
#include "lib/kmem_cache.h"
#include "lib/percpu.h"

#include <pthread.h>

namespace pagoda {
namespace {

// thread_state::slot_state
constexpr uint8_t kNoSlotYet = 0;
constexpr uint8_t kHasSlot = 1;

constexpr size_t kNextFreeAt = kSlotSize - 8; // links free slots

mutex lock{lock_rank::slots};
uint32_t created = 0;
char *free_slots = nullptr;
pthread_key_t key;
bool have_key = false;

void release_slot(void *arg) {
    char *slot = static_cast<char *>(arg);
    t_thread.depth++; // handlers keep away while the slot is taken apart
    cache_drain_own_slot(slot);
    t_thread.slot = 0;
    t_thread.slot_state = kNoSlotYet; // a later destructor that allocates gets a new one
    lock.lock();
    *reinterpret_cast<char **>(slot + kNextFreeAt) = free_slots;
    free_slots = slot;
    lock.unlock();
    t_thread.depth--;
}

} // namespace

mutex &thread_slot_lock() { return lock; }

void thread_slots_init() { have_key = pthread_key_create(&key, release_slot) == 0; }

char *thread_slot() {
    return t_thread.depth == 1 ? reinterpret_cast<char *>(t_thread.slot) : nullptr;
}

void thread_slot_enter() {
    if (PAGODA_LIKELY(t_thread.slot_state != kNoSlotYet) || !have_key)
        return;
    t_thread.slot_state = kGettingSlot;
    lock.lock();
    char *slot = free_slots;
    if (slot != nullptr) {
        free_slots = *reinterpret_cast<char **>(slot + kNextFreeAt);
    } else if (g_space.slots.reach_if_easy((size_t{created} + 1) * kSlotSize)) {
        slot = g_space.slots.as<char>() + size_t{created} * kSlotSize;
        created++;
    }
    lock.unlock();
    if (slot == nullptr || pthread_setspecific(key, slot) != 0) {
        if (slot != nullptr) {
            lock_guard g(lock);
            *reinterpret_cast<char **>(slot + kNextFreeAt) = free_slots;
            free_slots = slot;
        }
        t_thread.slot_state = kNoSlotYet;
        return;
    }
    t_thread.slot = reinterpret_cast<uint64_t>(slot);
    t_thread.slot_state = kHasSlot;
}

void for_each_thread_slot(void (*fn)(char *, void *), void *arg) {
    for (uint32_t i = 0; i < created; i++)
        fn(g_space.slots.as<char>() + size_t{i} * kSlotSize, arg);
}

void thread_slots_after_fork_in_child() {
    // The child has one thread; what the others' slots hold stays theirs, as their stacks do. Their
    // objects are still whole: give them to whoever comes next.
    free_slots = nullptr;
    for (uint32_t i = 0; i < created; i++) {
        char *slot = g_space.slots.as<char>() + size_t{i} * kSlotSize;
        if (reinterpret_cast<uint64_t>(slot) == t_thread.slot)
            continue;
        *reinterpret_cast<char **>(slot + kNextFreeAt) = free_slots;
        free_slots = slot;
    }
}

} // namespace pagoda
