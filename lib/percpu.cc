#include "lib/percpu.h"

#include "hugepage/address_space.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "lib/percpu_x86.h"
#include "lib/sheaf.h"
#include "lib/thread_slot.h"

#include <linux/auxvec.h>

// glibc >= 2.35 registers an rseq area per thread and says where; other libcs do not have these.
extern "C" {
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
}

namespace pagoda {

const size_table kSizeTable = make_size_table();
percpu_state g_percpu;
constinit thread_local thread_state t_thread = {0, kNoCpu, 0, 0, 0, 0, nullptr, 0, 0};

namespace percpu {
namespace {

#ifndef AT_RSEQ_FEATURE_SIZE
constexpr unsigned long AT_RSEQ_FEATURE_SIZE = 27;
#endif

// Fields of the kernel's struct rseq.
constexpr intptr_t kCpuId = 4;
constexpr intptr_t kRseqCs = 8;
constexpr intptr_t kMmCid = 24;

bool use_rseq = false;
uint32_t slot_count = 0;

char *thread_pointer() { return static_cast<char *>(__builtin_thread_pointer()); }

// Where this process's rseq area is, relative to the thread pointer; false where there is none.
[[maybe_unused]] bool find_rseq(intptr_t *offset, intptr_t *id) {
    percpu_policy policy = options().percpu;
    if (policy == percpu_policy::off || &__rseq_size == nullptr || &__rseq_offset == nullptr ||
        __rseq_size == 0)
        return false;
    int32_t cpu = *reinterpret_cast<volatile int32_t *>(thread_pointer() + __rseq_offset + kCpuId);
    if (cpu < 0) // not registered after all
        return false;
    // glibc 2.36 says 20 bytes and registers 32: what the kernel fills is what counts.
    bool cid = sys::auxv(AT_RSEQ_FEATURE_SIZE) >= static_cast<unsigned long>(kMmCid) + 4;
    if (policy == percpu_policy::automatic) // concurrency ids know nothing of nodes
        cid = cid && sys::single_node();
    *offset = __rseq_offset;
    *id = __rseq_offset + (cid && policy != percpu_policy::cpu_id ? kMmCid : kCpuId);
    return true;
}

template <class T> T &at(char *slot, size_t offset) {
    return *reinterpret_cast<T *>(slot + offset);
}

size_t stack_offset(unsigned cls, stack_kind kind) {
    return kStacksAt + cls * 8 + static_cast<size_t>(kind);
}

} // namespace

void init(uint32_t slots) {
    slot_count = slots;
    // Two slots below CPU 0 stay zero: the kernel says -1 or -2 where a thread is not registered.
    g_percpu.base = g_space.percpu.base() + 2 * kSlotSize;
    intptr_t fake = reinterpret_cast<char *>(&t_thread) - thread_pointer();
    g_percpu.rseq_cs = fake + static_cast<intptr_t>(offsetof(thread_state, no_rseq_cs));
    g_percpu.id = fake + static_cast<intptr_t>(offsetof(thread_state, no_id));
#if defined(__x86_64__)
    intptr_t offset = 0;
    intptr_t id = 0;
    if (find_rseq(&offset, &id)) {
        use_rseq = true;
        g_percpu.rseq_cs = offset + kRseqCs;
        g_percpu.id = id;
    }
#endif
}

bool has_rseq() { return use_rseq; }
uint32_t slots() { return slot_count; }

char *current_slot() {
    if (!use_rseq)
        return thread_slot();
    int32_t id = *reinterpret_cast<volatile int32_t *>(thread_pointer() + g_percpu.id);
    return id < 0 ? nullptr
                  : reinterpret_cast<char *>(g_percpu.base +
                                             (static_cast<uintptr_t>(id) << kSlotShift));
}

void *pop(unsigned cls) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_pop(cls);
#endif
    char *slot = current_slot();
    if (slot == nullptr)
        return nullptr;
    uint32_t &top = at<uint32_t>(slot, kWordsAt + cls * 8);
    void *object = *sheaf_slot(top);
    if (object != nullptr)
        top -= 8;
    return object;
}

bool push(unsigned cls, void *object) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_push(cls, object);
#endif
    char *slot = current_slot();
    if (slot == nullptr)
        return false;
    uint32_t &top = at<uint32_t>(slot, kWordsAt + cls * 8);
    if ((top & (kSheafSize - 1)) == 0 || *sheaf_slot(top) == object)
        return false;
    *sheaf_slot(top + 8) = object;
    top += 8;
    return true;
}

size_t pop_many(unsigned cls, void **out, size_t count) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_pop_many(cls, out, count);
#endif
    size_t n = 0;
    while (n < count && (out[n] = pop(cls)) != nullptr)
        n++;
    return n;
}

size_t push_many(unsigned cls, void *const *objects, size_t count) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_push_many(cls, objects, count);
#endif
    size_t n = 0;
    while (n < count && push(cls, objects[n]))
        n++;
    return n;
}

uint64_t word(unsigned cls) {
    char *slot = current_slot();
    return slot == nullptr
               ? 0
               : __atomic_load_n(&at<uint64_t>(slot, kWordsAt + cls * 8), __ATOMIC_RELAXED);
}

bool replace(unsigned cls, uint64_t expected, uint64_t desired) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_replace(kWordsAt + cls * 8, expected, desired);
#endif
    char *slot = current_slot();
    if (slot == nullptr || at<uint64_t>(slot, kWordsAt + cls * 8) != expected)
        return false;
    at<uint64_t>(slot, kWordsAt + cls * 8) = desired;
    return true;
}

uint32_t stack_pop(unsigned cls, stack_kind kind) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_stack_pop(stack_offset(cls, kind), sheaf_links());
#endif
    char *slot = current_slot();
    if (slot == nullptr)
        return 0;
    uint32_t &head = at<uint32_t>(slot, stack_offset(cls, kind));
    uint32_t sheaf = head & kSheafIdMask;
    if (sheaf != 0)
        head = sheaf_links()[sheaf];
    return sheaf;
}

bool stack_push(unsigned cls, stack_kind kind, uint32_t sheaf, uint32_t limit) {
#if defined(__x86_64__)
    if (use_rseq)
        return rseq_stack_push(stack_offset(cls, kind), sheaf_links(), sheaf, limit);
#endif
    char *slot = current_slot();
    if (slot == nullptr)
        return false;
    uint32_t &head = at<uint32_t>(slot, stack_offset(cls, kind));
    if (head >> 20 >= limit)
        return false;
    sheaf_links()[sheaf] = head;
    head = ((head >> 20) + 1) << 20 | sheaf;
    return true;
}

bool fence() { return use_rseq && sys::rseq_fence(); }

} // namespace percpu
} // namespace pagoda
