/* nvme: what the controller says of itself; with --write random 4 KiB reads and writes, verified,
 * which destroy what namespace 1 holds. */
#include "examples/nvme/nvme.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PIECE = 4096, MAX_DEPTH = 1024, MAX_THREADS = 16 };

struct settings {
    unsigned threads, depth, seconds;
    bool interrupts, write, premapped;
};

/* One piece in flight. */
struct slot {
    struct worker *worker;
    unsigned char *buffer;
    dma_addr_t at; /* premapped */
    uint32_t piece;
    bool write, busy;
};

/* A thread with a queue and a part of the namespace of its own. */
struct worker {
    const struct settings *settings;
    struct nvme *nvme;
    struct nvme_queue *queue;
    uint32_t first_piece, pieces;
    uint32_t *generations; /* of each piece: 0 is not written yet */
    struct slot slots[MAX_DEPTH];
    uint64_t random, reads, writes;
    const char *failure;
};

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Contents that say which piece they are, and which write of it. */
static uint64_t word_of(uint32_t piece, uint32_t generation, unsigned word) {
    uint64_t x = ((uint64_t)piece << 32 | generation) + word * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static void fill(struct slot *s) {
    uint64_t *words = (uint64_t *)(void *)s->buffer;
    for (unsigned i = 0; i < PIECE / 8; i++)
        words[i] = word_of(s->worker->first_piece + s->piece, s->worker->generations[s->piece], i);
}

static bool check(const struct slot *s) {
    const uint64_t *words = (const uint64_t *)(const void *)s->buffer;
    uint32_t generation = s->worker->generations[s->piece];
    if (generation == 0)
        return true;
    for (unsigned i = 0; i < PIECE / 8; i++)
        if (words[i] != word_of(s->worker->first_piece + s->piece, generation, i))
            return false;
    return true;
}

static void done(void *arg, unsigned status) {
    struct slot *s = arg;
    if (status != 0)
        s->worker->failure = "the controller reported an error";
    else if (!s->write && !check(s))
        s->worker->failure = "a piece does not hold what was written to it";
    if (s->write)
        s->worker->writes++;
    else
        s->worker->reads++;
    s->busy = false;
}

static bool in_flight(const struct worker *w, uint32_t piece) {
    for (unsigned i = 0; i + 1 < w->settings->depth; i++)
        if (w->slots[i].busy && w->slots[i].piece == piece)
            return true;
    return false;
}

static bool begin(struct worker *w, struct slot *s) {
    s->piece = (uint32_t)(next_random(&w->random) % w->pieces);
    if (in_flight(w, s->piece))
        return true;
    s->write = (next_random(&w->random) & 1) != 0;
    if (s->write) {
        w->generations[s->piece]++;
        fill(s);
    }
    uint64_t lba =
        (uint64_t)(w->first_piece + s->piece) * (PIECE / nvme_get_info(w->nvme)->block_bytes);
    int r = w->settings->premapped
                ? nvme_submit_mapped(w->queue, s->write, lba, s->at, PIECE, done, s)
                : nvme_submit(w->queue, s->write, lba, s->buffer, PIECE, done, s);
    if (r < 0)
        w->failure = strerror(-r);
    s->busy = r >= 0;
    return r >= 0;
}

static bool any_busy(const struct worker *w) {
    for (unsigned i = 0; i + 1 < w->settings->depth; i++)
        if (w->slots[i].busy)
            return true;
    return false;
}

static void *work(void *arg) {
    struct worker *w = arg;
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += w->settings->seconds;
    do {
        for (unsigned i = 0; i + 1 < w->settings->depth && w->failure == NULL; i++)
            if (!w->slots[i].busy && !begin(w, &w->slots[i]))
                break;
        if (nvme_poll(w->queue) == 0)
            nvme_wait(w->queue, 100);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (w->failure == NULL && now.tv_sec < end.tv_sec);
    while (any_busy(w) && now.tv_sec < end.tv_sec + 10) {
        nvme_poll(w->queue);
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    if (any_busy(w) && w->failure == NULL)
        w->failure = "requests did not complete";
    return NULL;
}

/* malloc'd buffers, or pages mapped by hand once for all. */
static bool worker_start(struct worker *w, unsigned number) {
    const struct settings *s = w->settings;
    uint64_t pieces =
        nvme_get_info(w->nvme)->blocks / (PIECE / nvme_get_info(w->nvme)->block_bytes);
    w->pieces = (uint32_t)(pieces / s->threads < (1u << 20) ? pieces / s->threads : 1u << 20);
    w->first_piece = number * w->pieces;
    w->random = 0x9e3779b97f4a7c15 + number;
    w->generations = calloc(w->pieces, sizeof(*w->generations));
    w->queue = nvme_queue_create(w->nvme, s->depth, s->interrupts);
    if (w->generations == NULL || w->queue == NULL || w->pieces < s->depth)
        return false;
    unsigned char *pages = NULL;
    dma_addr_t at = 0;
    size_t bytes = (size_t)s->depth * PIECE;
    if (s->premapped) {
        pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED)
            return false;
        at = dma_map_single(nvme_device(w->nvme), pages, bytes, DMA_BIDIRECTIONAL);
        if (dma_mapping_error(nvme_device(w->nvme), at))
            return false;
    }
    for (unsigned i = 0; i + 1 < s->depth; i++) {
        struct slot *slot = &w->slots[i];
        *slot = (struct slot){.worker = w};
        slot->buffer = s->premapped ? pages + (size_t)i * PIECE : malloc(PIECE);
        slot->at = at + (dma_addr_t)i * PIECE;
        if (slot->buffer == NULL)
            return false;
    }
    return true;
}

static void worker_end(struct worker *w) {
    if (w->queue != NULL)
        nvme_queue_destroy(w->queue);
    size_t bytes = (size_t)w->settings->depth * PIECE;
    if (w->settings->premapped && w->slots[0].buffer != NULL) {
        dma_unmap_single(nvme_device(w->nvme), w->slots[0].at, bytes, DMA_BIDIRECTIONAL);
        munmap(w->slots[0].buffer, bytes);
    }
    for (unsigned i = 0; !w->settings->premapped && i + 1 < w->settings->depth; i++)
        free(w->slots[i].buffer);
    free(w->generations);
}

static int exercise(struct nvme *nvme, const struct settings *s) {
    struct worker *workers = calloc(s->threads, sizeof(*workers));
    pthread_t threads[MAX_THREADS];
    unsigned started = 0;
    const char *failure = NULL;
    if (workers == NULL)
        return 1;
    for (unsigned i = 0; i < s->threads; i++) {
        workers[i].settings = s;
        workers[i].nvme = nvme;
        if (!worker_start(&workers[i], i))
            failure = "a queue or its buffers could not be had";
    }
    while (failure == NULL && started < s->threads &&
           pthread_create(&threads[started], NULL, work, &workers[started]) == 0)
        started++;
    if (failure == NULL && started < s->threads)
        failure = "a thread could not be started";
    uint64_t reads = 0;
    uint64_t writes = 0;
    for (unsigned i = 0; i < s->threads; i++) {
        if (i < started)
            pthread_join(threads[i], NULL);
        reads += workers[i].reads;
        writes += workers[i].writes;
        if (workers[i].failure != NULL)
            failure = workers[i].failure;
        worker_end(&workers[i]);
    }
    struct pagoda_dma_counters counters;
    pagoda_dma_get_counters(nvme_device(nvme), &counters);
    free(workers);
    printf("%llu reads, %llu writes of 4 KiB, verified: %s\n", (unsigned long long)reads,
           (unsigned long long)writes, failure != NULL ? failure : "all as written");
    printf("%llu bounced, %llu MAP calls\n", (unsigned long long)counters.bounced,
           (unsigned long long)counters.map_calls);
    return failure != NULL;
}

static int usage(int status) {
    fprintf(
        status == 0 ? stdout : stderr,
        "nvme [OPTION]... WHERE\n\n"
        "WHERE is a PCI address (0000:00:05.0) or vendor:device (1b36:0010), bound to vfio-pci.\n"
        "Prints what the controller says of itself.\n\n"
        "  --iommu=type1|iommufd|none  how it is reached (the best there is)\n"
        "  --write        random reads and writes; destroys what namespace 1 holds\n"
        "  --seconds=N    for so long (10)\n"
        "  --threads=N    each with a queue (2)\n"
        "  --depth=N      of a queue (32)\n"
        "  --interrupts   sleep until MSI-X says that something is done\n"
        "  --premapped    buffers mapped once by hand, not malloc'd and mapped for each request\n");
    return status;
}

static bool number(const char *text, unsigned least, unsigned most, unsigned *out) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    *out = (unsigned)n;
    return end != text && *end == 0 && n >= least && n <= most;
}

static bool iommu_named(const char *name, enum pagoda_iommu *iommu) {
    if (strcmp(name, "type1") == 0)
        *iommu = PAGODA_IOMMU_TYPE1;
    else if (strcmp(name, "iommufd") == 0)
        *iommu = PAGODA_IOMMU_IOMMUFD;
    else if (strcmp(name, "none") == 0)
        *iommu = PAGODA_IOMMU_NONE;
    else
        return false;
    return true;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"iommu", required_argument, NULL, 'i'},
                                            {"write", no_argument, NULL, 'w'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"depth", required_argument, NULL, 'd'},
                                            {"interrupts", no_argument, NULL, 'n'},
                                            {"premapped", no_argument, NULL, 'p'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct settings s = {.threads = 2, .depth = 32, .seconds = 10};
    enum pagoda_iommu iommu = PAGODA_IOMMU_ANY;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        bool good = true;
        switch (c) {
        case 'i':
            good = iommu_named(optarg, &iommu);
            break;
        case 'w':
            s.write = true;
            break;
        case 's':
            good = number(optarg, 1, 1000000, &s.seconds);
            break;
        case 't':
            good = number(optarg, 1, MAX_THREADS, &s.threads);
            break;
        case 'd':
            good = number(optarg, 2, MAX_DEPTH, &s.depth);
            break;
        case 'n':
            s.interrupts = true;
            break;
        case 'p':
            s.premapped = true;
            break;
        case 'h':
            return usage(0);
        default:
            return usage(2);
        }
        if (!good)
            return usage(2);
    }
    if (argc - optind != 1)
        return usage(2);
    struct nvme *nvme = nvme_open(argv[optind], iommu);
    if (nvme == NULL) {
        const char *why = pagoda_device_error();
        fprintf(stderr, "nvme: %s: %s\n", argv[optind], why[0] != 0 ? why : strerror(errno));
        return 1;
    }
    const struct nvme_info *info = nvme_get_info(nvme);
    printf("%s, serial %s, %llu blocks of %u bytes\n", info->model, info->serial,
           (unsigned long long)info->blocks, info->block_bytes);
    int status = s.write ? exercise(nvme, &s) : 0;
    nvme_close(nvme);
    return status;
}
