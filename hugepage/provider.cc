#include "hugepage/provider.h"

#include "hugepage/base.h"

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
