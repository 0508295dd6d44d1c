// A private slot for each thread where the kernel or libc offers no rseq: the same words as a
// CPU's, reached only from slow paths, drained by its owner when the thread ends.
#pragma once

#include "hugepage/lock.h"

namespace pagoda {

// thread_state::slot_state while libc is asked to note the slot, for which it may allocate.
inline constexpr uint8_t kGettingSlot = 2;

// This thread's slot; NULL when nested in a signal handler, when the thread is past its end, or
// when none could be had (the slabs serve then).
char *thread_slot();

// Entry of a slow path where there is no rseq: gets the thread a slot if it has none yet.
void thread_slot_enter();

// Registers the destructor that gives slots back; once, before threads exist.
void thread_slots_init();

// Calls fn(slot) for every slot ever handed out.
void for_each_thread_slot(void (*fn)(char *slot, void *arg), void *arg);

mutex &thread_slot_lock();
void thread_slots_after_fork_in_child();

} // namespace pagoda
