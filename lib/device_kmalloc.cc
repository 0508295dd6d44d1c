#include "lib/device_kmalloc.h"

#include "lib/cache_api.h"
#include "lib/cache_list.h"
#include "lib/cache_set.h"
#include "lib/device_pages.h"
#include "lib/group.h"
#include "lib/kernel_api.h"
#include "lib/size_class.h"

namespace pagoda {
namespace {

cache_set caches;

kmem_cache *cache_for(size_t size, gfp_t gfp) {
    return caches.cache_for(size, gfp_now(gfp), [](uint32_t bytes) {
        text_buffer<64> name;
        name << "dma-kmalloc-" << bytes << '\0';
        kmem_cache_args args = {};
        args.align = bytes & -bytes;
        return cache_create(name.data(), bytes, args, SLAB_CACHE_DMA | SLAB_NO_MERGE);
    });
}

} // namespace

void *kmalloc_device(size_t size, gfp_t gfp) {
    if (!kernel_api_enter(gfp))
        return nullptr;
    gfp = current_gfp(gfp);
    kmem_cache *c = size <= kMaxSmall ? cache_for(size, gfp) : nullptr;
    if (c != nullptr)
        return cache_alloc_object(*c, gfp, __builtin_return_address(0));
    // Large, or the first of its size where a cache cannot be made.
    group *payer = (gfp & __GFP_ACCOUNT) != 0 ? current_group() : nullptr;
    run_shape shape = natural_run(size);
    return with_device_pages(shape.pages, shape.align_order, device_mask(__GFP_DMA), gfp,
                             [=] { return owned_run(size, gfp, payer); });
}

} // namespace pagoda
