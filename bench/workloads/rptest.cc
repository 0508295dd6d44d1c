// Sizes spread from 16 bytes to 64 KiB: each loop frees part of the thread's blocks, allocates
// new ones in their place, and passes a handful to its neighbour, who frees them.

#include <mutex>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kSlots = 1600;
constexpr std::size_t kReplaced = 160;
constexpr std::size_t kPassed = 16;

class mailbox {
  public:
    void put(std::vector<block *> &letters) {
        const std::scoped_lock lock(mutex_);
        letters_.insert(letters_.end(), letters.begin(), letters.end());
        letters.clear();
    }

    void take_all(std::vector<block *> &into) {
        const std::scoped_lock lock(mutex_);
        into.swap(letters_);
    }

  private:
    std::mutex mutex_;
    std::vector<block *> letters_;
};

// Cubing the uniform number makes half of the blocks smaller than about 8 KiB.
block *spread_block(random_source &random) {
    const std::size_t uniform = random.between(1, 256);
    const std::size_t size = 16 + uniform * uniform * uniform / 256 + random.between(0, 63);
    return make_block(size, random.next());
}

std::uint64_t drop_all(std::vector<block *> &blocks) {
    std::uint64_t sum = 0;
    for (block *each : blocks)
        sum += drop_block(each);
    blocks.clear();
    return sum;
}

std::uint64_t spread(std::uint64_t loops, std::uint64_t seed, mailbox &own, mailbox &neighbour) {
    random_source random(seed);
    std::vector<block *> slots(kSlots);
    for (block *&slot : slots)
        slot = spread_block(random);
    std::vector<block *> outgoing;
    std::vector<block *> incoming;
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < loops; ++i) {
        const std::size_t start = random.between(0, kSlots - 1);
        const std::size_t stride = 1 + 2 * random.between(0, 20);
        for (std::size_t k = 0; k < kReplaced; ++k) {
            block *&slot = slots[(start + k * stride) % kSlots];
            if (k < kPassed) {
                outgoing.push_back(slot);
            } else {
                sum += drop_block(slot);
            }
            slot = spread_block(random);
        }
        neighbour.put(outgoing);
        own.take_all(incoming);
        sum += drop_all(incoming);
    }
    return sum + drop_all(slots);
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    std::vector<mailbox> boxes(todo.threads);
    std::uint64_t sum = run_threads(todo.threads, [&](unsigned index) {
        return spread(todo.share(index), index + 1, boxes[index],
                      boxes[(index + 1) % todo.threads]);
    });
    for (mailbox &box : boxes) {
        std::vector<block *> left;
        box.take_all(left);
        sum += drop_all(left);
    }
    report(sum, todo.iterations * kReplaced);
}
