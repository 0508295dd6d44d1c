#include "lib/percpu_alloc.h"

#include "hugepage/report.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/percpu.h"
#include "lib/percpu_x86.h"
#include "lib/reclaim.h"
#include "lib/region.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

#include <string.h>

namespace pagoda {
namespace {

std::atomic<percpu_chunk *> chunks{nullptr};

// The last number is no CPU's.
uint32_t count() { return percpu::slots() + 1; }

char *copy_of(void *ptr, uint32_t cpu) {
    return static_cast<char *>(ptr) + cpu * PAGODA_PERCPU_STRIDE;
}

constexpr intptr_t kCpuIdBehindCs = -4; // in the kernel's struct rseq

// This thread's CPU; negative where the kernel does not say. cpu_id tells a thread that is not
// registered; its mm_cid would be 0.
int32_t cpu_by_rseq() {
    if (!percpu::has_rseq())
        return -1;
    char *thread = static_cast<char *>(__builtin_thread_pointer());
    if (*reinterpret_cast<volatile int32_t *>(thread + g_percpu.rseq_cs + kCpuIdBehindCs) < 0)
        return -1;
    return *reinterpret_cast<volatile int32_t *>(thread + g_percpu.id);
}

// The number of a thread that the kernel says no CPU for.
uint32_t shared_number() {
    if (percpu::has_rseq())
        return count() - 1; // the others belong to threads that use no atomic instructions
    auto thread = reinterpret_cast<uintptr_t>(__builtin_thread_pointer());
    return static_cast<uint32_t>((thread >> 6) * 0x9e3779b97f4a7c15ULL >> 32) % count();
}

// Allocation.

uint32_t pages_of(size_t offset, size_t size) {
    size_t first = offset >> kPageShift;
    size_t last = (offset + size - 1) >> kPageShift;
    return (2u << last) - (1u << first);
}

void *take(percpu_chunk *c, size_t size, size_t align, gfp_t gfp) {
    void *p = pagoda_region_alloc(c->room, size, align);
    if (p == nullptr)
        return nullptr;
    uint32_t pages = pages_of(static_cast<size_t>(static_cast<char *>(p) - c->base), size);
    if (!gfpflags_allow_blocking(gfp) &&
        (c->backed.load(std::memory_order_relaxed) & pages) != pages) {
        pagoda_region_free(c->room, p);
        return nullptr;
    }
    for (uint32_t cpu = 0; cpu < count(); cpu++)
        memset(copy_of(p, cpu), 0, size);
    // Pages that were only touched in part are backed as a whole, and stay so.
    c->backed.fetch_or(pages, std::memory_order_relaxed);
    return p;
}

void release(percpu_chunk *c, gfp_t gfp) {
    pagoda_region_destroy(c->room);
    if (c->base != nullptr) {
        slow_path scope;
        vmalloc_free(c->base, scope.limit(gfp));
    }
    heap_free(c, gfp);
}

percpu_chunk *make_chunk(gfp_t gfp) {
    auto *c = static_cast<percpu_chunk *>(heap_alloc(sizeof(percpu_chunk), gfp | __GFP_ZERO));
    if (c == nullptr)
        return nullptr;
    size_t bytes = count() * PAGODA_PERCPU_STRIDE;
    c->base = static_cast<char *>(with_reclaim(gfp, bytes, [=] {
        slow_path scope;
        return vmalloc_alloc(bytes, kPageSize, scope.limit(gfp), nullptr);
    }));
    if (c->base != nullptr)
        c->room = pagoda_region_create(c->base, PAGODA_PERCPU_STRIDE, 16);
    if (c->room != nullptr)
        return c;
    release(c, gfp);
    return nullptr;
}

// Two threads may both find the chunks full: the slower one gives his chunk back. No lock, so a
// child of fork has none to find taken.
bool add_chunk(percpu_chunk *seen, gfp_t gfp) {
    percpu_chunk *c = make_chunk(gfp);
    if (c == nullptr)
        return false;
    c->next = seen;
    if (!chunks.compare_exchange_strong(seen, c, std::memory_order_acq_rel))
        release(c, gfp);
    return true;
}

PAGODA_COLD void refuse(size_t size, size_t align) {
    static std::atomic<bool> said{false};
    if (said.exchange(true, std::memory_order_relaxed))
        return;
    text_buffer<160> t;
    t << "alloc_percpu of " << uint64_t{size} << " bytes aligned to " << uint64_t{align}
      << ": sizes are 1 to " << uint64_t{PCPU_MIN_UNIT_SIZE} << ", alignments up to 4096";
    warn(t);
}

// Operations.

enum class outcome : uint8_t { done, changed, restarted };

// Stores `desired` in the copy of the CPU that the thread is on, if it holds `expected`.
template <class T> outcome replace_here(volatile T *ptr, T expected, T desired) {
#if defined(__x86_64__)
    static_assert(PAGODA_PERCPU_STRIDE == 1 << 16, "the shift below");
    uint64_t t;
    uint64_t slot;
    asm volatile goto(
        PAGODA_RSEQ_DESCRIPTOR PAGODA_RSEQ_ID "shl $16, %[slot]\n"
                                              "js %l[slow]\n"
                                              "cmp %[expected], (%[slot],%[ptr])\n"
                                              "jne %l[differs]\n"
                                              "mov %[desired], (%[slot],%[ptr])\n"
                                              "2:\n"
        : [t] "=&r"(t), [slot] "=&r"(slot)
        : PAGODA_RSEQ_INPUTS, [ptr] "r"(ptr), [expected] "r"(expected), [desired] "r"(desired)
        : "memory", "cc"
        : slow, differs);
    return outcome::done;
differs:
    return outcome::changed;
slow:
#else
    static_cast<void>(ptr);
    static_cast<void>(expected);
    static_cast<void>(desired);
#endif
    return outcome::restarted;
}

template <class T> volatile T *copy_at(volatile void *ptr, uint32_t cpu) {
    return reinterpret_cast<volatile T *>(static_cast<volatile char *>(ptr) +
                                          cpu * PAGODA_PERCPU_STRIDE);
}

template <class T> struct change {
    T before;
    T after;
};

// Makes this CPU's copy `next(its value)`. A debugger that steps through the section restarts it
// for ever: then the number that has no CPU serves.
template <class T, class Next> change<T> update(volatile void *ptr, Next next) {
    for (int attempt = 0; attempt < 64; attempt++) {
        int32_t cpu = cpu_by_rseq();
        if (cpu < 0)
            break;
        T before = *copy_at<T>(ptr, static_cast<uint32_t>(cpu));
        T after = next(before);
        if (replace_here(static_cast<volatile T *>(ptr), before, after) == outcome::done)
            return {before, after};
    }
    volatile T *copy = copy_at<T>(ptr, shared_number());
    T before = __atomic_load_n(copy, __ATOMIC_RELAXED);
    T after = next(before);
    while (!__atomic_compare_exchange_n(copy, &before, after, true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
        after = next(before);
    return {before, after};
}

// The same for a size in bytes; values are widened to 64 bits.
template <class Next> change<uint64_t> update_sized(volatile void *ptr, size_t size, Next next) {
    auto as = [&]<class T>(T) -> change<uint64_t> {
        change<T> c = update<T>(ptr, [&](T before) { return static_cast<T>(next(before)); });
        return {c.before, c.after};
    };
    switch (size) {
    case 1:
        return as(uint8_t{});
    case 2:
        return as(uint16_t{});
    case 4:
        return as(uint32_t{});
    default:
        return as(uint64_t{});
    }
}

} // namespace
} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT void *pagoda_alloc_percpu(size_t size, size_t align, gfp_t gfp) {
    if (size == 0 || size > PCPU_MIN_UNIT_SIZE || align > kPageSize || !is_power_of_two(align)) {
        refuse(size, align);
        return nullptr;
    }
    if (!kernel_api_enter(gfp))
        return nullptr;
    {
        slow_path scope;
        gfp = scope.limit(gfp);
    }
    for (;;) {
        percpu_chunk *first = chunks.load(std::memory_order_acquire);
        for (percpu_chunk *c = first; c != nullptr; c = c->next)
            if (void *p = take(c, size, align, gfp))
                return p;
        if (!gfpflags_allow_blocking(gfp) || !add_chunk(first, gfp))
            return nullptr;
    }
}

PAGODA_EXPORT void pagoda_free_percpu(void *ptr) {
    if (ptr == nullptr)
        return;
    auto at = reinterpret_cast<uintptr_t>(ptr);
    for (percpu_chunk *c = chunks.load(std::memory_order_acquire); c != nullptr; c = c->next)
        if (at - reinterpret_cast<uintptr_t>(c->base) < PAGODA_PERCPU_STRIDE &&
            region_free(c->room, ptr))
            return;
    text_buffer<120> t;
    t << "free_percpu of " << ptr << ": not what alloc_percpu returned, or free already";
    misuse(t);
}

PAGODA_EXPORT unsigned int pagoda_cpu_count() { return heap_init() ? count() : 1; }

PAGODA_EXPORT unsigned int pagoda_cpu_number() {
    if (!heap_init())
        return 0;
    int32_t cpu = cpu_by_rseq();
    return cpu >= 0 ? static_cast<unsigned>(cpu) : shared_number();
}

PAGODA_EXPORT uint64_t pagoda_this_cpu_read(const volatile void *ptr, size_t size) {
    int32_t cpu = cpu_by_rseq();
    auto *copy = static_cast<const volatile char *>(ptr) +
                 (cpu >= 0 ? static_cast<uint32_t>(cpu) : shared_number()) * PAGODA_PERCPU_STRIDE;
    switch (size) {
    case 1:
        return *reinterpret_cast<const volatile uint8_t *>(copy);
    case 2:
        return *reinterpret_cast<const volatile uint16_t *>(copy);
    case 4:
        return *reinterpret_cast<const volatile uint32_t *>(copy);
    default:
        return *reinterpret_cast<const volatile uint64_t *>(copy);
    }
}

PAGODA_EXPORT void pagoda_this_cpu_write(volatile void *ptr, size_t size, uint64_t value) {
    update_sized(ptr, size, [=](uint64_t) { return value; });
}

PAGODA_EXPORT uint64_t pagoda_this_cpu_add(volatile void *ptr, size_t size, uint64_t value) {
    return update_sized(ptr, size, [=](uint64_t before) { return before + value; }).after;
}

PAGODA_EXPORT uint64_t pagoda_this_cpu_and(volatile void *ptr, size_t size, uint64_t value) {
    return update_sized(ptr, size, [=](uint64_t before) { return before & value; }).after;
}

PAGODA_EXPORT uint64_t pagoda_this_cpu_or(volatile void *ptr, size_t size, uint64_t value) {
    return update_sized(ptr, size, [=](uint64_t before) { return before | value; }).after;
}

PAGODA_EXPORT uint64_t pagoda_this_cpu_exchange(volatile void *ptr, size_t size, uint64_t value) {
    return update_sized(ptr, size, [=](uint64_t) { return value; }).before;
}

PAGODA_EXPORT uint64_t pagoda_this_cpu_compare_exchange(volatile void *ptr, size_t size,
                                                        uint64_t expected, uint64_t desired) {
    uint64_t mask = size < 8 ? (uint64_t{1} << (8 * size)) - 1 : ~uint64_t{0};
    expected &= mask;
    return update_sized(ptr, size,
                        [=](uint64_t before) { return before == expected ? desired : before; })
        .before;
}
