// A server: each worker replaces random blocks of its array, then dies and leaves the array to a
// successor, so that most blocks are freed by another thread than the one that allocated them.

#include <latch>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kSlots = 1000;
constexpr std::size_t kSmallest = 10;
constexpr std::size_t kLargest = 500;
constexpr unsigned kGenerations = 40;

struct worker {
    random_source random;
    std::uint64_t replacements;
    std::vector<block *> slots;
    std::uint64_t sum = 0;
    unsigned generation = 0;
};

block *random_block(random_source &random) {
    return make_block(random.between(kSmallest, kLargest), random.next());
}

void serve(worker &self) {
    const std::uint64_t last = self.replacements * (self.generation + 1) / kGenerations;
    for (std::uint64_t i = self.replacements * self.generation / kGenerations; i < last; ++i) {
        block *&slot = self.slots[self.random.between(0, kSlots - 1)];
        self.sum += drop_block(slot);
        slot = random_block(self.random);
    }
    ++self.generation;
}

void live(worker &self, std::latch &finished) {
    serve(self);
    if (self.generation == kGenerations) {
        finished.count_down();
        return;
    }
    std::thread([&self, &finished] { live(self, finished); }).detach();
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    std::vector<worker> workers;
    for (unsigned i = 0; i < todo.threads; ++i) {
        workers.push_back({random_source(i + 1), todo.share(i), {}});
        for (std::size_t k = 0; k < kSlots; ++k) {
            workers[i].slots.push_back(random_block(workers[i].random));
        }
    }
    std::latch finished(todo.threads);
    for (worker &one : workers) {
        std::thread([&one, &finished] { live(one, finished); }).detach();
    }
    finished.wait();

    std::uint64_t sum = 0;
    for (worker &one : workers) {
        sum += one.sum;
        for (block *left : one.slots)
            sum += drop_block(left);
    }
    report(sum, todo.iterations);
}
