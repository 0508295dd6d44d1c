// granules MODE: what it costs to map 10,000 buffers of 4 KiB of fresh malloc'd memory by granules,
// each alone in strict mode, and each by an ioctl of one's own without this library. MODE: type1 or
// iommufd. Counts are checked; times, of the processor, are printed as multiples of the last way's.
#include "dma/iommu.h"
#include "dma/os.h"
#include "dma/sysfs.h"
#include "dma/vfio.h"

#include <pagoda/dma-mapping.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <vector>

namespace {

using namespace pagoda::dma;

constexpr char kDevice[] = "0000:00:04.0";
constexpr size_t kBytes = 4096, kBuffers = 10'000;
constexpr size_t kBlock = 40 << 20;            // which they are parts of
constexpr uint64_t kMost = (kBlock >> 21) + 1; // granules that it lies in
constexpr uint64_t kFirst = uint64_t{1} << 32; // where the hand-made mappings begin
constexpr int kBoth = kDeviceReads | kDeviceWrites;

int failures = 0;

void expect(bool holds, const char *what) {
    if (!holds)
        std::printf("NO: %s (%s)\n", what, pagoda_device_error());
    failures += !holds;
}

[[noreturn]] void fatal(const char *what) {
    std::printf("FAILED: %s: %s\n", what, pagoda_device_error());
    std::exit(1);
}

double seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

using buffers = std::vector<char *>;

// Never freed: what is fresh was never mapped.
buffers of_one_block() {
    auto *block = static_cast<char *>(std::malloc(kBlock));
    if (block == nullptr)
        fatal("no memory");
    buffers all;
    for (size_t i = 0; i < kBuffers; i++)
        all.push_back(block + i * kBytes);
    return all;
}

buffers of_their_own() {
    buffers all;
    for (size_t i = 0; i < kBuffers; i++)
        all.push_back(static_cast<char *>(std::aligned_alloc(kBytes, kBytes)));
    return all;
}

// The guest's own memory is faulted in by the host at the first touch, which is no way's cost.
void warm_up() {
    constexpr size_t kAll = 512 << 20;
    void *p = mmap(nullptr, kAll, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p != MAP_FAILED)
        munmap(p, kAll);
}

struct cost {
    uint64_t calls;
    double map, unmap;
};

// One round: all of them mapped, then all unmapped.
class library {
  public:
    library(pagoda_iommu kind, pagoda_dma_mode mode) : dev_(pagoda_device_open(kDevice, kind)) {
        if (dev_ == nullptr || dma_set_mask_and_coherent(dev_, DMA_BIT_MASK(64)) != 0 ||
            pagoda_dma_set_mode(dev_, mode) != 0)
            fatal("opening it");
    }
    ~library() { pagoda_device_close(dev_); }
    library(const library &) = delete;
    library &operator=(const library &) = delete;

    cost round(const buffers &all) {
        std::vector<dma_addr_t> at(kBuffers);
        pagoda_dma_counters before, after;
        pagoda_dma_get_counters(dev_, &before);
        double began = seconds();
        for (size_t i = 0; i < kBuffers; i++) {
            at[i] = dma_map_single(dev_, all[i], kBytes, DMA_BIDIRECTIONAL);
            if (dma_mapping_error(dev_, at[i]))
                fatal("mapping a buffer");
        }
        double mapped = seconds();
        pagoda_dma_get_counters(dev_, &after);
        double unmapping = seconds();
        for (dma_addr_t a : at)
            dma_unmap_single(dev_, a, kBytes, DMA_BIDIRECTIONAL);
        expect(after.bounced == 0, "no buffer is bounced");
        return {after.map_calls - before.map_calls, mapped - began, seconds() - unmapping};
    }

  private:
    device *dev_;
};

class by_hand {
  public:
    explicit by_hand(bool type1) : type1_(type1) {
        int error = type1 ? open_type1() : open_iommufd();
        if (error < 0) {
            std::printf("FAILED: by hand: %s\n", std::strerror(-error));
            std::exit(1);
        }
    }
    ~by_hand() {
        os::close(device_);
        os::close(group_);
        os::close(iommu_);
    }
    by_hand(const by_hand &) = delete;
    by_hand &operator=(const by_hand &) = delete;

    cost round(const buffers &all) {
        bool good = true;
        double began = seconds();
        for (size_t i = 0; i < kBuffers; i++) {
            uint64_t iova = kFirst + i * kBytes;
            auto at = reinterpret_cast<uintptr_t>(all[i]);
            good &= (type1_ ? vfio::type1_map(iommu_, iova, at, kBytes, kBoth)
                            : vfio::ioas_map(iommu_, ioas_, iova, at, kBytes, kBoth)) >= 0;
        }
        double mapped = seconds();
        for (size_t i = 0; i < kBuffers; i++) {
            uint64_t iova = kFirst + i * kBytes;
            good &= (type1_ ? vfio::type1_unmap(iommu_, iova, kBytes)
                            : vfio::ioas_unmap(iommu_, ioas_, iova, kBytes)) >= 0;
        }
        expect(good, "each buffer is mapped and unmapped by hand");
        return {kBuffers, mapped - began, seconds() - mapped};
    }

  private:
    int open_type1() {
        std::string node = "/dev/vfio/" + std::to_string(sysfs::group(kDevice));
        iommu_ = os::open("/dev/vfio/vfio", O_RDWR);
        group_ = os::open(node.c_str(), O_RDWR);
        int error = iommu_ < 0 ? iommu_ : group_;
        if (error >= 0)
            error = vfio::group_set_container(group_, iommu_);
        if (error >= 0)
            error = vfio::set_iommu(iommu_, false);
        if (error >= 0)
            error = device_ = vfio::group_device(group_, kDevice);
        return error;
    }
    int open_iommufd() {
        char name[32];
        int error = sysfs::device_node(kDevice, name, sizeof name);
        if (error < 0)
            return error;
        iommu_ = os::open("/dev/iommu", O_RDWR);
        device_ = os::open((std::string("/dev/vfio/devices/") + name).c_str(), O_RDWR);
        error = iommu_ < 0 ? iommu_ : device_;
        if (error >= 0)
            error = vfio::bind_iommufd(device_, iommu_);
        if (error >= 0)
            error = vfio::ioas_alloc(iommu_, &ioas_);
        if (error >= 0)
            error = vfio::attach_ioas(device_, ioas_);
        return error;
    }

    bool type1_;
    int iommu_ = -1, group_ = -1, device_ = -1;
    uint32_t ioas_ = 0;
};

void print(const char *way, const cost &first, const cost &again, const cost &base,
           const cost &base_again) {
    std::printf("%-32s %6llu %7.4f %7.4f   %6llu %7.4f %7.4f\n", way,
                static_cast<unsigned long long>(first.calls), first.map / base.map,
                first.unmap / base.unmap, static_cast<unsigned long long>(again.calls),
                again.map / base_again.map, again.unmap / base_again.unmap);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    const bool type1 = std::strcmp(argv[1], "type1") == 0;
    const pagoda_iommu kind = type1 ? PAGODA_IOMMU_TYPE1 : PAGODA_IOMMU_IOMMUFD;
    warm_up();
    // One after the other: each has the device for itself.
    cost hand[2], strict[2], block[2], own[2];
    {
        by_hand way(type1);
        buffers all = of_one_block();
        for (cost &c : hand)
            c = way.round(all);
    }
    {
        library way(kind, PAGODA_DMA_STRICT);
        buffers all = of_one_block();
        for (cost &c : strict)
            c = way.round(all);
    }
    {
        library way(kind, PAGODA_DMA_GRANULES);
        buffers all = of_one_block(), each = of_their_own();
        for (char *p : each)
            std::memset(p, 1, kBytes);
        for (cost &c : block)
            c = way.round(all);
        for (cost &c : own)
            c = way.round(each);
    }
    std::printf("10,000 buffers of 4 KiB, %s\n%32s fresh:   MAP    map   unmap   again: MAP    map "
                "  unmap\n",
                argv[1], "");
    print("by hand, one MAP_DMA each", hand[0], hand[1], hand[0], hand[1]);
    print("strict mode", strict[0], strict[1], hand[0], hand[1]);
    print("granules, parts of 40 MiB", block[0], block[1], hand[0], hand[1]);
    // Written to before, as by hand the second time.
    print("granules, 10,000 blocks", own[0], own[1], hand[1], hand[1]);
    expect(strict[0].calls == kBuffers && strict[1].calls == kBuffers,
           "strict mode: one call for each mapping");
    expect(block[0].calls <= kMost, "granules: one call for each, at most 21");
    expect(own[0].calls <= kMost, "also where each buffer is a block of its own");
    expect(block[1].calls == 0 && own[1].calls == 0, "and none again");
    std::printf("%d failed\n", failures);
    return failures != 0;
}
