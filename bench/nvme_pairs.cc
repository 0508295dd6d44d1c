// nvme_pairs WHERE [--short]: requests from malloc'd buffers, each mapped for its request, against
// the same driver on mmap'd buffers that were mapped once: 4 KiB, half of them writes (which
// destroy what the drive holds), 31 at a time from each of two threads, a fixed number of them in
// each run.
//
//   nvme_pairs 1b36:0010           101 pairs of each, as the documentation quotes them
//   nvme_pairs 1b36:0010 --short   a few, to see that it runs
//
// By CPU time as in bench/pairs: of polling it is the time that the requests take, of interrupts
// the work alone. Status 1 if a buffer was copied or a request failed.
extern "C" {
#include "examples/nvme/nvme.h"
}

#include "bench/pair.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <thread>

namespace {

constexpr unsigned kThreads = 2, kDepth = 32, kInFlight = kDepth - 1;
constexpr uint32_t kBytes = 4096;

struct nvme *drive;
unsigned requests = 500; // of each thread in a run
std::atomic<bool> failed;

struct worker;

struct slot {
    struct worker *owner;
    void *buffer;
    dma_addr_t at;
    bool busy;
};

struct worker {
    nvme_queue *polled, *interrupting;
    slot allocated[kInFlight], mapped[kInFlight];
    uint64_t random;
    unsigned left;
} workers[kThreads];

void done(void *arg, unsigned status) {
    auto *s = static_cast<slot *>(arg);
    s->busy = false;
    s->owner->left--;
    if (status != 0)
        failed = true;
}

void begin(worker &w, nvme_queue *queue, slot &s, bool premapped) {
    w.random ^= w.random << 13;
    w.random ^= w.random >> 7;
    w.random ^= w.random << 17;
    const nvme_info *info = nvme_get_info(drive);
    uint64_t blocks = kBytes / info->block_bytes;
    uint64_t lba = (w.random >> 1) % (info->blocks / blocks) * blocks;
    bool write = (w.random & 1) != 0;
    s.busy = true;
    int r = premapped ? nvme_submit_mapped(queue, write, lba, s.at, kBytes, done, &s)
                      : nvme_submit(queue, write, lba, s.buffer, kBytes, done, &s);
    if (r < 0)
        failed = true;
}

void work(worker &w, bool interrupts, bool premapped) {
    nvme_queue *queue = interrupts ? w.interrupting : w.polled;
    slot *slots = premapped ? w.mapped : w.allocated;
    unsigned begun = 0;
    w.left = requests;
    w.random = 0x9e3779b97f4a7c15 + static_cast<uint64_t>(&w - workers);
    while (w.left != 0 && !failed) {
        for (unsigned i = 0; i < kInFlight && begun < requests; i++)
            if (!slots[i].busy) {
                begin(w, queue, slots[i], premapped);
                begun++;
            }
        if (nvme_poll(queue) == 0)
            nvme_wait(queue, 100);
    }
}

template <bool Interrupts, bool Premapped> void run() {
    std::thread threads[kThreads];
    for (unsigned i = 0; i < kThreads; i++)
        threads[i] = std::thread([i] { work(workers[i], Interrupts, Premapped); });
    for (std::thread &t : threads)
        t.join();
}

bool prepare(worker &w) {
    w.polled = nvme_queue_create(drive, kDepth, false);
    w.interrupting = nvme_queue_create(drive, kDepth, true);
    size_t bytes = size_t{kInFlight} * kBytes;
    void *pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w.polled == nullptr || w.interrupting == nullptr || pages == MAP_FAILED)
        return false;
    dma_addr_t at = dma_map_single(nvme_device(drive), pages, bytes, DMA_BIDIRECTIONAL);
    if (dma_mapping_error(nvme_device(drive), at))
        return false;
    for (unsigned i = 0; i < kInFlight; i++) {
        w.allocated[i] = {&w, std::malloc(kBytes), 0, false};
        w.mapped[i] = {&w, static_cast<char *>(pages) + size_t{i} * kBytes,
                       at + dma_addr_t{i} * kBytes, false};
        if (w.allocated[i].buffer == nullptr)
            return false;
    }
    return true;
}

void end(worker &w) {
    nvme_queue_destroy(w.polled);
    nvme_queue_destroy(w.interrupting);
    size_t bytes = size_t{kInFlight} * kBytes;
    dma_unmap_single(nvme_device(drive), w.mapped[0].at, bytes, DMA_BIDIRECTIONAL);
    munmap(w.mapped[0].buffer, bytes);
    for (slot &s : w.allocated)
        std::free(s.buffer);
}

} // namespace

int main(int argc, char **argv) {
    bool brief = argc == 3 && std::strcmp(argv[2], "--short") == 0;
    if (argc < 2 || (argc > 2 && !brief))
        return 2;
    int pairs = brief ? 3 : 101;
    if (brief)
        requests = 200;
    drive = nvme_open(argv[1], PAGODA_IOMMU_ANY);
    if (drive == nullptr) {
        const char *why = pagoda_device_error();
        std::fprintf(stderr, "nvme_pairs: %s\n", why[0] != 0 ? why : std::strerror(errno));
        return 1;
    }
    for (worker &w : workers)
        if (!prepare(w)) {
            std::fprintf(stderr, "nvme_pairs: no queues or no buffers\n");
            return 1;
        }
    std::printf("median ratio of CPU time in %d pairs (quartiles)\n", pairs);
    bench::compare("malloc'd : mapped by hand, polled", run<false, false>, run<false, true>, pairs);
    bench::compare("malloc'd : mapped by hand, interrupts", run<true, false>, run<true, true>,
                   pairs);
    pagoda_dma_counters counters;
    pagoda_dma_get_counters(nvme_device(drive), &counters);
    std::printf("%llu bounced, %llu MAP calls\n", static_cast<unsigned long long>(counters.bounced),
                static_cast<unsigned long long>(counters.map_calls));
    bool bad = failed || counters.bounced != 0;
    if (!failed) { // else something may be in flight still
        for (worker &w : workers)
            end(w);
        nvme_close(drive);
    }
    return bad;
}
