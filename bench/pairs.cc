// pairs: the kernel's names against malloc's, each pair interleaved in one process, by CPU time.
//
//   pairs           31 pairs of each, as the documentation quotes them
//   pairs --short   a few, to see that it runs
//
// Prints the median of the ratios of each pair, with their quartiles. A ratio below 1 is in favour
// of what is named first.
#include "bench/pair.h"

#include <pagoda/slab.h>

#include <stdlib.h>
#include <string.h>

namespace {

using bench::compare;
using bench::use;

constexpr int kRounds = 400'000;
constexpr int kBatch = 32;

struct kmem_cache *cache;

void malloc_free() {
    for (int i = 0; i < kRounds; i++) {
        void *p = malloc(64);
        use(p);
        free(p);
    }
}
void kmalloc_kfree() {
    for (int i = 0; i < kRounds; i++) {
        void *p = kmalloc(64, GFP_KERNEL);
        use(p);
        kfree(p);
    }
}
void cache_alloc_free() {
    for (int i = 0; i < kRounds; i++) {
        void *p = kmem_cache_alloc(cache, GFP_KERNEL);
        use(p);
        kmem_cache_free(cache, p);
    }
}
void singles() {
    void *objects[kBatch];
    for (int i = 0; i < kRounds / kBatch; i++) {
        for (void *&p : objects)
            use(p = kmem_cache_alloc(cache, GFP_KERNEL));
        for (void *p : objects)
            kmem_cache_free(cache, p);
    }
}
void bulk() {
    void *objects[kBatch];
    for (int i = 0; i < kRounds / kBatch; i++) {
        use(objects + kmem_cache_alloc_bulk(cache, GFP_KERNEL, kBatch, objects) - kBatch);
        kmem_cache_free_bulk(cache, kBatch, objects);
    }
}

} // namespace

int main(int argc, char **argv) {
    int pairs = argc > 1 && strcmp(argv[1], "--short") == 0 ? 3 : 31;
    cache = kmem_cache_create("pairs", 64, nullptr, SLAB_NO_MERGE);
    if (cache == nullptr)
        return 1;
    printf("median ratio of CPU time in %d pairs (quartiles)\n", pairs);
    compare("kmalloc(64) : malloc(64)", kmalloc_kfree, malloc_free, pairs);
    compare("kmem_cache_alloc : malloc(64)", cache_alloc_free, malloc_free, pairs);
    compare("bulk of 32 : 32 singles", bulk, singles, pairs);
    kmem_cache_destroy(cache);
    return 0;
}
