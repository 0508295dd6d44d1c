// Everything at once: short-lived and retained blocks from 8 bytes to 256 KiB, some of them swapped
// with other threads through a shared table, by threads that are replaced every so often.

#include <array>
#include <atomic>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kShared = 1024;
constexpr std::size_t kRetained = 4000;
constexpr std::size_t kShortLived = 100;
constexpr unsigned kLives = 10;

std::array<std::atomic<block *>, kShared> shared;

struct player {
    random_source random;
    std::uint64_t steps;
    std::vector<block *> retained = std::vector<block *>(kRetained, nullptr);
};

std::size_t any_size(random_source &random) {
    if (random.one_in(4000))
        return random.between(16 << 10, 256 << 10);
    if (random.one_in(100))
        return random.between(1 << 10, 16 << 10);
    return std::size_t{8} << random.between(0, 6);
}

std::uint64_t drop(block *one) { return one == nullptr ? 0 : drop_block(one); }

std::uint64_t one_life(player &self, std::uint64_t steps) {
    random_source &random = self.random;
    std::array<block *, kShortLived> short_lived{};
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < steps; ++i) {
        block *made = make_block(any_size(random), random.next());
        const std::size_t fate = random.between(0, 99);
        if (fate < 60) {
            std::swap(made, short_lived[i % kShortLived]);
        } else if (fate < 90) {
            std::swap(made, self.retained[random.between(0, kRetained - 1)]);
        } else {
            made = shared[random.between(0, kShared - 1)].exchange(made);
        }
        sum += drop(made);
    }
    for (block *left : short_lived)
        sum += drop(left);
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    std::vector<player> players;
    for (unsigned i = 0; i < todo.threads; ++i) {
        players.push_back({random_source(i + 1), todo.share(i)});
    }
    std::uint64_t sum = 0;
    for (unsigned life = 0; life < kLives; ++life) {
        sum += run_threads(todo.threads, [&](unsigned index) {
            const std::uint64_t steps = players[index].steps;
            return one_life(players[index], steps * (life + 1) / kLives - steps * life / kLives);
        });
    }
    for (player &one : players) {
        for (block *left : one.retained)
            sum += drop(left);
    }
    for (auto &slot : shared)
        sum += drop(slot.load());
    report(sum, todo.iterations);
}
