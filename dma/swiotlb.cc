#include "dma/swiotlb.h"

#include "hugepage/provider.h"

#include <pagoda/gfp.h>
#include <pagoda/slab.h>

#include <sched.h>
#include <string.h>

namespace pagoda::dma {

namespace {

using row = unsigned __int128; // a set's slots

constexpr row ones(unsigned n) { return n == kSetSlots ? ~row{0} : (row{1} << n) - 1; }
constexpr uint64_t low(row r) { return static_cast<uint64_t>(r); }
constexpr uint64_t high(row r) { return static_cast<uint64_t>(r >> 64); }

bool take_word(std::atomic<uint64_t> &word, uint64_t bits) {
    uint64_t old = word.load(std::memory_order_relaxed);
    do {
        if ((old & bits) != 0)
            return false;
    } while (!word.compare_exchange_weak(old, old | bits, std::memory_order_acquire,
                                         std::memory_order_relaxed));
    return true;
}

void give(std::atomic<uint64_t> (&set)[2], row bits) {
    if (low(bits) != 0)
        set[0].fetch_and(~low(bits), std::memory_order_release);
    if (high(bits) != 0)
        set[1].fetch_and(~high(bits), std::memory_order_release);
}

bool take(std::atomic<uint64_t> (&set)[2], row bits) {
    if (low(bits) != 0 && !take_word(set[0], low(bits)))
        return false;
    if (high(bits) == 0 || take_word(set[1], high(bits)))
        return true;
    give(set, low(bits));
    return false;
}

// Bit i: slots i to i + n - 1 are free.
row runs_of(const std::atomic<uint64_t> (&set)[2], unsigned n) {
    row free = ~(row{set[1].load(std::memory_order_relaxed)} << 64 |
                 set[0].load(std::memory_order_relaxed));
    for (unsigned have = 1; have < n;) {
        unsigned step = min_of(have, n - have);
        free &= free >> step;
        have += step;
    }
    return free;
}

// A signal handler that interrupted the making of a pool must not wait for it.
thread_local bool growing_here = false;

void forget_in_child() { bounce_buffers.forget(); }

void *device_pool(uint64_t mask) {
    static bool once = false; // pools are made one at a time
    if (!once && pthread_atfork(nullptr, nullptr, forget_in_child) != 0)
        return nullptr;
    once = true;
    return pagoda_device_pages_alloc(kPageblockPages, kPageblockOrder, mask,
                                     GFP_KERNEL | __GFP_NOWARN);
}
void free_device_pool(void *p) { pagoda_device_pages_free(p, kPageblockPages); }

} // namespace

swiotlb bounce_buffers({device_pool, free_device_pool});

size_t swiotlb::max_bytes(uint32_t min_align_mask) {
    size_t lost = align_up(min_align_mask, kSlotBytes);
    return lost < kSetBytes ? kSetBytes - lost : 0;
}

const swiotlb::pool *swiotlb::pool_of(const void *p) const {
    uintptr_t start = align_down(reinterpret_cast<uintptr_t>(p), kBouncePoolBytes);
    unsigned n = high_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < n; i++)
        if (pools_[i].start.load(std::memory_order_relaxed) == start && start != 0)
            return &pools_[i];
    return nullptr;
}

// The record of the mapping that p lies in; NULL: in none.
swiotlb::slot *swiotlb::head_of(pool &in, const void *p) {
    uintptr_t at = reinterpret_cast<uintptr_t>(p);
    unsigned index = static_cast<unsigned>((at & (kBouncePoolBytes - 1)) / kSlotBytes);
    uint64_t word = in.used[index / kSetSlots][index / 64 % 2].load(std::memory_order_acquire);
    if ((word >> index % 64 & 1) == 0)
        return nullptr;
    slot *head = &in.slots[in.slots[index].head];
    uintptr_t first =
        align_down(at, kBouncePoolBytes) + in.slots[index].head * kSlotBytes + head->offset;
    return at >= first && at - first < head->bytes ? head : nullptr;
}

void *swiotlb::map_in(pool &in, uintptr_t original, size_t bytes, const bounce_limits &limits,
                      bool held, unsigned first_set) {
    size_t offset = original & limits.min_align_mask & (kSlotBytes - 1);
    unsigned n = static_cast<unsigned>((bytes + offset + kSlotBytes - 1) / kSlotBytes);
    uintptr_t align = limits.min_align_mask & ~(kSlotBytes - 1);
    // Where the bits that are kept leave a choice.
    uint64_t kept = original & limits.min_align_mask & limits.boundary;
    bool bounded = limits.boundary < kSetBytes && kept + bytes - 1 <= limits.boundary;
    for (unsigned i = 0; i < kPoolSets; i++) {
        unsigned set = (first_set + i) % kPoolSets;
        row runs = runs_of(in.used[set], n);
        for (unsigned at = 0; runs != 0 && at + n <= kSetSlots; at++) {
            if (low(runs >> at) == 0) {
                at += 63;
                continue;
            }
            at += static_cast<unsigned>(__builtin_ctzll(low(runs >> at)));
            size_t place = at * kSlotBytes + offset; // in the set, which is aligned to its size
            if ((place & align) != (original & align) ||
                (bounded && ((place ^ (place + bytes - 1)) & ~limits.boundary) != 0) ||
                !take(in.used[set], ones(n) << at))
                continue;
            // From here on the memory stays. It may have been another pool's when we looked.
            uintptr_t start = in.start.load(std::memory_order_relaxed);
            if (in.mask.load(std::memory_order_relaxed) > limits.mask) {
                give(in.used[set], ones(n) << at);
                return nullptr;
            }
            in.mappings.fetch_add(1, std::memory_order_relaxed);
            unsigned head = set * kSetSlots + at;
            for (unsigned k = 0; k < n; k++)
                in.slots[head + k].head = static_cast<uint16_t>(head);
            slot &record = in.slots[head];
            record.original = original;
            record.bytes = static_cast<uint32_t>(bytes) & 0xfffff;
            record.offset = static_cast<uint32_t>(offset) & 0x7ff;
            record.held = held;
            record.count = static_cast<uint16_t>(n);
            return reinterpret_cast<void *>(start + set * kSetBytes + place);
        }
    }
    return nullptr;
}

void *swiotlb::map(void *original, size_t bytes, const bounce_limits &limits, bool held) {
    if (bytes == 0 || bytes > max_bytes(limits.min_align_mask))
        return nullptr;
    int cpu = sched_getcpu();
    unsigned first_set = cpu < 0 ? 0 : static_cast<unsigned>(cpu) % kPoolSets;
    for (;;) {
        unsigned seen = grown_.load(std::memory_order_acquire);
        unsigned n = high_.load(std::memory_order_acquire);
        for (unsigned i = 0; i < n; i++) {
            if (pools_[i].mask.load(std::memory_order_relaxed) > limits.mask)
                continue;
            void *copy = map_in(pools_[i], reinterpret_cast<uintptr_t>(original), bytes, limits,
                                held, first_set);
            if (copy == nullptr)
                continue;
            memcpy(copy, original, bytes);
            return copy;
        }
        if (!grow(limits.mask, seen))
            return nullptr;
    }
}

bool swiotlb::unmap(void *copy, bool copy_back, bounced *what) {
    pool *in = const_cast<pool *>(pool_of(copy));
    slot *head = in == nullptr ? nullptr : head_of(*in, copy);
    if (head == nullptr)
        return false;
    unsigned index = head->head;
    uintptr_t at = reinterpret_cast<uintptr_t>(copy);
    if ((at & (kBouncePoolBytes - 1)) != index * kSlotBytes + head->offset)
        return false;
    *what = {reinterpret_cast<void *>(head->original), head->bytes, head->held != 0};
    if (copy_back)
        memcpy(what->original, copy, what->bytes);
    unsigned left = in->mappings.fetch_sub(1, std::memory_order_relaxed) - 1;
    give(in->used[index / kSetSlots], ones(head->count) << index % kSetSlots);
    if (left == 0)
        retire_if_spare(*in);
    return true;
}

bool swiotlb::sync(void *copy, size_t bytes, bool for_device) {
    pool *in = const_cast<pool *>(pool_of(copy));
    slot *head = in == nullptr ? nullptr : head_of(*in, copy);
    if (head == nullptr)
        return false;
    size_t from = (reinterpret_cast<uintptr_t>(copy) & (kBouncePoolBytes - 1)) -
                  (head->head * kSlotBytes + head->offset);
    if (bytes > head->bytes - from)
        return false;
    char *original = reinterpret_cast<char *>(head->original) + from;
    if (for_device)
        memcpy(copy, original, bytes);
    else
        memcpy(original, copy, bytes);
    return true;
}

bool swiotlb::grow(uint64_t mask, unsigned seen) {
    if (growing_here)
        return false;
    growing_here = true;
    pthread_mutex_lock(&growing_);
    bool grown = true;
    if (grown_.load(std::memory_order_relaxed) == seen) {
        unsigned n = high_.load(std::memory_order_relaxed), i = 0;
        while (i < n && pools_[i].start.load(std::memory_order_relaxed) != 0)
            i++;
        pool &p = pools_[i < kBouncePools ? i : 0];
        void *memory = nullptr;
        if (i < kBouncePools && p.slots == nullptr)
            p.slots = static_cast<slot *>(kvcalloc(kPoolSlots, sizeof(slot), GFP_KERNEL));
        if (i < kBouncePools && p.slots != nullptr)
            memory = source_.alloc(mask);
        grown = memory != nullptr;
        if (grown) {
            p.mask.store(mask, std::memory_order_relaxed);
            p.start.store(reinterpret_cast<uintptr_t>(memory), std::memory_order_relaxed);
            for (auto &set : p.used)
                for (auto &word : set)
                    word.store(0, std::memory_order_release);
            if (i == n)
                high_.store(n + 1, std::memory_order_release);
            grown_.fetch_add(1, std::memory_order_release);
        }
    }
    pthread_mutex_unlock(&growing_);
    growing_here = false;
    return grown;
}

// A pool that stands empty goes when another one of its mask stands empty too.
void swiotlb::retire_if_spare(pool &empty) {
    // Whoever is making a pool wants them all.
    if (growing_here || pthread_mutex_trylock(&growing_) != 0)
        return;
    growing_here = true;
    uint64_t mask = empty.mask.load(std::memory_order_relaxed);
    bool spare = false;
    for (unsigned i = 0; i < high_.load(std::memory_order_relaxed); i++) {
        pool &p = pools_[i];
        spare |= &p != &empty && p.start.load(std::memory_order_relaxed) != 0 &&
                 p.mask.load(std::memory_order_relaxed) == mask &&
                 p.mappings.load(std::memory_order_relaxed) == 0;
    }
    void *memory = nullptr;
    if (spare && empty.start.load(std::memory_order_relaxed) != 0) {
        unsigned taken = 0;
        while (taken < kPoolSets && take(empty.used[taken], ~row{0}))
            taken++;
        if (taken == kPoolSets) {
            memory = reinterpret_cast<void *>(empty.start.load(std::memory_order_relaxed));
            empty.start.store(0, std::memory_order_relaxed);
        } else {
            while (taken-- > 0)
                give(empty.used[taken], ~row{0});
        }
    }
    if (memory != nullptr)
        source_.free(memory);
    pthread_mutex_unlock(&growing_);
    growing_here = false;
}

void swiotlb::forget() {
    pthread_mutex_init(&growing_, nullptr); // another thread may have had it
    growing_here = false;
    for (pool &p : pools_) {
        p.start.store(0, std::memory_order_relaxed);
        p.mappings.store(0, std::memory_order_relaxed);
        for (auto &set : p.used)
            for (auto &word : set)
                word.store(~uint64_t{0}, std::memory_order_relaxed);
    }
}

uint64_t swiotlb::slots_in_use() const {
    uint64_t sum = 0;
    for (unsigned i = 0; i < high_.load(std::memory_order_acquire); i++)
        if (pools_[i].start.load(std::memory_order_relaxed) != 0)
            for (auto &set : pools_[i].used)
                for (auto &word : set)
                    sum += count_bits(word.load(std::memory_order_relaxed));
    return sum;
}

unsigned swiotlb::pools() const {
    unsigned n = 0;
    for (unsigned i = 0; i < high_.load(std::memory_order_acquire); i++)
        n += pools_[i].start.load(std::memory_order_relaxed) != 0;
    return n;
}

} // namespace pagoda::dma
