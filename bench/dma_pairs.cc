// dma_pairs: memory for devices against kmalloc's, as bench/pairs does it, on a software device
// with an IOMMU and on one without.
//
//   dma_pairs           31 pairs of each, as the documentation quotes them
//   dma_pairs --short   a few, to see that it runs
#include "bench/pair.h"

#include <pagoda/dma-mapping.h>
#include <pagoda/dmapool.h>
#include <pagoda/slab.h>
#include <pagoda/software_device.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using bench::compare;
using bench::use;

constexpr int kRounds = 400'000;
constexpr int kBatch = 32;
constexpr size_t kBytes = 64;

struct device *dev;
struct dma_pool *pool;

void kmalloc_kfree() {
    for (int i = 0; i < kRounds; i++) {
        void *p = kmalloc(kBytes, GFP_KERNEL);
        use(p);
        kfree(p);
    }
}
void pool_alloc_free() {
    for (int i = 0; i < kRounds; i++) {
        dma_addr_t at;
        void *p = dma_pool_alloc(pool, GFP_KERNEL, &at);
        use(p);
        dma_pool_free(pool, p, at);
    }
}
void kmalloc_batches() {
    void *objects[kBatch];
    for (int i = 0; i < kRounds / kBatch; i++) {
        for (void *&p : objects)
            use(p = kmalloc(kBytes, GFP_KERNEL));
        for (void *p : objects)
            kfree(p);
    }
}
void pool_batches() {
    void *objects[kBatch];
    dma_addr_t at[kBatch];
    for (int i = 0; i < kRounds / kBatch; i++) {
        for (int j = 0; j < kBatch; j++)
            use(objects[j] = dma_pool_alloc(pool, GFP_KERNEL, &at[j]));
        for (int j = 0; j < kBatch; j++)
            dma_pool_free(pool, objects[j], at[j]);
    }
}

int run(bool no_iommu, int pairs) {
    pagoda_software_options options = {};
    options.no_iommu = no_iommu;
    dev = pagoda_software_device(&options);
    if (dev == nullptr || dma_set_mask_and_coherent(dev, DMA_BIT_MASK(48)) != 0)
        return 1;
    pool = dma_pool_create("pairs", dev, kBytes, 0, 0);
    dma_addr_t at;
    void *block = pool == nullptr ? nullptr : dma_pool_alloc(pool, GFP_KERNEL, &at);
    if (block == nullptr) {
        fprintf(stderr, "dma_pairs: %s\n", pagoda_device_error());
        return 1;
    }
    printf("%s an IOMMU\n", no_iommu ? "without" : "with");
    compare("dma_pool_alloc(64) : kmalloc(64)", pool_alloc_free, kmalloc_kfree, pairs);
    compare("the same, 32 at a time", pool_batches, kmalloc_batches, pairs);
    dma_pool_free(pool, block, at);
    dma_pool_destroy(pool);
    pagoda_device_close(dev);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    int pairs = argc > 1 && strcmp(argv[1], "--short") == 0 ? 3 : 31;
    printf("median ratio of CPU time in %d pairs (quartiles)\n", pairs);
    fflush(nullptr);
    // A process has devices of one kind.
    pid_t child = fork(); // before there are any
    int status = run(child == 0, pairs);
    fflush(nullptr);
    if (child == 0)
        _exit(status);
    int its = -1;
    waitpid(child, &its, 0);
    return status != 0 || its != 0;
}
