// A real driver for QEMU's teaching device, over each way to a device: registers, configuration
// space, interrupts, and its DMA engine on memory of every kind. The first argument is the mode
// (type1, iommufd, noiommu), the second the case: nothing (what works), "entries" (mappings until
// the IOMMU takes no more), "memlock" (a user with a small limit), "blocked" (the device writes
// where nothing is mapped), "removed" (the system wants it back), "killed" (its process ends in the
// middle), "shared" (two of them in one address space).
#include <pagoda/dma-mapping.h>
#include <pagoda/io.h>
#include <pagoda/pci.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

int failures = 0;

bool expect(bool holds, const std::string &what) {
    if (!holds)
        std::printf("NO: %s (errno %d, %s)\n", what.c_str(), errno, pagoda_device_error());
    failures += !holds;
    return holds;
}

[[noreturn]] void fatal(const char *what) {
    std::printf("FAILED: %s: %s\n", what, pagoda_device_error());
    std::exit(1);
}

bool said(const char *text) { return std::strstr(pagoda_device_error(), text) != nullptr; }

// Registers and bits of the device.
constexpr unsigned kId = 0x00, kLive = 0x04, kIrqStatus = 0x24, kIrqRaise = 0x60, kIrqClear = 0x64,
                   kSource = 0x80, kDestination = 0x88, kCount = 0x90, kCommand = 0x98;
constexpr uint64_t kBuffer = 0x40000; // the device's own memory: 4 KiB
constexpr uint64_t kStart = 1, kFromDevice = 2;
constexpr size_t kBytes = 4000; // a transfer of 4096 ends QEMU 7.2

class edu {
  public:
    edu(const char *where, pagoda_iommu kind) : dev(pagoda_device_open(where, kind)) {
        if (dev == nullptr)
            fatal("opening it");
        pci = to_pci_dev(dev);
        bar = static_cast<char *>(pci_iomap(pci, 0, 0));
        if (bar == nullptr)
            fatal("mapping its registers");
        pci_read_config_word(pci, PCI_COMMAND, &command_at_first);
        pci_set_master(pci);
    }
    ~edu() { pagoda_device_close(dev); }
    edu(const edu &) = delete;
    edu &operator=(const edu &) = delete;

    void run(uint64_t from, uint64_t to, size_t bytes, uint64_t command) {
        writeq(from, bar + kSource);
        writeq(to, bar + kDestination);
        writeq(bytes, bar + kCount);
        writeq(command | kStart, bar + kCommand);
        for (int i = 0; (readq(bar + kCommand) & kStart) != 0; i++) {
            if (i > 10000)
                fatal("a transfer does not end");
            usleep(1000);
        }
    }
    void take(dma_addr_t from, size_t bytes) { run(from, kBuffer, bytes, 0); }
    void give(dma_addr_t to, size_t bytes) { run(kBuffer, to, bytes, kFromDevice); }

    device *dev;
    pci_dev *pci = nullptr;
    char *bar = nullptr;
    uint16_t command_at_first = 0;
};

void fill(unsigned char *p, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++)
        p[i] = static_cast<unsigned char>(seed + i * 7 + i / 256);
}

bool filled(const unsigned char *p, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != static_cast<unsigned char>(seed + i * 7 + i / 256))
            return false;
    return true;
}

void registers(edu &e) {
    expect(readl(e.bar + kId) == 0x010000ed, "the id register");
    writel(0x12345678, e.bar + kLive);
    expect(readl(e.bar + kLive) == ~0x12345678u, "the liveness register inverts");
    // Below 0x80 the device answers accesses of 4 bytes alone: any other width shows.
    uint32_t words[2] = {};
    memcpy_fromio(words, e.bar + kId, sizeof words);
    expect(words[0] == 0x010000ed && words[1] == ~0x12345678u, "copies are of words");
    uint32_t again = 0xa5a5a5a5;
    memcpy_toio(e.bar + kLive, &again, sizeof again);
    expect(readl(e.bar + kLive) == ~again, "copies to it are of words");
    auto *second = static_cast<char *>(ioremap(pci_resource_start(e.pci, 0), 4096));
    expect(second != nullptr && second != e.bar, "the BAR at a second place");
    expect(second != nullptr && readl(second + kLive) == ~again, "which is the same registers");
    iounmap(second);
    expect(ioremap(0xa0000, 4096) == nullptr && errno == ENXIO, "other physical memory is refused");
    expect(ioremap_wc(pci_resource_start(e.pci, 0), 4096) == nullptr && said("write-combining"),
           "this BAR cannot be write-combining");
    expect(request_mem_region(pci_resource_start(e.pci, 0), 4096, "edu") != nullptr, "a claim");
    expect(request_mem_region(pci_resource_start(e.pci, 0), 1, "other") == nullptr, "only one");
    uint64_t offset = 0, bytes = 0;
    int fd = pagoda_pci_bar_fd(e.pci, 0, &offset, &bytes);
    expect(fd >= 0 && bytes == pci_resource_len(e.pci, 0), "a descriptor for others");
    close(fd);
}

void configuration(edu &e) {
    uint16_t word = 0;
    expect(pci_read_config_word(e.pci, PCI_VENDOR_ID, &word) == 0 && word == 0x1234, "its vendor");
    expect(e.pci->vendor == 0x1234 && e.pci->device == 0x11e8, "the same by sysfs");
    int msi = pci_find_capability(e.pci, PCI_CAP_ID_MSI);
    expect(msi >= 0x40, "it has messages");
    pci_clear_master(e.pci);
    pci_read_config_word(e.pci, PCI_COMMAND, &word);
    expect((word & PCI_COMMAND_MASTER) == 0, "bus mastering off");
    pci_set_master(e.pci);
    pci_read_config_word(e.pci, PCI_COMMAND, &word);
    expect((word & PCI_COMMAND_MASTER) != 0, "and on");
    expect(pci_read_config_dword(e.pci, 4096, reinterpret_cast<uint32_t *>(&msi)) == -EINVAL,
           "no more than its configuration space");
}

void interrupt(edu &e, unsigned kind, const char *name) {
    if (!expect(pci_alloc_irq_vectors(e.pci, 1, 1, kind) == 1, name))
        return;
    int fd = pci_irq_vector(e.pci, 0);
    for (uint32_t round = 1; round <= 3; round++) {
        writel(round, e.bar + kIrqRaise);
        pollfd waiting = {fd, POLLIN, 0};
        uint64_t count = 0;
        expect(poll(&waiting, 1, 5000) == 1 && read(fd, &count, sizeof count) == sizeof count,
               std::string(name) + " comes");
        expect(readl(e.bar + kIrqStatus) == round, "and has its reason");
        writel(round, e.bar + kIrqClear);
        expect(pagoda_pci_irq_unmask(e.pci) == 0, "it may come again");
    }
    pci_free_irq_vectors(e.pci);
}

void coherent(edu &e) {
    dma_addr_t handle = 0;
    auto *p = static_cast<unsigned char *>(dma_alloc_coherent(e.dev, 8192, &handle, GFP_KERNEL));
    if (!expect(p != nullptr, "coherent memory"))
        return;
    expect(handle + 8191 < uint64_t{1} << 28, "below the mask");
    fill(p, kBytes, 1);
    e.take(handle, kBytes);
    e.give(handle + 4096, kBytes);
    expect(filled(p + 4096, kBytes, 1), "coherent memory, there and back");
    dma_free_coherent(e.dev, 8192, p, handle);
}

// There and back through mappings of one direction each.
void streaming(edu &e, unsigned char *from, unsigned char *to, const std::string &what) {
    fill(from, kBytes, 3);
    std::memset(to, 0, kBytes);
    dma_addr_t in = dma_map_single(e.dev, from, kBytes, DMA_TO_DEVICE);
    if (!expect(!dma_mapping_error(e.dev, in), what + ": mapped for the device to read"))
        return;
    e.take(in, kBytes);
    dma_unmap_single(e.dev, in, kBytes, DMA_TO_DEVICE);
    dma_addr_t out = dma_map_single(e.dev, to, kBytes, DMA_FROM_DEVICE);
    if (!expect(!dma_mapping_error(e.dev, out), what + ": mapped for the device to write"))
        return;
    e.give(out, kBytes);
    dma_unmap_single(e.dev, out, kBytes, DMA_FROM_DEVICE);
    expect(filled(to, kBytes, 3), what + ": there and back");
}

void buffers(edu &e, bool translated) {
    std::vector<unsigned char> heap(2 * kBytes);
    unsigned char stack[2 * kBytes];
    pagoda_dma_counters before, after;
    pagoda_dma_get_counters(e.dev, &before);
    streaming(e, &heap[0], &heap[kBytes], "malloc");
    pagoda_dma_get_counters(e.dev, &after);
    if (!translated)
        expect(after.bounced == before.bounced + 2, "malloc'd memory is bounced without an IOMMU");
    streaming(e, stack, stack + kBytes, "stack");
    if (translated) {
        expect(dma_set_mask(e.dev, DMA_BIT_MASK(64)) == 0, "a wider mask");
        pagoda_dma_get_counters(e.dev, &before);
        dma_addr_t at = dma_map_single(e.dev, heap.data(), kBytes, DMA_TO_DEVICE);
        pagoda_dma_get_counters(e.dev, &after);
        expect(!dma_mapping_error(e.dev, at) && after.bounced == before.bounced,
               "malloc'd memory is reached where the device reaches far enough");
        dma_unmap_single(e.dev, at, kBytes, DMA_TO_DEVICE);
        expect(dma_set_mask(e.dev, DMA_BIT_MASK(28)) == 0, "the device's mask again");
    }
}

void forked(edu &e) {
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        uint16_t word = 0;
        bool dead = pci_read_config_word(e.pci, PCI_COMMAND, &word) == -ENODEV;
        char *p = static_cast<char *>(std::malloc(100));
        dead &= dma_map_single(e.dev, p, 100, DMA_TO_DEVICE) == DMA_MAPPING_ERROR;
        pagoda_device_close(e.dev);
        _exit(dead ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    expect(status == 0, "a child's copy of the device is dead");
    coherent(e);
}

void works(const char *where, pagoda_iommu kind) {
    edu e(where, kind);
    bool translated = kind != PAGODA_IOMMU_NONE;
    expect(pagoda_device_iommu(e.dev) == kind, "the mode that was asked for");
    uint64_t first[8], last[8];
    int windows = pagoda_device_windows(e.dev, first, last, 8);
    expect(translated ? windows >= 2 && last[0] == 0xfedfffff : windows == 1, "the windows");
    registers(e);
    configuration(e);
    interrupt(e, PCI_IRQ_MSI, "a message");
    interrupt(e, PCI_IRQ_INTX, "a line");
    expect(pci_alloc_irq_vectors(e.pci, 1, 1, PCI_IRQ_MSIX) == -ENOSPC, "it has no MSI-X");
    expect(pagoda_pci_removal_fd(e.pci) >= 0, "requests to give it back can be heard");
    expect(dma_set_mask_and_coherent(e.dev, DMA_BIT_MASK(28)) == 0, "its mask of 28 bits");
    coherent(e);
    buffers(e, translated);
    forked(e);
}

// The device writes and reads where nothing is mapped any more.
void blocked(const char *where, pagoda_iommu kind) {
    edu e(where, kind);
    expect(dma_set_mask_and_coherent(e.dev, DMA_BIT_MASK(28)) == 0, "its mask");
    dma_addr_t known = 0;
    auto *p = static_cast<unsigned char *>(dma_alloc_coherent(e.dev, 4096, &known, GFP_KERNEL));
    expect(p != nullptr, "coherent memory");
    fill(p, kBytes, 5);
    e.take(known, kBytes);
    pagoda_dma_set_mode(e.dev, PAGODA_DMA_STRICT);
    auto *page = static_cast<unsigned char *>(std::aligned_alloc(4096, 4096));
    std::memset(page, 0x55, 4096);
    dma_addr_t gone = dma_map_single(e.dev, page, 4096, DMA_FROM_DEVICE);
    expect(!dma_mapping_error(e.dev, gone), "a page of its own");
    dma_unmap_single(e.dev, gone, 4096, DMA_FROM_DEVICE);
    e.give(gone, kBytes);
    dma_addr_t read_only = dma_map_single(e.dev, page, 4096, DMA_TO_DEVICE);
    expect(!dma_mapping_error(e.dev, read_only), "a page to read");
    e.give(read_only, kBytes);
    for (int i = 0; i < 4096; i++)
        if (page[i] != 0x55) {
            expect(false, "a blocked write changed memory");
            break;
        }
    dma_unmap_single(e.dev, read_only, 4096, DMA_TO_DEVICE);
    std::printf("gone %#llx\n", static_cast<unsigned long long>(gone));
    dma_free_coherent(e.dev, 4096, p, known);
}

// One mapping for each page until there is no entry left, and none of it afterwards.
void entries(const char *where, pagoda_iommu kind) {
    constexpr size_t kPages = 1024, kMost = 70000;
    edu e(where, kind);
    dma_set_mask_and_coherent(e.dev, DMA_BIT_MASK(64));
    pagoda_dma_set_mode(e.dev, PAGODA_DMA_STRICT);
    std::vector<void *> pages; // objects of their own: each can be mapped 32,767 times
    for (size_t i = 0; i < kPages; i++)
        pages.push_back(std::memset(std::aligned_alloc(4096, 4096), 1, 4096));
    pagoda_dma_counters at;
    pagoda_dma_get_counters(e.dev, &at);
    uint64_t left = at.entries_left;
    std::vector<dma_addr_t> mapped;
    while (mapped.size() < kMost) {
        void *page = pages[mapped.size() % kPages];
        dma_addr_t m = dma_map_single(e.dev, page, 4096, DMA_BIDIRECTIONAL);
        if (dma_mapping_error(e.dev, m))
            break;
        mapped.push_back(m);
    }
    std::string text = pagoda_device_error();
    pagoda_dma_get_counters(e.dev, &at);
    std::printf("%zu mappings of %llu, %llu left: %s\n", mapped.size(),
                static_cast<unsigned long long>(left),
                static_cast<unsigned long long>(at.entries_left), text.c_str());
    if (kind == PAGODA_IOMMU_TYPE1) {
        expect(mapped.size() == left && left > 65000 && left <= 65535, "as many as were left");
        expect(at.entries_left == 0, "none is left");
        expect(text.find("65,535") != std::string::npos, "and the sentence says so");
    } else {
        expect(mapped.size() == kMost, "iommufd has no such limit");
    }
    for (dma_addr_t m : mapped)
        dma_unmap_single(e.dev, m, 4096, DMA_BIDIRECTIONAL);
    pagoda_dma_get_counters(e.dev, &at);
    expect(at.entries_left == left && at.live_mappings == 0, "all of them are back");
}

void memlock(const char *where, pagoda_iommu kind) {
    edu e(where, kind);
    dma_set_mask_and_coherent(e.dev, DMA_BIT_MASK(64));
    auto *p = static_cast<char *>(std::malloc(4 << 20));
    std::memset(p, 1, 4 << 20);
    dma_addr_t m = dma_map_single(e.dev, p, 4 << 20, DMA_TO_DEVICE);
    expect(dma_mapping_error(e.dev, m), "the limit is in the way");
    std::printf("%s\n", pagoda_device_error());
    expect(said("RLIMIT_MEMLOCK is 64 KiB") && said("CAP_IPC_LOCK"), "and the sentence says so");
}

// The name of the device to a file of its driver's.
bool tell_driver(const char *file) {
    FILE *f = std::fopen((std::string("/sys/bus/pci/drivers/vfio-pci/") + file).c_str(), "w");
    bool written = f != nullptr && std::fputs("0000:00:04.0", f) >= 0;
    return f != nullptr && std::fclose(f) == 0 && written;
}

// Somebody unbinds the device while it is open: the request is heard, and closing lets it go.
void removed(const char *where, pagoda_iommu kind) {
    auto *e = new edu(where, kind);
    int fd = pagoda_pci_removal_fd(e->pci);
    pollfd waiting = {fd, POLLIN, 0};
    expect(poll(&waiting, 1, 0) == 0, "nobody wants it back");
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) // holds nothing of the device, else this would never end
        _exit(tell_driver("unbind") ? 0 : 1);
    expect(poll(&waiting, 1, 20000) == 1, "the system asks for it");
    expect(readl(e->bar + kId) == 0x010000ed, "it works until it is closed");
    delete e;
    int status = -1;
    waitpid(child, &status, 0);
    expect(status == 0, "and is unbound then");
    expect(pagoda_device_open(where, kind) == nullptr && said("not bound to vfio-pci"),
           "opening it says how to bind it again");
    expect(tell_driver("bind"), "bound again");
    edu again(where, kind);
    expect(readl(again.bar + kId) == 0x010000ed, "it works as before");
}

// A process is killed while the device writes to its memory: the next one has a quiet device.
void killed(const char *where, pagoda_iommu kind) {
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        edu e(where, kind);
        dma_set_mask_and_coherent(e.dev, DMA_BIT_MASK(28));
        dma_addr_t handle = 0;
        if (dma_alloc_coherent(e.dev, 4096, &handle, GFP_KERNEL) == nullptr)
            _exit(1);
        writeq(kBuffer, e.bar + kSource);
        writeq(handle, e.bar + kDestination);
        writeq(kBytes, e.bar + kCount);
        writeq(kFromDevice | kStart, e.bar + kCommand);
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    expect(WIFSIGNALED(status), "it was killed in the middle");
    edu e(where, kind);
    expect((e.command_at_first & (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)) == PCI_COMMAND_MEMORY,
           "the next process has a quiet device");
    expect(dma_set_mask_and_coherent(e.dev, DMA_BIT_MASK(28)) == 0, "its mask");
    // Nothing resets this device: it takes no order before it is through with the last one.
    for (int i = 0; i < 200 && (readl(e.bar + kCommand) & kStart) != 0; i++)
        usleep(10'000);
    coherent(e);
}

// What one device can reach, the other one can at the same address.
void shared(pagoda_iommu kind) {
    edu *a = new edu("00:04.0", kind);
    edu b("00:05.0", kind);
    for (edu *e : {a, &b})
        expect(dma_set_mask_and_coherent(e->dev, DMA_BIT_MASK(28)) == 0, "the mask");
    dma_addr_t handle = 0;
    auto *p = static_cast<unsigned char *>(dma_alloc_coherent(b.dev, 8192, &handle, GFP_KERNEL));
    if (!expect(p != nullptr, "coherent memory"))
        return;
    fill(p, kBytes, 9);
    a->take(handle, kBytes);
    a->give(handle + 4096, kBytes);
    expect(filled(p + 4096, kBytes, 9), "one device writes where the other one's memory is");
    std::memset(p + 4096, 0, kBytes);
    delete a;
    b.take(handle, kBytes);
    b.give(handle + 4096, kBytes);
    expect(filled(p + 4096, kBytes, 9), "and closing the first leaves the second alone");
    dma_free_coherent(b.dev, 8192, p, handle);
}

} // namespace

int main(int argc, char **argv) {
    const std::string_view mode = argc > 1 ? argv[1] : "", what = argc > 2 ? argv[2] : "";
    const pagoda_iommu kind = mode == "type1"     ? PAGODA_IOMMU_TYPE1
                              : mode == "iommufd" ? PAGODA_IOMMU_IOMMUFD
                              : mode == "noiommu" ? PAGODA_IOMMU_NONE
                                                  : PAGODA_IOMMU_ANY;
    const char *where = what.empty() ? "1234:11e8" : "00:04.0";
    if (what == "entries")
        entries(where, kind);
    else if (what == "memlock")
        memlock(where, kind);
    else if (what == "blocked")
        blocked(where, kind);
    else if (what == "removed")
        removed(where, kind);
    else if (what == "killed")
        killed(where, kind);
    else if (what == "shared")
        shared(kind);
    else
        works(where, kind);
    std::printf("%s: %d failed\n", argc > 1 ? argv[1] : "any", failures);
    return failures != 0;
}
