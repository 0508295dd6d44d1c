#include "dma/noncontiguous.h"

#include "dma/coherent.h"
#include "dma/complain.h"
#include "dma/mapping.h"

#include <pagoda/scatterlist.h>
#include <pagoda/slab.h>

#include <errno.h>

using namespace pagoda::dma;

PAGODA_EXPORT sg_table *pagoda_dma_alloc_noncontiguous(device *dev, size_t bytes,
                                                       dma_data_direction dir, gfp_t gfp,
                                                       unsigned long) {
    pagoda_device_state &s = *dev->state;
    uint64_t address = DMA_MAPPING_ERROR;
    void *p = nullptr;
    sg_table *table = nullptr;
    if ((gfp & GFP_ZONEMASK) != 0 || access_of(dir) == 0 || bytes > UINT32_MAX)
        fail(EINVAL,
             "%s: dma_alloc_noncontiguous takes no zone, wants a direction, and has at most "
             "4 GiB",
             s.name);
    else
        p = coherent_alloc(s, bytes, s.mask, gfp, entry_kind::coherent, &address);
    if (p != nullptr)
        table = static_cast<sg_table *>(kzalloc(sizeof(sg_table), gfp));
    if (table == nullptr || sg_alloc_table(table, 1, gfp) != 0) {
        if (p != nullptr) {
            coherent_free(s, p, entry_kind::coherent,
                          {address, bytes, dir, made_by::noncontiguous, nullptr});
            fail(ENOMEM, "%s: no memory for the table of %zu bytes", s.name, bytes);
        }
        kfree(table);
        if ((gfp & __GFP_NOWARN) == 0)
            complain("%s", pagoda_device_error());
        return nullptr;
    }
    sg_set_buf(table->sgl, p, static_cast<unsigned>(bytes));
    sg_dma_address(table->sgl) = address;
    sg_dma_len(table->sgl) = static_cast<unsigned>(bytes);
    table->nents = 1;
    debug_use use = {address, bytes, dir, made_by::noncontiguous, __builtin_return_address(0)};
    if (s.debug == nullptr || debug_made(s, p, use))
        return table;
    coherent_free(s, p, entry_kind::coherent, use);
    sg_free_table(table);
    kfree(table);
    if ((gfp & __GFP_NOWARN) == 0)
        complain("%s", pagoda_device_error());
    return nullptr;
}

PAGODA_EXPORT void pagoda_dma_free_noncontiguous(device *dev, size_t bytes, sg_table *table,
                                                 dma_data_direction dir) {
    if (table == nullptr)
        return;
    if (table->sgl == nullptr || sg_dma_len(table->sgl) != bytes) {
        complain("%s: a table is freed with %zu bytes and was not allocated so", dev_name(dev),
                 bytes);
        return;
    }
    coherent_free(*dev->state, sg_virt(table->sgl), entry_kind::coherent,
                  {sg_dma_address(table->sgl), bytes, dir, made_by::noncontiguous,
                   __builtin_return_address(0)});
    sg_free_table(table);
    kfree(table);
}

PAGODA_EXPORT void *pagoda_dma_vmap_noncontiguous(device *, size_t bytes, sg_table *table) {
    return bytes <= sg_dma_len(table->sgl) ? sg_virt(table->sgl) : nullptr;
}
