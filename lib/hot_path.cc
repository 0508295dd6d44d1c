#include "lib/hot_path.h"

#include "lib/kernel_api.h"
#include "lib/kmem_cache.h"

namespace pagoda {

static std::atomic<bool> closed{kDebug};

bool hot_paths_closed() { return closed.load(std::memory_order_relaxed); }

void hot_path_open(size_t &small_limit) {
    if (!hot_paths_closed())
        std::atomic_ref<size_t>(small_limit).store(kMaxSmall + 1, std::memory_order_release);
}

void hot_paths_close() {
    closed.store(true, std::memory_order_relaxed);
    std::atomic_ref<size_t>(g_percpu.small_limit).store(0, std::memory_order_relaxed);
    std::atomic_ref<size_t>(g_kernel_api.small_limit).store(0, std::memory_order_relaxed);
    for_each_cache([](kmem_cache &c) { c.hot_cls = 0; });
}

} // namespace pagoda
