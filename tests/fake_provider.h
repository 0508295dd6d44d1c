// A library above the allocator that lets go of memory, or does not.
#pragma once

#include "hugepage/provider.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stddef.h>

namespace pagoda::test {

struct fake_provider {
    static inline std::atomic<int> calls{0};
    static inline std::atomic<bool> willing{true};
    static inline std::atomic<uintptr_t> last{0};
    static inline std::atomic<size_t> bytes{0};

    static bool release(void *at, size_t size) {
        calls++;
        last = reinterpret_cast<uintptr_t>(at);
        bytes = size;
        return willing;
    }
    static void install() {
        static const pagoda_dma_provider table = {nullptr, nullptr, release, nullptr};
        ASSERT_EQ(pagoda_dma_register(&table), 0);
        calls = 0;
        willing = true;
    }
};

} // namespace pagoda::test
