// What goes to swap, what never does, and that it comes back as it was. The first argument is the
// case; those that press for memory need a guest with less of it than of swap.
#include <pagoda/cold.h>
#include <pagoda/highmem.h>
#include <pagoda/share.h>
#include <pagoda/slab.h>
#include <pagoda/vmalloc.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr size_t kPage = 4096, kMega = 1 << 20, kBlock = 2 * kMega;

void check(bool holds, const char *what) {
    if (!holds) {
        std::printf("failed: %s\n", what);
        std::exit(1);
    }
}

// A field of /proc/meminfo in bytes.
size_t meminfo(const std::string &field) {
    std::ifstream file("/proc/meminfo");
    std::string name;
    size_t kilobytes = 0;
    while (file >> name >> kilobytes && name != field + ":")
        file.ignore(100, '\n');
    check(file.good(), "the field of /proc/meminfo");
    return kilobytes << 10;
}

size_t swap_used() { return meminfo("SwapTotal") - meminfo("SwapFree"); }

// Every word differs, so that no page can be left out or stand for another.
void fill(void *address, size_t size, uint64_t seed) {
    auto *words = static_cast<uint64_t *>(address);
    for (size_t i = 0; i < size / sizeof *words; i++)
        words[i] = (seed + i) * 0x9e3779b97f4a7c15;
}

bool intact(const void *address, size_t size, uint64_t seed) {
    const auto *words = static_cast<const uint64_t *>(address);
    for (size_t i = 0; i < size / sizeof *words; i++)
        if (words[i] != (seed + i) * 0x9e3779b97f4a7c15)
            return false;
    return true;
}

// How many bytes of a range are in memory, by this process's page table.
size_t present(const void *address, size_t size) {
    std::vector<uint64_t> entries(size / kPage);
    const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(address) / kPage * 8);
    const ssize_t length = pread(fd, entries.data(), entries.size() * 8, at);
    check(length == static_cast<ssize_t>(entries.size() * 8), "the page table can be read");
    close(fd);
    size_t pages = 0;
    for (const uint64_t entry : entries)
        pages += entry >> 63;
    return pages * kPage;
}

// The size of the kernel's pages that a range lies on, in KiB.
int page_kilobytes(const void *address) {
    std::ifstream file("/proc/self/smaps");
    const auto at = reinterpret_cast<uintptr_t>(address);
    bool inside = false;
    int kilobytes = 0;
    for (std::string line; std::getline(file, line);) {
        uintptr_t first = 0, last = 0;
        if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2)
            inside = first <= at && at < last;
        else if (inside && std::sscanf(line.c_str(), "KernelPageSize: %d", &kilobytes) == 1)
            return kilobytes;
    }
    return 0;
}

// Memory as large as the machine's, to press with: each round writes to all of its pages.
class Press {
  public:
    Press() : size_(meminfo("MemTotal") - meminfo("Hugetlb")) {
        void *p = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(p != MAP_FAILED, "memory to press with");
        address_ = static_cast<char *>(p);
    }
    ~Press() { munmap(address_, size_); }
    void round(uint64_t number) {
        for (size_t at = 0; at < size_; at += kPage)
            *reinterpret_cast<volatile uint64_t *>(address_ + at) = number + at;
    }

  private:
    size_t size_;
    char *address_;
};

// Pages of the hugetlb pool and locked ones stay where they are while others go.
void unswappable() {
    struct block {
        void *address;
        int kilobytes;
        bool locked;
    };
    std::vector<block> blocks;
    for (uint64_t i = 0; i < 48; i++) {
        void *p = kmalloc(kBlock, GFP_KERNEL);
        check(p, "memory for the blocks");
        fill(p, kBlock, i);
        blocks.push_back({p, page_kilobytes(p), false});
    }
    // Only now: what a zone grows by is locked as the page before it is.
    for (size_t i = 0; i < blocks.size(); i += 2) {
        block &b = blocks[i];
        b.locked = b.kilobytes == 4;
        check(!b.locked || mlock(b.address, kBlock) == 0, "a block can be locked");
    }
    // Which pages are taken for old, and when, is the kernel's affair: it gets several rounds.
    Press press;
    size_t pool = 0, locked = 0, other = 0, gone = 0;
    for (uint64_t round = 1; round <= 10 && gone <= other / 2; round++) {
        press.round(round);
        pool = locked = other = gone = 0;
        for (const auto &b : blocks) {
            const size_t away = kBlock - present(b.address, kBlock);
            if (b.kilobytes == 2048 || b.locked) {
                check(away == 0, "a page of the pool or a locked one was swapped");
                (b.locked ? locked : pool) += kBlock;
            } else {
                other += kBlock;
                gone += away;
            }
        }
    }
    std::printf("%zu MiB in the pool, %zu MiB locked; of %zu MiB of others %zu went\n",
                pool / kMega, locked / kMega, other / kMega, gone / kMega);
    check(pool >= 16 * kMega && locked >= 16 * kMega && other >= 16 * kMega, "all three kinds");
    check(gone > other / 2, "ordinary memory was not swapped");
    for (uint64_t i = 0; i < blocks.size(); i++)
        check(intact(blocks[i].address, kBlock, i), "the content is the same");
}

// pagoda_pageout() sends memory of every kind to swap, and it comes back when it is touched.
void pageout() {
    constexpr size_t kSize = 16 * kMega;
    const std::pair<const char *, void *> kinds[] = {
        {"malloc", aligned_alloc(kPage, kSize)},
        {"page allocator", page_address(alloc_pages(GFP_KERNEL, MAX_PAGE_ORDER))},
        {"kmalloc", kmalloc(4 * kMega, GFP_KERNEL)},
        {"vmalloc", vmalloc(kSize)},
        {"shared region", pagoda_share_alloc(kSize, GFP_KERNEL)},
    };
    for (const auto &[name, address] : kinds) {
        check(address, name);
        const size_t size = std::string_view(name) == "kmalloc"          ? 4 * kMega
                            : std::string_view(name) == "page allocator" ? kPage << MAX_PAGE_ORDER
                                                                         : kSize;
        fill(address, size, size);
        const size_t before = swap_used();
        check(pagoda_pageout(address, size) == 0, name);
        const size_t left = present(address, size), grown = swap_used() - before;
        std::printf("%s: %zu of %zu KiB stayed, swap grew by %zu KiB\n", name, left >> 10,
                    size >> 10, grown >> 10);
        // A page that another CPU has in its hands at this moment may stay.
        check(left <= size / 10, "the memory is still there");
        check(grown >= size - size / 10, "swap did not take it");
        check(intact(address, size, size), "the content is the same");
        check(present(address, size) == size, "what was touched is back");
    }
}

// What pagoda_cold() names goes before what is as old and was not named.
void cold() {
    constexpr size_t kSize = 64 * kMega;
    void *areas[] = {vmalloc(kSize), vmalloc(kSize)};
    check(areas[0] && areas[1], "the areas");
    fill(areas[0], kSize, 1);
    fill(areas[1], kSize, 2);
    check(pagoda_cold(areas[0], kSize) == 0, "advice");
    const size_t need = meminfo("MemAvailable") + kSize / 2;
    void *p = mmap(nullptr, need, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "memory to press with");
    fill(p, need, 3);
    const size_t named = kSize - present(areas[0], kSize);
    const size_t other = kSize - present(areas[1], kSize);
    std::printf("%zu KiB of the cold area went, %zu KiB of the other\n", named >> 10, other >> 10);
    check(named >= 16 * kMega && named >= 2 * other, "the cold area did not go first");
    check(intact(areas[0], kSize, 1) && intact(areas[1], kSize, 2), "the content is the same");
}

// A HIGHMEM zone larger than the memory of the machine: pages without a mapping are swapped too.
void highmem() {
    const size_t total = meminfo("MemTotal"), pages = total / kPage * 5 / 4;
    std::vector<struct page *> all;
    for (size_t i = 0; i < pages; i++) {
        struct page *page = alloc_page(GFP_HIGHUSER);
        check(page && PageHighMem(page), "a page of HIGHMEM");
        all.push_back(page);
        void *p = kmap_local_page(page);
        fill(p, kPage, i);
        kunmap_local(p);
    }
    std::printf("%zu MiB of pages, %zu MiB of memory, %zu MiB in swap\n", pages * kPage / kMega,
                total / kMega, swap_used() / kMega);
    check(swap_used() >= total / 4, "the pages do not fit into memory");
    for (size_t i = 0; i < pages; i++) {
        void *p = kmap_local_page(all[i]);
        check(intact(p, kPage, i), "the content is the same");
        kunmap_local(p);
        __free_page(all[i]);
    }
}

// A store larger than the memory of the machine, written by a program that is killed, read by the
// next.
void store(bool first) {
    struct pagoda_store *s =
        pagoda_store_open("/tmp/store", first ? getenv("PAGODA_COMMAND") : nullptr);
    check(s && pagoda_store_keeper(s) > 0, "a keeper");
    const size_t total = meminfo("MemTotal");
    const size_t objects = total * 5 / 4 / kBlock;
    for (size_t i = 0; i < objects; i++) {
        bool found = false;
        void *p = pagoda_store_get(s, ("object " + std::to_string(i)).c_str(), kBlock, &found);
        check(p && found == !first, "an object");
        if (first)
            fill(p, kBlock, i);
        else
            check(intact(p, kBlock, i), "the content is the same");
    }
    std::printf("%zu MiB in the store, %zu MiB of memory, %zu MiB in swap\n",
                objects * kBlock / kMega, total / kMega, swap_used() / kMega);
    check(swap_used() >= total / 4, "the store does not fit into memory");
    if (first) {
        std::fflush(stdout);
        raise(SIGKILL);
    }
    kill(pagoda_store_keeper(s), SIGKILL);
}

} // namespace

int main(int argc, char **argv) {
    const std::string_view name = argc > 1 ? argv[1] : "";
    check(meminfo("SwapTotal") > meminfo("MemTotal"), "there is more swap than memory");
    if (name == "unswappable")
        unswappable();
    else if (name == "pageout")
        pageout();
    else if (name == "cold")
        cold();
    else if (name == "highmem")
        highmem();
    else if (name == "write_store" || name == "read_store")
        store(name == "write_store");
    else
        check(false, "the name of a case");
}
