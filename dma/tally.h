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
#if defined(__x86_64__)
        if (unsigned line = mine; PAGODA_LIKELY(line != kShared)) {
            // One instruction: no signal handler of this thread comes in between.
            asm("addq %1, %0" : "+m"(lines_[line].count) : "er"(n) : "cc");
            return;
        }
#endif
        add_shared(n);
    }
    int64_t sum() const;

  private:
    static constexpr unsigned kLines = 64, kShared = 0;
    PAGODA_NOINLINE void add_shared(int64_t n);
    static void take_line();
    static void give_line(void *);

    static constinit thread_local unsigned mine;

    struct alignas(64) row {
        std::atomic<int64_t> count;
    };
    row lines_[kLines];
};

} // namespace pagoda::dma
