// boot: linked with the archive. Memory is set aside in a constructor, divided before main, and the
// rest becomes the heap's. With an argument: how many bytes the options set aside before that.
#include "../workout.h"

#include <pagoda/memblock.h>
#include <pagoda/mempool.h>
#include <pagoda/percpu.h>

#define RESERVED ((size_t)256 << 20)

static char *table;
static size_t by_options;
static void *contiguous;

__attribute__((constructor)) static void boot(void) {
    by_options = (size_t)memblock_phys_mem_size();
    CHECK_EQ(pagoda_boot_reserve(RESERVED), 0);
    table = (char *)memblock_alloc(1 << 20, 4096);
    contiguous = pagoda_contig_alloc(64 << 20, 4096);
}

int main(int argc, char **argv) {
    check_begin();
    CHECK_EQ(by_options, argc > 1 ? strtoull(argv[1], NULL, 10) : 0);
    CHECK((contiguous != NULL) == (argc > 1));
    CHECK(table != NULL && all_bytes_are((unsigned char *)table, 1 << 20, 0));
    memset(table, 5, 1 << 20);
    uint64_t i;
    phys_addr_t from, to, bytes = 0;
    for_each_mem_range(i, &from, &to) { bytes += to - from; }
    CHECK_EQ(bytes, RESERVED + by_options);

    char *end = (char *)pagoda_memblock_virt(memblock_end_of_DRAM());
    char *start = end - RESERVED;
    for (int n = 0; n < 100000; n++) {
        char *p = (char *)malloc((size_t)n);
        CHECK(p != NULL && (p + n <= start || p >= end));
        if (n % 3 != 0)
            free(p);
    }
    CHECK_EQ(pagoda_memblock_free_all(), RESERVED + by_options - (1 << 20));
    workout(3, 500, 1 << 20);
    CHECK(all_bytes_are((unsigned char *)table, 1 << 20, 5));
    CHECK(memblock_alloc(100, 64) == NULL);

    mempool_t *pool = mempool_create_kmalloc_pool(4, 1000);
    unsigned long *counter = alloc_percpu(unsigned long);
    for (int n = 0; n < 100; n++) {
        mempool_free(mempool_alloc(pool, GFP_KERNEL), pool);
        this_cpu_inc(*counter);
    }
    unsigned cpu;
    unsigned long sum = 0;
    // NOLINTNEXTLINE(bugprone-branch-clone): the macro's types
    for_each_possible_cpu(cpu) { sum += *per_cpu_ptr(counter, cpu); }
    CHECK_EQ(sum, 100);
    free_percpu(counter);
    mempool_destroy(pool);
    return check_end();
}
