// A count that threads change without disturbing each other and without an atomic instruction: each
// thread has a line of its own, as long as there are no more than 63 of them; others share one.
#pragma once

#include "hugepage/base.h"

#include <atomic>

namespace pagoda::dma {

class tally {
  public:
    // NULL: no memory. Blocks.
    static tally *create();
    static void destroy(tally *t);

    // Any context.
    void add(int64_t n) {
        unsigned line = mine;
        if (PAGODA_UNLIKELY(line == kNone))
            line = take_line();
        std::atomic<int64_t> &count = lines_[line].count;
#if defined(__x86_64__)
        if (PAGODA_LIKELY(line != kShared)) {
            // One instruction: no signal handler of this thread comes in between.
            asm("addq %1, %0" : "+m"(count) : "er"(n) : "cc");
            return;
        }
#endif
        count.fetch_add(n, std::memory_order_relaxed);
    }
    int64_t sum() const;

  private:
    static constexpr unsigned kLines = 64, kShared = 0, kNone = kLines;
    static unsigned take_line();
    static void give_line(void *);

    static constinit thread_local unsigned mine;

    struct alignas(64) row {
        std::atomic<int64_t> count;
    };
    row lines_[kLines];
};

} // namespace pagoda::dma
