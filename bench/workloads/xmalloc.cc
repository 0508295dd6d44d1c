// Producers allocate, consumers free: every block crosses from one thread to another, in batches
// through one bounded queue. A single thread fills the queue and drains it in turn.

#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kBatch = 120;
constexpr std::size_t kQueue = 48;

struct batch {
    std::array<block *, kBatch> blocks;
};

class batch_queue {
  public:
    void put(batch *one) {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [this] { return batches_.size() < kQueue; });
        batches_.push_back(one);
        filled_.notify_one();
    }

    batch *take() {
        std::unique_lock lock(mutex_);
        filled_.wait(lock, [this] { return !batches_.empty(); });
        batch *one = batches_.front();
        batches_.pop_front();
        room_.notify_one();
        return one;
    }

  private:
    std::mutex mutex_;
    std::condition_variable room_;
    std::condition_variable filled_;
    std::deque<batch *> batches_;
};

batch *produce(random_source &random) {
    auto *one = static_cast<batch *>(std::malloc(sizeof(batch)));
    if (one == nullptr)
        fail("malloc returned NULL");
    for (block *&slot : one->blocks) {
        const bool big = random.one_in(64);
        slot =
            make_block(big ? random.between(1024, 4096) : random.between(16, 256), random.next());
    }
    return one;
}

std::uint64_t consume(batch *one) {
    std::uint64_t sum = 0;
    for (block *each : one->blocks)
        sum += drop_block(each);
    std::free(one);
    return sum;
}

std::uint64_t alternate(std::uint64_t batches) {
    batch_queue queue;
    random_source random(1);
    std::uint64_t sum = 0;
    for (std::uint64_t done = 0; done < batches;) {
        const std::uint64_t chunk = std::min<std::uint64_t>(kQueue, batches - done);
        for (std::uint64_t i = 0; i < chunk; ++i)
            queue.put(produce(random));
        for (std::uint64_t i = 0; i < chunk; ++i)
            sum += consume(queue.take());
        done += chunk;
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    if (todo.threads == 1) {
        report(alternate(todo.iterations), todo.iterations * kBatch);
        return 0;
    }
    const unsigned pairs = todo.threads / 2;
    const work halves{pairs, todo.iterations};
    batch_queue queue;
    const std::uint64_t sum = run_threads(2 * pairs, [&](unsigned index) {
        std::uint64_t freed = 0;
        const std::uint64_t count = halves.share(index / 2);
        if (index % 2 == 0) {
            random_source random(index + 1);
            for (std::uint64_t i = 0; i < count; ++i)
                queue.put(produce(random));
        } else {
            for (std::uint64_t i = 0; i < count; ++i)
                freed += consume(queue.take());
        }
        return freed;
    });
    report(sum, todo.iterations * kBatch);
}
