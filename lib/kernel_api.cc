#include "lib/kernel_api.h"

#include "hugepage/address_space.h"
#include "hugepage/lock.h"
#include "hugepage/meta.h"
#include "hugepage/options.h"
#include "hugepage/own_image.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/hot_path.h"
#include "lib/sheaf.h"
#include "lib/thread.h"
#include "lib/vmalloc.h"

namespace pagoda {

kernel_api_state g_kernel_api;

namespace {

constexpr size_t kMetaStock = 256 << 10;
constexpr uint32_t kSheafStock = 256;

std::atomic<bool> begun{false};

// What GFP_ATOMIC may meet holds memory from now on. Whoever comes second goes on at once, with
// what there is by then.
void stock() {
    g_space.percpu.keep_populated(); // of fixed size
    {
        lock_guard g(thread_slot_lock());
        g_space.slots.keep_populated();
    }
    {
        lock_guard g(vmalloc_lock());
        g_space.vm_index.keep_populated();
    }
    meta_keep_stock(kMetaStock);
    sheaves_keep_stock(kSheafStock);
    zone_normal().keep_backed();
    uint64_t bytes = options().reserve_bytes;
    zone_normal().set_reserve(bytes != 0 ? bytes : kDefaultReserve);
    populate_own_image();
}

} // namespace

bool kernel_api_init() {
    if (!heap_init())
        return false;
    slow_path scope;
    if (scope.nested() || begun.exchange(true, std::memory_order_acq_rel))
        return true;
    stock();
    g_kernel_api.ready.store(true, std::memory_order_release);
    hot_path_open(g_kernel_api.small_limit);
    return true;
}

void kernel_api_after_fork_in_child() { begun.store(kernel_api_ready()); }

bool kernel_api_enter(gfp_t gfp) {
    gfp = scoped_gfp(gfp);
    if (PAGODA_UNLIKELY(!kernel_api_ready()))
        return gfpflags_allow_blocking(gfp) ? kernel_api_init() : heap_ready();
    if (PAGODA_UNLIKELY(gfpflags_allow_blocking(gfp) && zone_normal().wants_restock())) {
        slow_path scope;
        if (gfpflags_allow_blocking(scope.limit(gfp)) && may_give_back())
            zone_normal().restock(true);
    }
    return true;
}

} // namespace pagoda
