// dma MODE MASK WHERE: memory of every kind moved by QEMU's edu device and looked at. MODE: type1,
// iommufd, noiommu. MASK: the bits of address that the driver says the device has. WHERE: which.
#include <pagoda/dma-mapping.h>
#include <pagoda/dmapool.h>
#include <pagoda/io.h>
#include <pagoda/pci.h>
#include <pagoda/scatterlist.h>
#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

namespace {

constexpr size_t kSize = 2000;        // a transfer
constexpr uint64_t kInside = 0x40000; // the device's own memory

int failures = 0;
device *dev;
char *registers;
bool isolated; // by an IOMMU
unsigned bits;

void check(bool holds, const char *what) {
    printf("%s %s\n", holds ? "ok  " : "FAIL", what);
    fflush(stdout);
    failures += !holds;
}

pagoda_dma_counters counters() {
    pagoda_dma_counters c;
    pagoda_dma_get_counters(dev, &c);
    return c;
}

void move(uint64_t from, uint64_t to, size_t bytes, unsigned direction) {
    writeq(from, registers + 0x80);
    writeq(to, registers + 0x88);
    writeq(bytes, registers + 0x90);
    writeq(1 | direction, registers + 0x98);
    for (int ms = 0; (readl(registers + 0x98) & 1) != 0 && ms < 20000; ms++) {
        timespec pause = {0, 1000000};
        nanosleep(&pause, nullptr);
    }
}
void device_reads(dma_addr_t from, size_t bytes = kSize) { move(from, kInside, bytes, 0); }
void device_writes(dma_addr_t to, size_t bytes = kSize) { move(kInside, to, bytes, 2); }

void fill(void *p, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++)
        static_cast<unsigned char *>(p)[i] = static_cast<unsigned char>(i * 7 + i / 251 + seed);
}
bool holds(const void *p, size_t bytes, unsigned seed) {
    unsigned char expected[kSize];
    fill(expected, bytes, seed);
    return memcmp(p, expected, bytes) == 0;
}

unsigned next_seed = 1;

// Out of the buffer into the device, back into it and into nothing else.
void round_trip(void *p, const char *what, bool bounced) {
    unsigned seed = next_seed++;
    uint64_t before = counters().bounced;
    fill(p, kSize, seed);
    dma_addr_t at = dma_map_single(dev, p, kSize, DMA_TO_DEVICE);
    if (dma_mapping_error(dev, at) != 0) {
        check(false, what);
        return;
    }
    device_reads(at);
    dma_unmap_single(dev, at, kSize, DMA_TO_DEVICE);
    bool kept = holds(p, kSize, seed);
    memset(p, 0, kSize);
    at = dma_map_single(dev, p, kSize, DMA_FROM_DEVICE);
    bool mapped = dma_mapping_error(dev, at) == 0;
    if (mapped) {
        device_writes(at);
        dma_unmap_single(dev, at, kSize, DMA_FROM_DEVICE);
    }
    check(kept && mapped && holds(p, kSize, seed), what);
    uint64_t count = counters().bounced - before;
    check(count == (bounced ? 2 : 0), bounced ? "  through bounce buffers" : "  in place");
}

void coherent_memory() {
    dma_addr_t at;
    auto *p = static_cast<char *>(dma_alloc_coherent(dev, 2 * PAGE_SIZE, &at, GFP_KERNEL));
    check(p != nullptr && at % (2 * PAGE_SIZE) == 0 && at + 2 * PAGE_SIZE - 1 <= DMA_BIT_MASK(bits),
          "coherent memory, aligned and within the mask");
    if (p == nullptr)
        return;
    fill(p, kSize, 77);
    device_reads(at);
    device_writes(at + PAGE_SIZE);
    check(holds(p + PAGE_SIZE, kSize, 77), "what the device writes to it is there");
    dma_free_coherent(dev, 2 * PAGE_SIZE, p, at);
}

void streaming_memory() {
    // Without an IOMMU, and where the heap lies beyond the mask, it is copied.
    bool bounced = !isolated || bits < 39;
    void *small = malloc(kSize);
    void *large = malloc(8 << 20);
    void *area = vmalloc(3 << 20);
    round_trip(small, "malloc'd memory", bounced);
    round_trip(static_cast<char *>(large) + (2 << 20) - 1000,
               "across two granules of a large block", bounced);
    round_trip(area, "vmalloc'd memory", bounced);
    char stack[kSize];
    round_trip(stack, "the stack", true);
    free(small);
    free(large);
    vfree(area);
}

void both_ways() {
    char *p = static_cast<char *>(malloc(kSize));
    fill(p, kSize, 5);
    dma_addr_t at = dma_map_single(dev, p, kSize, DMA_BIDIRECTIONAL);
    device_reads(at);
    dma_sync_single_for_cpu(dev, at, kSize, DMA_BIDIRECTIONAL);
    fill(p, kSize, 6);
    dma_sync_single_for_device(dev, at, kSize, DMA_BIDIRECTIONAL);
    device_writes(at);
    dma_sync_single_for_cpu(dev, at, kSize, DMA_BIDIRECTIONAL);
    check(holds(p, kSize, 5), "one mapping both ways, handed over by sync");
    dma_unmap_single(dev, at, kSize, DMA_BIDIRECTIONAL);
    free(p);
}

void scattered() {
    constexpr unsigned kPieces = 3;
    char *pieces[kPieces];
    scatterlist list[kPieces];
    sg_init_table(list, kPieces);
    for (unsigned i = 0; i < kPieces; i++) {
        pieces[i] = static_cast<char *>(malloc(600));
        fill(pieces[i], 600, 20 + i);
        sg_set_buf(&list[i], pieces[i], 600);
    }
    unsigned mapped = dma_map_sg(dev, list, kPieces, DMA_BIDIRECTIONAL);
    check(mapped >= 1 && mapped <= kPieces, "a scattered list");
    scatterlist *sg;
    unsigned i;
    uint64_t inside = kInside;
    for_each_sg(list, sg, mapped, i) {
        move(sg_dma_address(sg), inside, sg_dma_len(sg), 0);
        inside += sg_dma_len(sg);
    }
    check(inside - kInside == 3 * 600, "  as long for the device as for the program");
    dma_sync_sg_for_cpu(dev, list, kPieces, DMA_BIDIRECTIONAL);
    for (char *piece : pieces)
        memset(piece, 0, 600);
    dma_sync_sg_for_device(dev, list, kPieces, DMA_BIDIRECTIONAL);
    inside = kInside;
    for_each_sg(list, sg, mapped, i) {
        move(inside, sg_dma_address(sg), sg_dma_len(sg), 2);
        inside += sg_dma_len(sg);
    }
    dma_unmap_sg(dev, list, kPieces, DMA_BIDIRECTIONAL);
    bool same = true;
    for (unsigned n = 0; n < kPieces; n++) {
        same = same && holds(pieces[n], 600, 20 + n);
        free(pieces[n]);
    }
    check(same, "  with the same contents");
}

void pooled() {
    dma_pool *pool = dma_pool_create("edu", dev, 2048, 64, 4096);
    dma_addr_t from;
    dma_addr_t to;
    void *a = dma_pool_alloc(pool, GFP_KERNEL, &from);
    void *b = dma_pool_zalloc(pool, GFP_KERNEL, &to);
    bool there = a != nullptr && b != nullptr;
    if (there) {
        fill(a, kSize, 40);
        device_reads(from);
        device_writes(to);
        there = holds(b, kSize, 40);
    }
    check(there, "blocks of a pool");
    dma_pool_free(pool, a, from);
    dma_pool_free(pool, b, to);
    dma_pool_destroy(pool);
}

void zones() {
    void *p = kmalloc(kSize, GFP_KERNEL | GFP_DMA);
    unsigned long page = __get_dma_pages(GFP_KERNEL, 0);
    kmem_cache *cache = kmem_cache_create("edu", kSize, nullptr, SLAB_CACHE_DMA);
    void *object = cache != nullptr ? kmem_cache_alloc(cache, GFP_KERNEL) : nullptr;
    if (!isolated) {
        check(p == nullptr && object == nullptr,
              "GFP_DMA and SLAB_CACHE_DMA: none without an IOMMU");
    } else {
        check(p != nullptr && page != 0 && object != nullptr, "GFP_DMA and SLAB_CACHE_DMA");
        if (p != nullptr)
            round_trip(p, "kmalloc(GFP_DMA)", false);
        if (page != 0)
            round_trip(reinterpret_cast<void *>(page), "__get_dma_pages", false);
        if (object != nullptr)
            round_trip(object, "an object of a SLAB_CACHE_DMA cache", false);
        dma_addr_t at = p != nullptr ? dma_map_single(dev, p, kSize, DMA_TO_DEVICE) : 0;
        check(at != 0 && at + kSize <= 1 << 24, "  below 2^24");
        dma_unmap_single(dev, at, kSize, DMA_TO_DEVICE);
    }
    kfree(p);
    free_page(page);
    if (object != nullptr)
        kmem_cache_free(cache, object);
    kmem_cache_destroy(cache);
}

// A device that writes where it may not changes nothing.
void blocked() {
    constexpr size_t kRange = 1 << 20;
    void *memory =
        mmap(nullptr, kRange, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *p = static_cast<char *>(memory);
    fill(p, kSize, 60);
    dma_addr_t at = dma_map_single(dev, p, kRange, DMA_TO_DEVICE);
    check(dma_mapping_error(dev, at) == 0, "a range of its own");
    device_reads(at);
    fill(p, kSize, 61);
    device_writes(at);
    check(holds(p, kSize, 61), "the device cannot write what is mapped for reading");
    dma_unmap_single(dev, at, kRange, DMA_TO_DEVICE);
    device_writes(at);
    check(holds(p, kSize, 61), "nor what is not mapped any more");
    munmap(memory, kRange);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    isolated = strcmp(argv[1], "noiommu") != 0;
    bits = static_cast<unsigned>(atoi(argv[2]));
    pagoda_iommu kind = !isolated                         ? PAGODA_IOMMU_NONE
                        : strcmp(argv[1], "iommufd") == 0 ? PAGODA_IOMMU_IOMMUFD
                                                          : PAGODA_IOMMU_TYPE1;
    dev = pagoda_device_open(argv[3], kind);
    if (dev == nullptr) {
        printf("FAIL %s\n", pagoda_device_error());
        return 1;
    }
    pci_dev *pdev = to_pci_dev(dev);
    pci_set_master(pdev);
    registers = static_cast<char *>(pci_iomap(pdev, 0, 0));
    check(registers != nullptr && (readl(registers) & 0xffff) == 0xed,
          "the device's identification");
    check(dma_set_mask_and_coherent(dev, DMA_BIT_MASK(bits)) == 0, "its mask");
    if (registers == nullptr)
        return 1;
    coherent_memory();
    streaming_memory();
    both_ways();
    scattered();
    pooled();
    zones();
    if (isolated)
        blocked();
    check(counters().live_mappings == 0, "no mapping is left");
    pci_iounmap(pdev, registers);
    pagoda_device_close(dev);
    printf("%d failed\n", failures);
    return failures != 0;
}
