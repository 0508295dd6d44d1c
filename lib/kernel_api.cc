#include "lib/kernel_api.h"

#include "lib/heap.h"
#include "lib/size_class.h"

namespace pagoda {

kernel_api_state g_kernel_api;

bool kernel_api_init() {
    if (!heap_init())
        return false;
    if (!g_kernel_api.ready.exchange(true, std::memory_order_acq_rel) && !kDebug)
        std::atomic_ref<size_t>(g_kernel_api.small_limit)
            .store(kMaxSmall + 1, std::memory_order_release);
    return true;
}

bool kernel_api_enter(gfp_t gfp) {
    if (PAGODA_LIKELY(kernel_api_ready()))
        return true;
    return gfpflags_allow_blocking(gfp) ? kernel_api_init() : heap_ready();
}

} // namespace pagoda
