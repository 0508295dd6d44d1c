#include "lib/failure_hook.h"

#include "lib/heap.h"
#include "lib/hot_path.h"
#include "lib/thread.h"

namespace pagoda {

std::atomic<pagoda_failure_hook *> g_failure_hook{nullptr};
static std::atomic<void *> hook_argument{nullptr};

bool failure_hook_says(size_t size, gfp_t gfp) {
    pagoda_failure_hook *hook = g_failure_hook.load(std::memory_order_acquire);
    return hook != nullptr && hook(size, gfp, hook_argument.load(std::memory_order_relaxed));
}

PAGODA_EXPORT void pagoda_set_failure_hook(pagoda_failure_hook *hook, void *argument) {
    if (hook != nullptr && heap_init()) {
        slow_path scope;
        hot_paths_close();
    }
    hook_argument.store(argument, std::memory_order_relaxed);
    g_failure_hook.store(hook, std::memory_order_release);
}

PAGODA_EXPORT const char *pagoda_version(void) { return PAGODA_VERSION; }

} // namespace pagoda
