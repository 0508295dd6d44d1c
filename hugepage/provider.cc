#include "hugepage/provider.h"

#include "hugepage/base.h"
#include "hugepage/options.h"
#include "hugepage/report.h"

#include <atomic>
#include <errno.h>

namespace pagoda {

static std::atomic<const pagoda_dma_provider *> registered{nullptr};

const pagoda_dma_provider *dma_provider() { return registered.load(std::memory_order_acquire); }

} // namespace pagoda

PAGODA_EXPORT int pagoda_dma_register(const pagoda_dma_provider *provider) {
    const pagoda_dma_provider *none = nullptr;
    return pagoda::registered.compare_exchange_strong(none, provider) ? 0 : -EBUSY;
}

PAGODA_EXPORT int pagoda_dma_debug_option() {
    return static_cast<int>(pagoda::options().dma_debug);
}

PAGODA_EXPORT void pagoda_misuse_told() { pagoda::misuse_told(); }
