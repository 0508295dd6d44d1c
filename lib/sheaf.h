// A sheaf is an array of object pointers in the sheaf region, used as a stack. Sheaf `id` fills 1
// KiB; its full top is at offset id * 1024 from kSheavesAt, so a top whose low 10 bits are zero is
// a full sheaf, and offset 0 (1 KiB of zeros) is a sheaf that is both empty and full. The slot
// below the first object holds NULL.
#pragma once

#include "hugepage/base.h"
#include "lib/percpu.h"

#include <atomic>

namespace pagoda {

inline constexpr uint32_t kSheafIdMask = 0xfffff;

uint32_t *sheaf_links(); // one per id, for whoever owns the sheaf

inline void **sheaf_slot(uint32_t top) {
    return reinterpret_cast<void **>(g_percpu.base + kSheavesAt + top);
}
inline uint32_t sheaf_id(uint32_t top) { return (top + kSheafSize - 1) / kSheafSize; }
inline uint32_t sheaf_full_top(uint32_t id) { return id * kSheafSize; }
inline uint32_t sheaf_empty_top(uint32_t id, uint32_t capacity) {
    return id * kSheafSize - 8 * capacity;
}
inline uint32_t sheaf_count(uint32_t top, uint32_t capacity) {
    return top == 0 ? 0 : (top - sheaf_empty_top(sheaf_id(top), capacity)) / 8;
}

// A lock-free stack of sheaves, linked through sheaf_links(): {tag, count, id} in one word. Taking
// and returning them is safe in any context.
class sheaf_stack {
  public:
    void push(uint32_t id);
    uint32_t pop(); // 0: empty
    // Everything at once: the first id; the rest by sheaf_links().
    uint32_t take_all();
    uint32_t count() const {
        return static_cast<uint32_t>(head_.load(std::memory_order_relaxed) >> 20) & kSheafIdMask;
    }
    uint32_t peek() const {
        return static_cast<uint32_t>(head_.load(std::memory_order_acquire)) & kSheafIdMask;
    }

  private:
    std::atomic<uint64_t> head_{0};
};

// A sheaf for objects of a class of this capacity, its NULL in place; 0 at a limit. Grows the
// region only if `may_block`.
uint32_t sheaf_alloc(uint32_t capacity, bool may_block);
void sheaf_free(uint32_t id);
// From now on the region holds memory, and blocking callers keep so many sheaves beyond what was
// ever used for those who may not wait.
void sheaves_keep_stock(uint32_t sheaves);
uint32_t sheaves_in_use();

class mutex;
mutex &sheaf_lock();

} // namespace pagoda
