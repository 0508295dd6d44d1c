#include "lib/mempool.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"
#include "lib/reclaim.h"
#include "lib/thread.h"

#include <errno.h>
#include <string.h>

namespace pagoda {

uint32_t g_mempool_patience_ms = 5000;

namespace {

mempool_state &state_of(mempool_t *pool) { return *reinterpret_cast<mempool_state *>(pool); }

// Stacks of slots. The change count makes an exchange fail whose head went and came back meanwhile.

void push(std::atomic<uint64_t> &head, mempool_segment &s, uint32_t slot) {
    uint64_t old = head.load(std::memory_order_relaxed);
    uint64_t next = 0;
    do {
        s.slots()[slot].next.store(static_cast<uint32_t>(old), std::memory_order_relaxed);
        next = ((old >> 32) + 1) << 32 | (slot + 1);
    } while (!head.compare_exchange_weak(old, next, std::memory_order_acq_rel,
                                         std::memory_order_relaxed));
}

bool pop(std::atomic<uint64_t> &head, mempool_segment &s, uint32_t *slot) {
    uint64_t old = head.load(std::memory_order_acquire);
    uint64_t next = 0;
    do {
        if (static_cast<uint32_t>(old) == 0)
            return false;
        *slot = static_cast<uint32_t>(old) - 1;
        next = ((old >> 32) + 1) << 32 | s.slots()[*slot].next.load(std::memory_order_relaxed);
    } while (!head.compare_exchange_weak(old, next, std::memory_order_acq_rel,
                                         std::memory_order_acquire));
    return true;
}

// Poison, in debug builds: 0x6b while in reserve, its last byte 0xa5; 0x5a when it is handed out.

constexpr unsigned char kFree = 0x6b;
constexpr unsigned char kFreeEnd = 0xa5;
constexpr unsigned char kInUse = 0x5a;

void poison(const mempool_state &p, void *element) {
    if (!kDebug || p.element_bytes == 0)
        return;
    memset(element, kFree, p.element_bytes - 1);
    static_cast<unsigned char *>(element)[p.element_bytes - 1] = kFreeEnd;
}

void check_poison(const mempool_state &p, void *element) {
    if (!kDebug || p.element_bytes == 0)
        return;
    unsigned char *bytes = static_cast<unsigned char *>(element);
    size_t at = 0;
    while (at < p.element_bytes && bytes[at] == (at + 1 < p.element_bytes ? kFree : kFreeEnd))
        at++;
    if (at < p.element_bytes) {
        text_buffer<200> t;
        t << "mempool element " << element << " of " << uint64_t{p.element_bytes}
          << " bytes was written at offset " << uint64_t{at} << " while it was in reserve";
        misuse(t);
    }
    memset(element, kInUse, p.element_bytes);
}

// The reserve.

// Into the reserve, unless that is full. `count` goes up before the element comes and down after
// one went, so there is an empty slot for each place that `count` leaves.
bool put_in_reserve(mempool_state &p, void *element) {
    uint32_t n = p.count.load(std::memory_order_relaxed);
    do {
        if (n >= p.min.load(std::memory_order_acquire))
            return false;
    } while (!p.count.compare_exchange_weak(n, n + 1, std::memory_order_acq_rel,
                                            std::memory_order_relaxed));
    poison(p, element);
    for (;;) {
        for (mempool_segment *s = p.segments.load(std::memory_order_acquire); s != nullptr;
             s = s->older) {
            uint32_t slot = 0;
            if (pop(s->empty, *s, &slot)) {
                s->slots()[slot].element = element;
                push(s->full, *s, slot);
                return true;
            }
        }
    }
}

void *take_from_reserve(mempool_state &p) {
    if (p.count.load(std::memory_order_seq_cst) == 0)
        return nullptr;
    for (mempool_segment *s = p.segments.load(std::memory_order_acquire); s != nullptr;
         s = s->older) {
        uint32_t slot = 0;
        if (pop(s->full, *s, &slot)) {
            void *element = s->slots()[slot].element;
            push(s->empty, *s, slot);
            p.count.fetch_sub(1, std::memory_order_acq_rel);
            check_poison(p, element);
            return element;
        }
    }
    return nullptr;
}

// Room for `more` elements.
bool add_segment(mempool_state &p, uint32_t more, gfp_t gfp) {
    size_t bytes = sizeof(mempool_segment) + size_t{more} * sizeof(mempool_segment::slot);
    auto *s = static_cast<mempool_segment *>(heap_alloc(bytes, gfp | __GFP_ZERO));
    if (s == nullptr)
        return false;
    s->capacity = more;
    for (uint32_t slot = more; slot-- > 0;)
        push(s->empty, *s, slot);
    s->older = p.segments.load(std::memory_order_relaxed);
    p.segments.store(s, std::memory_order_release);
    return true;
}

// Allocates `more` elements for the reserve; what is out already comes back by itself.
bool fill(mempool_state &p, uint32_t more, gfp_t gfp) {
    for (; more > 0; more--) {
        void *element = p.alloc(gfp, p.data);
        if (element == nullptr)
            return false;
        if (!put_in_reserve(p, element)) // others gave back more than they took
            p.free(element, p.data);
    }
    return true;
}

void drain(mempool_state &p, uint32_t keep) {
    while (p.count.load(std::memory_order_relaxed) > keep) {
        void *element = take_from_reserve(p);
        if (element == nullptr)
            return; // on its way to somebody else
        p.free(element, p.data);
    }
}

int start(mempool_state &p, int min_nr, gfp_t gfp) {
    uint32_t min = static_cast<uint32_t>(min_nr);
    p.min.store(min, std::memory_order_relaxed);
    if (!add_segment(p, max_of(min, 1u), gfp))
        return -ENOMEM;
    if (fill(p, min, gfp))
        return 0;
    pagoda_mempool_exit(reinterpret_cast<mempool_t *>(&p));
    return -ENOMEM;
}

// Waiting.

void wake_waiter(mempool_state &p) {
    std::atomic_thread_fence(std::memory_order_seq_cst); // what was freed is seen before we look
    if (PAGODA_LIKELY(p.waiters.load(std::memory_order_relaxed) == 0))
        return;
    p.event.fetch_add(1, std::memory_order_release);
    sys::futex_wake(p.event, 1);
}

void *wait_for_element(mempool_state &p, gfp_t gfp) {
    p.waiters.fetch_add(1, std::memory_order_seq_cst);
    void *element = nullptr;
    for (;;) {
        uint32_t seen = p.event.load(std::memory_order_acquire);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        element = take_from_reserve(p);
        if (element == nullptr)
            element = p.alloc(gfp, p.data);
        if (element != nullptr)
            break;
        sys::futex_wait_for(p.event, seen, g_mempool_patience_ms);
    }
    p.waiters.fetch_sub(1, std::memory_order_relaxed);
    if (p.count.load(std::memory_order_relaxed) != 0) // one wake may stand for several elements
        wake_waiter(p);
    return element;
}

PAGODA_COLD void refuse_zero() {
    static std::atomic<bool> said{false};
    if (said.exchange(true, std::memory_order_relaxed))
        return;
    text_buffer<120> t;
    t << "mempool_alloc: __GFP_ZERO is refused, elements of the reserve have old contents";
    warn(t);
}

} // namespace
} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT int pagoda_mempool_init(struct mempool *pool, int min_nr, mempool_alloc_t *alloc_fn,
                                      mempool_free_t *free_fn, void *pool_data,
                                      size_t element_bytes, gfp_t gfp, int /*node*/) {
    memset(pool, 0, sizeof *pool);
    if (min_nr < 0 || alloc_fn == nullptr || free_fn == nullptr)
        return -EINVAL;
    if (!kernel_api_enter(gfp))
        return -ENOMEM;
    mempool_state &p = state_of(pool);
    p.alloc = alloc_fn;
    p.free = free_fn;
    p.data = pool_data;
    p.element_bytes = element_bytes;
    return start(p, min_nr, gfp);
}

PAGODA_EXPORT struct mempool *pagoda_mempool_create(int min_nr, mempool_alloc_t *alloc_fn,
                                                    mempool_free_t *free_fn, void *pool_data,
                                                    size_t element_bytes, gfp_t gfp, int node) {
    if (!kernel_api_enter(gfp))
        return nullptr;
    auto *pool = static_cast<mempool_t *>(heap_alloc(sizeof(mempool_t), gfp));
    if (pool != nullptr && pagoda_mempool_init(pool, min_nr, alloc_fn, free_fn, pool_data,
                                               element_bytes, gfp, node) != 0) {
        heap_free(pool, gfp);
        return nullptr;
    }
    return pool;
}

PAGODA_EXPORT void pagoda_mempool_exit(struct mempool *pool) {
    mempool_state &p = state_of(pool);
    drain(p, 0);
    for (mempool_segment *s = p.segments.load(std::memory_order_acquire); s != nullptr;) {
        mempool_segment *older = s->older;
        heap_free(s, GFP_KERNEL);
        s = older;
    }
    memset(pool, 0, sizeof *pool);
}

PAGODA_EXPORT void pagoda_mempool_destroy(struct mempool *pool) {
    if (pool == nullptr)
        return;
    pagoda_mempool_exit(pool);
    heap_free(pool, GFP_KERNEL);
}

PAGODA_EXPORT int pagoda_mempool_resize(struct mempool *pool, int new_min_nr) {
    if (new_min_nr < 0)
        return -EINVAL;
    mempool_state &p = state_of(pool);
    uint32_t before = p.min.load(std::memory_order_relaxed);
    uint32_t wanted = static_cast<uint32_t>(new_min_nr);
    uint64_t room = 0;
    for (mempool_segment *s = p.segments.load(std::memory_order_relaxed); s != nullptr;
         s = s->older)
        room += s->capacity;
    if (room < wanted && !add_segment(p, static_cast<uint32_t>(wanted - room), GFP_KERNEL))
        return -ENOMEM;
    p.min.store(wanted, std::memory_order_release); // the segment first: there is a slot for each
    if (wanted <= before || fill(p, wanted - before, GFP_KERNEL)) {
        drain(p, wanted);
        wake_waiter(p);
        return 0;
    }
    p.min.store(before, std::memory_order_release);
    drain(p, before);
    return -ENOMEM;
}

PAGODA_EXPORT void *pagoda_mempool_alloc(struct mempool *pool, gfp_t gfp) {
    if (PAGODA_UNLIKELY((gfp & __GFP_ZERO) != 0)) {
        refuse_zero();
        return nullptr;
    }
    gfp = current_gfp(gfp);
    {
        slow_path scope; // a handler inside the allocator may hold what others would wait for
        gfp = scope.limit(gfp);
    }
    gfp |= __GFP_NOMEMALLOC | __GFP_NORETRY | __GFP_NOWARN;
    gfp_t easy = gfp & ~(__GFP_DIRECT_RECLAIM | __GFP_IO);
    mempool_state &p = state_of(pool);
    if (void *element = p.alloc(easy, p.data))
        return element;
    if (void *element = take_from_reserve(p))
        return element;
    if (gfp != easy)
        if (void *element = p.alloc(gfp, p.data))
            return element;
    return gfpflags_allow_blocking(gfp) ? wait_for_element(p, gfp) : nullptr;
}

PAGODA_EXPORT void *pagoda_mempool_alloc_preallocated(struct mempool *pool) {
    return take_from_reserve(state_of(pool));
}

PAGODA_EXPORT void pagoda_mempool_free(void *element, struct mempool *pool) {
    if (element == nullptr)
        return;
    mempool_state &p = state_of(pool);
    if (!put_in_reserve(p, element))
        p.free(element, p.data);
    wake_waiter(p);
}
