// Large blocks: buffers from 64 KiB to 8 MiB come and go among a few slots. Every second one is
// written page by page, as a buffer that is filled; of the others only the two ends are used.

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kSlots = 32;
constexpr std::size_t kPage = 4096;

block *large_block(random_source &random) {
    const std::size_t floor = std::size_t{64 << 10} << random.between(0, 6);
    const std::size_t size = random.between(floor, 2 * floor);
    block *made = make_block(size, random.next());
    if (random.one_in(2)) {
        auto *bytes = reinterpret_cast<unsigned char *>(made);
        for (std::size_t at = kPage; at < size - 1; at += kPage) {
            bytes[at] = static_cast<unsigned char>(at >> 12);
        }
    }
    return made;
}

std::uint64_t churn(std::uint64_t replacements, std::uint64_t seed, std::size_t slot_count) {
    random_source random(seed);
    std::vector<block *> slots(slot_count, nullptr);
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < replacements; ++i) {
        block *&slot = slots[random.between(0, slot_count - 1)];
        if (slot != nullptr)
            sum += drop_block(slot);
        slot = large_block(random);
    }
    for (block *left : slots) {
        if (left != nullptr)
            sum += drop_block(left);
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    const std::size_t slots = std::max<std::size_t>(1, kSlots / todo.threads);
    const std::uint64_t sum = run_threads(
        todo.threads, [&](unsigned index) { return churn(todo.share(index), index + 1, slots); });
    report(sum, todo.iterations);
}
