// dma: what a streaming mapping costs, against malloc and free of the same run, by CPU time.
//
//   dma           31 pairs of each, as the documentation quotes them
//   dma --short   a few, to see that it runs
//
// On a software device: what is measured is this library, not an IOMMU.
#include "bench/pair.h"

#include <pagoda/dma-mapping.h>
#include <pagoda/mm.h>
#include <pagoda/software_device.h>

#include <stdlib.h>
#include <string.h>

namespace {

using bench::compare;
using bench::use;

constexpr int kRounds = 200'000;

struct device *dev;
void *small, *whole_page, *one_page;
char foreign[4096];

void malloc_free() {
    for (int i = 0; i < kRounds; i++) {
        void *p = malloc(64);
        use(p);
        free(p);
    }
}

void map_unmap(void *p, size_t bytes) {
    for (int i = 0; i < kRounds; i++) {
        dma_addr_t at = dma_map_single(dev, p, bytes, DMA_TO_DEVICE);
        dma_unmap_single(dev, at, bytes, DMA_TO_DEVICE);
    }
}
void map_small() { map_unmap(small, 64); }
void map_whole_page() { map_unmap(whole_page, 4096); }
void map_page() { map_unmap(one_page, 4096); }
void bounce() { map_unmap(foreign, 64); }
void bounce_page() { map_unmap(foreign, 4096); }

} // namespace

int main(int argc, char **argv) {
    int pairs = argc > 1 && strcmp(argv[1], "--short") == 0 ? 3 : 31;
    dev = pagoda_software_device(nullptr);
    small = malloc(64);
    whole_page = malloc(4096);
    one_page = reinterpret_cast<void *>(__get_free_page(GFP_KERNEL));
    if (dev == nullptr || small == nullptr || whole_page == nullptr || one_page == nullptr ||
        dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64)) != 0)
        return 1;
    printf("median ratio of CPU time in %d pairs (quartiles)\n", pairs);
    compare("map and unmap malloc(64) : malloc(64)", map_small, malloc_free, pairs);
    compare("map and unmap malloc(4096) : malloc(64)", map_whole_page, malloc_free, pairs);
    compare("map and unmap alloc_page() : malloc(64)", map_page, malloc_free, pairs);
    compare("64 bytes bounced : malloc(64)", bounce, malloc_free, pairs);
    compare("4096 bytes bounced : malloc(64)", bounce_page, malloc_free, pairs);
    free(small);
    free(whole_page);
    free_page(reinterpret_cast<unsigned long>(one_page));
    pagoda_device_close(dev);
    return 0;
}
