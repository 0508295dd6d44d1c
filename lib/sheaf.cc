#include "lib/sheaf.h"

#include "hugepage/address_space.h"
#include "hugepage/lock.h"

namespace pagoda {
namespace {

sheaf_stack pool;
std::atomic<uint32_t> created{0};
mutex growth{lock_rank::sheaves};
uint32_t stock = 0; // sheaves

void restock() {
    size_t used = size_t{created.load(std::memory_order_relaxed)} + 1;
    g_space.sheaves.restock(used * kSheafSize, stock * kSheafSize);
    g_space.sheaf_links.restock(used * sizeof(uint32_t), stock * sizeof(uint32_t));
}

} // namespace

mutex &sheaf_lock() { return growth; }

uint32_t *sheaf_links() { return g_space.sheaf_links.as<uint32_t>(); }

void sheaf_stack::push(uint32_t id) {
    uint64_t head = head_.load(std::memory_order_relaxed);
    uint64_t next = 0;
    do {
        std::atomic_ref<uint32_t>(sheaf_links()[id])
            .store(static_cast<uint32_t>(head) & kSheafIdMask, std::memory_order_relaxed);
        next = ((head >> 40) + 1) << 40 | ((head >> 20 & kSheafIdMask) + 1) << 20 | id;
    } while (!head_.compare_exchange_weak(head, next, std::memory_order_release,
                                          std::memory_order_relaxed));
}

uint32_t sheaf_stack::pop() {
    uint64_t head = head_.load(std::memory_order_acquire);
    for (;;) {
        uint32_t id = static_cast<uint32_t>(head) & kSheafIdMask;
        if (id == 0)
            return 0;
        // A stale link is harmless: the tag has moved on and the exchange fails.
        uint32_t below =
            std::atomic_ref<uint32_t>(sheaf_links()[id]).load(std::memory_order_relaxed);
        uint64_t next = ((head >> 40) + 1) << 40 | ((head >> 20 & kSheafIdMask) - 1) << 20 |
                        (below & kSheafIdMask);
        if (head_.compare_exchange_weak(head, next, std::memory_order_acquire,
                                        std::memory_order_acquire))
            return id;
    }
}

uint32_t sheaf_stack::take_all() {
    uint64_t head = head_.load(std::memory_order_acquire);
    while (!head_.compare_exchange_weak(head, ((head >> 40) + 1) << 40, std::memory_order_acquire,
                                        std::memory_order_acquire)) {
    }
    return static_cast<uint32_t>(head) & kSheafIdMask;
}

uint32_t sheaf_alloc(uint32_t capacity, bool may_block) {
    uint32_t id = pool.pop();
    if (id == 0) {
        if (may_block)
            growth.lock();
        else if (!growth.try_lock())
            return 0;
        uint32_t next = created.load(std::memory_order_relaxed) + 1;
        size_t bytes = (size_t{next} + 1) * kSheafSize;
        size_t links = (size_t{next} + 1) * sizeof(uint32_t);
        bool have = bytes <= g_space.sheaves.bytes() && links <= g_space.sheaf_links.bytes();
        if (!have && may_block)
            have = next <= kSheafIdMask && g_space.sheaves.reach_if_easy(bytes) &&
                   g_space.sheaf_links.reach_if_easy(links);
        if (have) {
            created.store(next, std::memory_order_relaxed);
            id = next;
        }
        if (may_block)
            restock();
        growth.unlock();
        if (id == 0)
            return 0;
    }
    *sheaf_slot(sheaf_empty_top(id, capacity)) = nullptr;
    return id;
}

void sheaves_keep_stock(uint32_t sheaves) {
    lock_guard g(growth);
    g_space.sheaves.keep_populated();
    g_space.sheaf_links.keep_populated();
    stock = sheaves;
    restock();
}

void sheaf_free(uint32_t id) { pool.push(id); }

uint32_t sheaves_in_use() { return created.load(std::memory_order_relaxed) - pool.count(); }

} // namespace pagoda
