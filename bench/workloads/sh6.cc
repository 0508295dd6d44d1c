// Batches: rounds of mostly small blocks of many sizes, given back last-in first-out, first-in
// first-out or every second one first; one round in eight stays alive for eight more.

#include <algorithm>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kRound = 4000;
constexpr std::size_t kKept = 8;

using round_blocks = std::vector<block *>;

// The smaller a size, the more often: half of the blocks are below 64 bytes.
std::size_t skewed_size(random_source &random) {
    const std::size_t ceiling = std::size_t{64}
                                << std::min<std::size_t>(5, random.between(0, 9) / 2);
    return random.between(8, ceiling);
}

void fill(round_blocks &blocks, random_source &random) {
    blocks.resize(kRound);
    for (block *&each : blocks)
        each = make_block(skewed_size(random), random.next());
}

std::uint64_t drain(round_blocks &blocks, std::uint64_t order) {
    std::uint64_t sum = 0;
    if (order == 0) {
        for (block *each : blocks)
            sum += drop_block(each);
    } else if (order == 1) {
        for (auto each = blocks.rbegin(); each != blocks.rend(); ++each)
            sum += drop_block(*each);
    } else {
        for (std::size_t i = 0; i < blocks.size(); i += 2)
            sum += drop_block(blocks[i]);
        for (std::size_t i = 1; i < blocks.size(); i += 2)
            sum += drop_block(blocks[i]);
    }
    blocks.clear();
    return sum;
}

std::uint64_t churn(std::uint64_t rounds, std::uint64_t seed) {
    random_source random(seed);
    round_blocks current;
    std::vector<round_blocks> kept(kKept);
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < rounds; ++i) {
        fill(current, random);
        if (i % kKept == 0)
            std::swap(current, kept[i / kKept % kKept]);
        sum += drain(current, i % 3);
    }
    for (round_blocks &left : kept)
        sum += drain(left, 0);
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    const std::uint64_t sum = run_threads(
        todo.threads, [&](unsigned index) { return churn(todo.share(index), index + 1); });
    report(sum, todo.iterations * kRound);
}
