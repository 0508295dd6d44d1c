// Per-CPU state, indexed by the kernel's rseq area: for every class one 64-bit word {main, spare}
// of sheaf tops, and one of stacks {full, empty} of whole sheaves. Each operation commits with a
// single store inside a restartable sequence; a thread that is preempted, migrated or signalled
// before it starts over, so there are no locks and no atomic instructions.
//
// Threads without rseq (tunable off, other libc) get a slot of the same layout each, used with
// plain loads and stores: a slow path owns its thread's slot because a nested entry stays away from
// it.
#pragma once

#include "hugepage/address_space.h"
#include "hugepage/base.h"
#include "lib/size_class.h"

#include <atomic>

namespace pagoda {

inline constexpr uint32_t kSheafSize = 1024; // see lib/sheaf.h
inline constexpr unsigned kSlotShift = 13;
inline constexpr size_t kSlotSize = size_t{1} << kSlotShift;
// Offsets in a slot.
inline constexpr size_t kWordsAt = 0;
inline constexpr size_t kStacksAt = 2048;
inline constexpr size_t kLimitsAt = 4096;   // uint8_t per class: sheaves a stack may hold
inline constexpr size_t kOverflowAt = 4352; // uint8_t per class: an overflow happened since
inline constexpr size_t kBudgetAt = 4608;   // int64_t: bytes the limits above 1 stand for
// From CPU 0's slot to what the halves of words count from.
inline constexpr int64_t kSheavesAt =
    int64_t{kSheavesBehindPercpu} - 2 * int64_t{kSlotSize} + kSheafSize - 8;
static_assert(kSheavesAt <= INT32_MAX, "a displacement");
// An id no CPU has; its slot, just below CPU 0's, is all zeros for ever.
inline constexpr int32_t kNoCpu = -1;

// What malloc and free read. Zero until initialisation; `small_limit` is published last.
struct alignas(64) percpu_state {
    size_t small_limit = 0; // sizes below it have a small class; stored atomically
    intptr_t rseq_cs = 0;   // offsets from the thread pointer: where to announce a section,
    intptr_t id = 0;        // and where the CPU's id is (or kNoCpu: always the slow path)
    uintptr_t base = 0;     // slot of CPU 0
};
extern PAGODA_INTERNAL percpu_state g_percpu;

// This thread. At most 64 bytes of initial-exec TLS.
struct thread_state {
    uint64_t no_rseq_cs; // stands in for struct rseq where there is none
    int32_t no_id;       // kNoCpu
    uint8_t depth;       // > 0: inside a slow path; a nested entry is a signal handler
    uint8_t slot_state;  // see thread_slot.cc
    uint16_t kmap_top;   // the newest mapping of kmap_local_page, see kmap.cc
    uint64_t slot;       // address of this thread's slot, 0 = none
    struct group *group; // that accounted allocations are charged to
    uint32_t atomics;    // pagoda_atomic_begin calls without their end
    uint8_t scopes;      // see scope.h
};
extern PAGODA_INTERNAL constinit thread_local thread_state t_thread
    __attribute__((tls_model("initial-exec")));

namespace percpu {

enum class stack_kind : uint8_t { full = 0, empty = 4 };

// Spare half while a remote drain is under way; no sheaf's offset.
inline constexpr uint32_t kDrain = 1;
// A stack half while a remote drain is under way.
inline constexpr uint32_t kStackDrain = 0xfff00000u;

// Finds rseq or falls back; sets g_percpu except small_limit. `slots`: CPUs the region has.
void init(uint32_t slots);
bool has_rseq();
uint32_t slots();

// The slot operations work on: this CPU's, this thread's, or NULL where there is neither (no rseq
// and nested in a handler, or thread exit). Only a hint under rseq.
char *current_slot();

// The newest object of the class's main sheaf, or NULL (empty, or restarted).
void *pop(unsigned cls);
// False: the main sheaf is full, or restarted.
bool push(unsigned cls, void *object);
// Several at once, as far as the main sheaf goes: 1..count > 0 of them, or 0 (as NULL and false).
size_t pop_many(unsigned cls, void **out, size_t count);
size_t push_many(unsigned cls, void *const *objects, size_t count);
// This CPU's word; only replace() knows whether it still is.
uint64_t word(unsigned cls);
bool replace(unsigned cls, uint64_t expected, uint64_t desired);
// Whole sheaves by id; 0 = none.
uint32_t stack_pop(unsigned cls, stack_kind kind);
bool stack_push(unsigned cls, stack_kind kind, uint32_t sheaf, uint32_t limit);

// After it no operation of another thread that began earlier can commit.
bool fence();

} // namespace percpu
} // namespace pagoda
