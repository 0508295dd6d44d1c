// A software device for a test, closed at its end, and what the tests of mappings ask it to do.
#pragma once

#include "lib/heap.h"
#include "tests/unit.h"

#include <pagoda/dma-mapping.h>
#include <pagoda/software_device.h>

#include <pthread.h>
#include <string.h>
#include <string>
#include <vector>

namespace pagoda::test {

// As the library does where it is loaded as a whole: the allocator hears of forks before dma/ does.
inline const int g_forks = pthread_atfork(
    [] { heap_before_fork(); }, [] { heap_after_fork(false); }, [] { heap_after_fork(true); });

class soft_device {
  public:
    explicit soft_device(uint64_t mask = ~uint64_t{0}, pagoda_software_options options = {})
        : dev_(pagoda_software_device(&options)) {
        EXPECT_NE(dev_, nullptr) << pagoda_device_error();
        if (dev_ != nullptr) {
            EXPECT_EQ(dma_set_mask_and_coherent(dev_, mask), 0) << pagoda_device_error();
        }
    }
    ~soft_device() { pagoda_device_close(dev_); }
    soft_device(const soft_device &) = delete;
    soft_device &operator=(const soft_device &) = delete;

    device *get() const { return dev_; }
    operator device *() const { return dev_; } // NOLINT: it stands for the device

    // What the device finds at the address; "" after a fault.
    std::string reads(dma_addr_t at, size_t bytes) const {
        std::string seen(bytes, 0);
        return pagoda_software_dma_read(dev_, at, seen.data(), bytes) == 0 ? seen : "";
    }
    int writes(dma_addr_t at, const std::string &what) const {
        return pagoda_software_dma_write(dev_, at, what.data(), what.size());
    }
    pagoda_dma_counters counters() const {
        pagoda_dma_counters c;
        pagoda_dma_get_counters(dev_, &c);
        return c;
    }

  private:
    device *dev_;
};

inline bool error_says(const char *what) { return strstr(pagoda_device_error(), what) != nullptr; }

} // namespace pagoda::test
