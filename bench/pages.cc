// What pages and areas cost, as "NAME FIGURE UNIT" lines: struct page arithmetic, kmalloc against
// vmalloc of the same size, and random reads in huge pages against base pages.
//
// pages [--short]

#include <pagoda/mm.h>
#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

namespace {

// Of this thread's CPU time: what else runs does not count.
uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

uint64_t next(uint64_t &state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

// ns for one call of body(), over `count` of them.
template <class F> double each(uint64_t count, F body) {
    uint64_t begin = now_ns();
    for (uint64_t i = 0; i < count; i++)
        body(i);
    return static_cast<double>(now_ns() - begin) / static_cast<double>(count);
}

void arithmetic(uint64_t count) {
    char *block = reinterpret_cast<char *>(__get_free_pages(GFP_KERNEL, MAX_PAGE_ORDER));
    uint64_t random = 1;
    uintptr_t sum = 0;
    double bare = each(count, [&](uint64_t) { sum += next(random) & 0x3fffff; });
    double there = each(count, [&](uint64_t) {
        sum += reinterpret_cast<uintptr_t>(virt_to_page(block + (next(random) & 0x3fffff)));
    });
    double and_back = each(count, [&](uint64_t) {
        struct page *p = virt_to_page(block + (next(random) & 0x3fffff));
        asm("" : "+r"(p));
        sum += reinterpret_cast<uintptr_t>(page_address(p));
    });
    asm volatile("" : : "r"(sum));
    printf("virt_to_page %.2f ns\n", there - bare);
    printf("page_address %.2f ns\n", and_back - there);
    free_pages(reinterpret_cast<unsigned long>(block), MAX_PAGE_ORDER);
}

// A pair of allocation and free, every page written, of sizes that both serve.
void kmalloc_and_vmalloc(uint64_t count) {
    const size_t sizes[] = {4096, 65536, 1 << 20, 4 << 20};
    for (size_t size : sizes) {
        auto touch = [size](void *p) {
            for (size_t at = 0; at < size; at += PAGE_SIZE)
                static_cast<volatile char *>(p)[at] = 1;
        };
        double k = each(count, [&](uint64_t) {
            void *p = kmalloc(size, GFP_KERNEL);
            touch(p);
            kfree(p);
        });
        double v = each(count, [&](uint64_t) {
            void *p = vmalloc(size);
            touch(p);
            vfree(p);
        });
        printf("kmalloc-%zuK %.0f ns\nvmalloc-%zuK %.0f ns\n", size >> 10, k, size >> 10, v);
    }
}

double random_reads(const char *memory, size_t bytes, uint64_t count) {
    uint64_t random = 1;
    size_t at = 0;
    double ns = each(count, [&](uint64_t) {
        // The next address depends on what was read: nothing overlaps.
        at = (next(random) + static_cast<unsigned char>(memory[at])) & (bytes - 1);
    });
    asm volatile("" : : "r"(at));
    return ns;
}

void random_walk(size_t bytes, uint64_t count) {
    void *huge = vmalloc_huge(bytes, GFP_KERNEL);
    void *base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (huge == nullptr || base == MAP_FAILED)
        return;
    madvise(base, bytes, MADV_NOHUGEPAGE);
    memset(huge, 1, bytes);
    memset(base, 1, bytes);
    for (int round = 0; round < 3; round++) {
        printf("walk-base-pages %.1f ns\n", random_reads(static_cast<char *>(base), bytes, count));
        printf("walk-huge-pages %.1f ns\n", random_reads(static_cast<char *>(huge), bytes, count));
    }
    vfree(huge);
    munmap(base, bytes);
}

} // namespace

int main(int argc, char **argv) {
    bool quick = argc > 1 && strcmp(argv[1], "--short") == 0;
    arithmetic(quick ? 1'000'000 : 100'000'000);
    kmalloc_and_vmalloc(quick ? 100 : 20'000);
    random_walk(quick ? size_t{16} << 20 : size_t{1} << 30, quick ? 100'000 : 20'000'000);
}
