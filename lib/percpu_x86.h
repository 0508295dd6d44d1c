// The restartable sequences for x86-64. Rules of the kernel (Documentation/userspace-api/rseq):
// only rseq_cs is written, the id is read inside the section, and one store commits.
#pragma once

#if defined(__x86_64__)

#include "lib/percpu.h"

namespace pagoda {

// The descriptor {version, flags, start, length, abort handler}, and the handler, which leaves by
// %l[slow]. Its signature is an instruction nobody executes.
#define PAGODA_RSEQ_DESCRIPTOR                                                                     \
    ".pushsection .data.rel.ro.rseq_cs,\"aw\"\n"                                                   \
    ".balign 32\n"                                                                                 \
    "3: .long 0, 0\n"                                                                              \
    ".quad 1f, 2f - 1f, 4f\n"                                                                      \
    ".popsection\n"                                                                                \
    ".pushsection .text.rseq_abort,\"ax\"\n"                                                       \
    ".byte 0x0f, 0xb9, 0x3d\n"                                                                     \
    ".long 0x53053053\n"                                                                           \
    "4: jmp %l[slow]\n"                                                                            \
    ".popsection\n"

// Begins the section; the CPU's id is in %[slot] then.
#define PAGODA_RSEQ_ID                                                                             \
    "lea 3b(%%rip), %[t]\n"                                                                        \
    "mov %[cs], %[slot]\n"                                                                         \
    "mov %[t], %%fs:(%[slot])\n"                                                                   \
    "1: mov %[id], %[slot]\n"                                                                      \
    "movslq %%fs:(%[slot]), %[slot]\n"

// The same, and it is the slot's offset from CPU 0's.
#define PAGODA_RSEQ_BEGIN PAGODA_RSEQ_ID "shl $13, %[slot]\n"

// The same, and the slot's address.
#define PAGODA_RSEQ_ENTER PAGODA_RSEQ_BEGIN "add %[base], %[slot]\n"

// The same, and the base from which sheaves lie at a constant distance.
#define PAGODA_RSEQ_ENTER_SHEAVES                                                                  \
    PAGODA_RSEQ_BEGIN "mov %[base], %[sheaves]\n"                                                  \
                      "add %[sheaves], %[slot]\n"

#define PAGODA_RSEQ_INPUTS                                                                         \
    [cs] "m"(g_percpu.rseq_cs), [id] "m"(g_percpu.id), [base] "m"(g_percpu.base)

static_assert(kSlotShift == 13, "the shift in PAGODA_RSEQ_BEGIN");
static_assert(kSheafSize == 1024, "the mask in rseq_push");

// NULL: take the slow path. Prefetches the object that the next call will return. The class is kept
// out of rax, where the object goes, and out of rsi where that has kmalloc's flags.
[[gnu::always_inline]] static inline void *rseq_pop(size_t cls) {
    register void *object asm("rax"); // where malloc returns it
    uint64_t t;
    uint64_t slot;
    uint64_t sheaves;
    asm volatile goto(
        PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER_SHEAVES "mov (%[slot],%[cls],8), %k[t]\n"
                                                         "mov %c[at](%[sheaves],%[t]), %[object]\n"
                                                         "test %[object], %[object]\n"
                                                         "jz %l[slow]\n"
                                                         "sub $8, %k[t]\n"
                                                         "mov %k[t], (%[slot],%[cls],8)\n"
                                                         "2: mov %c[at](%[sheaves],%[t]), %[t]\n"
                                                         "prefetchw (%[t])\n"
        : [object] "=&r"(object), [t] "=&r"(t), [slot] "=&r"(slot), [sheaves] "=&r"(sheaves)
        : PAGODA_RSEQ_INPUTS, [at] "i"(kSheavesAt), [cls] "Sd"(cls)
        : "memory", "cc"
        : slow);
    if (object == nullptr)
        __builtin_unreachable(); // tested in there
    return object;
slow:
    return nullptr;
}

// False: take the slow path. The top object itself is refused too: that is a double free.
[[gnu::always_inline]] static inline bool rseq_push(size_t cls, void *object) {
    uint64_t t;
    uint64_t slot;
    uint64_t sheaves;
    asm volatile goto(
        PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER_SHEAVES
        "mov (%[slot],%[cls],8), %k[t]\n"
        "test $1023, %k[t]\n"
        "jz %l[slow]\n"
        "cmp %[object], %c[at](%[sheaves],%[t])\n"
        "je %l[slow]\n"
        "mov %[object], 8+%c[at](%[sheaves],%[t])\n"
        "add $8, %k[t]\n"
        "mov %k[t], (%[slot],%[cls],8)\n"
        "2:\n"
        : [t] "=&r"(t), [slot] "=&r"(slot), [sheaves] "=&r"(sheaves)
        : PAGODA_RSEQ_INPUTS, [at] "i"(kSheavesAt), [object] "r"(object), [cls] "r"(cls)
        : "memory", "cc"
        : slow);
    return true;
slow:
    return false;
}

// Up to `want` (> 0) objects, the newest first, into out[]. Returns how many; 0: empty or
// restarted.
static inline uint64_t rseq_pop_many(size_t cls, void **out, uint64_t want) {
    uint64_t object;
    uint64_t t;
    uint64_t slot;
    uint64_t sheaves;
    uint64_t n;
    asm volatile goto(
        PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER_SHEAVES
        "mov (%[slot],%[cls],8), %k[t]\n"
        "xor %k[n], %k[n]\n"
        "5: mov %c[at](%[sheaves],%[t]), %[object]\n"
        "test %[object], %[object]\n"
        "jz 6f\n"
        "mov %[object], (%[out],%[n],8)\n"
        "sub $8, %k[t]\n"
        "inc %[n]\n"
        "cmp %[want], %[n]\n"
        "jb 5b\n"
        "6: test %[n], %[n]\n"
        "jz %l[slow]\n"
        "mov %k[t], (%[slot],%[cls],8)\n"
        "2:\n"
        : [object] "=&r"(object), [t] "=&r"(t), [slot] "=&r"(slot), [sheaves] "=&r"(sheaves),
          [n] "=&r"(n)
        : PAGODA_RSEQ_INPUTS, [at] "i"(kSheavesAt), [cls] "r"(cls), [out] "r"(out), [want] "r"(want)
        : "memory", "cc"
        : slow);
    return n;
slow:
    return 0;
}

// Takes back up to `count` (> 0) objects; returns how many fitted, 0 also when restarted.
static inline uint64_t rseq_push_many(size_t cls, void *const *objects, uint64_t count) {
    uint64_t object;
    uint64_t t;
    uint64_t slot;
    uint64_t sheaves;
    uint64_t n;
    asm volatile goto(PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER_SHEAVES
                      "mov (%[slot],%[cls],8), %k[t]\n"
                      "xor %k[n], %k[n]\n"
                      "5: test $1023, %k[t]\n"
                      "jz 6f\n"
                      "mov (%[objects],%[n],8), %[object]\n"
                      "mov %[object], 8+%c[at](%[sheaves],%[t])\n"
                      "add $8, %k[t]\n"
                      "inc %[n]\n"
                      "cmp %[count], %[n]\n"
                      "jb 5b\n"
                      "6: test %[n], %[n]\n"
                      "jz %l[slow]\n"
                      "mov %k[t], (%[slot],%[cls],8)\n"
                      "2:\n"
                      : [object] "=&r"(object), [t] "=&r"(t), [slot] "=&r"(slot),
                        [sheaves] "=&r"(sheaves), [n] "=&r"(n)
                      : PAGODA_RSEQ_INPUTS, [at] "i"(kSheavesAt), [cls] "r"(cls),
                        [objects] "r"(objects), [count] "r"(count)
                      : "memory", "cc"
                      : slow);
    return n;
slow:
    return 0;
}

// Compare-and-store of a 64-bit word at `offset` in this CPU's slot.
static inline bool rseq_replace(size_t offset, uint64_t expected, uint64_t desired) {
    uint64_t t;
    uint64_t slot;
    asm volatile goto(
        PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER "cmp %[expected], (%[slot],%[offset])\n"
                                                 "jne %l[slow]\n"
                                                 "mov %[desired], (%[slot],%[offset])\n"
                                                 "2:\n"
        : [t] "=&r"(t), [slot] "=&r"(slot)
        : PAGODA_RSEQ_INPUTS, [offset] "r"(offset), [expected] "r"(expected), [desired] "r"(desired)
        : "memory", "cc"
        : slow);
    return true;
slow:
    return false;
}

// Takes the sheaf on top of the stack at `offset`; links[id] holds the head below it. 0: empty,
// restarted, or being drained. The count in the upper 12 bits of a head is dropped.
static inline uint32_t rseq_stack_pop(size_t offset, const uint32_t *links) {
    uint64_t t;
    uint64_t slot;
    uint64_t head;
    asm volatile goto(PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER "mov (%[slot],%[offset]), %k[head]\n"
                                                               "and $0xfffff, %k[head]\n"
                                                               "jz %l[slow]\n"
                                                               "mov (%[links],%[head],4), %k[t]\n"
                                                               "mov %k[t], (%[slot],%[offset])\n"
                                                               "2:\n"
                      : [t] "=&r"(t), [slot] "=&r"(slot), [head] "=&r"(head)
                      : PAGODA_RSEQ_INPUTS, [offset] "r"(offset), [links] "r"(links)
                      : "memory", "cc"
                      : slow);
    return static_cast<uint32_t>(head);
slow:
    return 0;
}

// Puts `sheaf` on the stack unless it holds `limit` sheaves or is being drained (its count is then
// at its maximum).
static inline bool rseq_stack_push(size_t offset, uint32_t *links, uint64_t sheaf, uint64_t limit) {
    uint64_t t;
    uint64_t slot;
    asm volatile goto(PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ENTER "mov (%[slot],%[offset]), %k[t]\n"
                                                               "mov %k[t], (%[links],%[sheaf],4)\n"
                                                               "shr $20, %k[t]\n"
                                                               "cmp %k[limit], %k[t]\n"
                                                               "jae %l[slow]\n"
                                                               "inc %k[t]\n"
                                                               "shl $20, %k[t]\n"
                                                               "or %k[sheaf], %k[t]\n"
                                                               "mov %k[t], (%[slot],%[offset])\n"
                                                               "2:\n"
                      : [t] "=&r"(t), [slot] "=&r"(slot)
                      : PAGODA_RSEQ_INPUTS, [offset] "r"(offset), [links] "r"(links),
                        [sheaf] "r"(sheaf), [limit] "r"(limit)
                      : "memory", "cc"
                      : slow);
    return true;
slow:
    return false;
}

} // namespace pagoda

#endif // __x86_64__
