// Batches that change hands: a thread fills a batch, swaps it into a shared table for whatever
// batch lies there, and frees that one, which as a rule another thread has allocated.

#include <array>
#include <atomic>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kBatch = 400;
constexpr std::size_t kTable = 64;

struct batch {
    std::array<block *, kBatch> blocks;
};

std::array<std::atomic<batch *>, kTable> table;

batch *fill(random_source &random) {
    auto *one = static_cast<batch *>(std::malloc(sizeof(batch)));
    if (one == nullptr)
        fail("malloc returned NULL");
    // A run of equal sizes, as a container would ask for, then the next size.
    for (std::size_t i = 0; i < kBatch;) {
        const std::size_t size =
            random.one_in(16) ? random.between(256, 1024) : random.between(8, 128);
        for (const std::size_t end = std::min(kBatch, i + random.between(1, 40)); i < end; ++i) {
            one->blocks[i] = make_block(size, random.next());
        }
    }
    return one;
}

std::uint64_t drain(batch *one, bool backwards) {
    if (one == nullptr)
        return 0;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kBatch; ++i) {
        sum += drop_block(one->blocks[backwards ? kBatch - 1 - i : i]);
    }
    std::free(one);
    return sum;
}

std::uint64_t trade(std::uint64_t batches, std::uint64_t seed) {
    random_source random(seed);
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < batches; ++i) {
        batch *mine = fill(random);
        auto &slot = table[random.between(0, kTable - 1)];
        sum += drain(slot.exchange(mine, std::memory_order_acq_rel), i % 2 == 0);
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    std::uint64_t sum = run_threads(
        todo.threads, [&](unsigned index) { return trade(todo.share(index), index + 1); });
    for (auto &slot : table)
        sum += drain(slot.load(), false);
    report(sum, todo.iterations * kBatch);
}
