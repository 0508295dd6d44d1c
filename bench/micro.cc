// One allocation pattern at a time and nothing else around it: micro CASE THREADS ITERATIONS.
// An iteration is one block allocated and freed.

#include <atomic>
#include <string_view>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kSize = 64;
constexpr std::size_t kRing = 1024;

void *take(std::size_t size, std::uint64_t mark) {
    void *block = std::malloc(size);
    if (block == nullptr)
        fail("malloc returned NULL");
    std::memcpy(block, &mark, sizeof mark);
    return block;
}

std::uint64_t give(void *block) {
    std::uint64_t mark;
    std::memcpy(&mark, block, sizeof mark);
    std::free(block);
    return mark;
}

std::uint64_t pair(std::uint64_t count) {
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < count; ++i)
        sum += give(take(kSize, i));
    return sum;
}

std::uint64_t batch(std::uint64_t count, std::size_t size, bool lifo) {
    std::vector<void *> blocks(size);
    std::uint64_t sum = 0;
    for (std::uint64_t done = 0; done < count; done += size) {
        for (std::size_t i = 0; i < size; ++i)
            blocks[i] = take(kSize, done + i);
        for (std::size_t i = 0; i < size; ++i)
            sum += give(blocks[lifo ? size - 1 - i : i]);
    }
    return sum;
}

std::uint64_t replace_random(std::uint64_t count, std::size_t live, std::uint64_t seed) {
    random_source random(seed);
    std::vector<void *> blocks(live);
    for (void *&slot : blocks)
        slot = take(random.between(16, 512), 1);
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        void *&slot = blocks[random.between(0, live - 1)];
        sum += give(slot);
        slot = take(random.between(16, 512), i);
    }
    for (void *left : blocks)
        sum += give(left);
    return sum;
}

// A ring between two threads; head and tail lie on cache lines of their own, so that what is
// measured is the block that travels.
struct ring {
    alignas(128) std::atomic<std::uint64_t> head{0};
    alignas(128) std::atomic<std::uint64_t> tail{0};
    alignas(128) void *slots[kRing];
};

std::uint64_t hand_over(const work &todo) {
    const work pairs{std::max(1u, todo.threads / 2), todo.iterations};
    std::vector<ring> rings(pairs.threads);
    return run_threads(2 * pairs.threads, [&](unsigned index) {
        ring &shared = rings[index / 2];
        std::uint64_t sum = 0;
        for (std::uint64_t i = 0; i < pairs.share(index / 2); ++i) {
            if (index % 2 == 0) {
                void *block = take(kSize, i);
                while (i - shared.tail.load(std::memory_order_acquire) >= kRing) {
                    std::this_thread::yield();
                }
                shared.slots[i % kRing] = block;
                shared.head.store(i + 1, std::memory_order_release);
            } else {
                while (shared.head.load(std::memory_order_acquire) <= i) {
                    std::this_thread::yield();
                }
                void *block = shared.slots[i % kRing];
                shared.tail.store(i + 1, std::memory_order_release);
                sum += give(block);
            }
        }
        return sum;
    });
}

std::uint64_t run_case(std::string_view name, std::uint64_t count, std::uint64_t seed) {
    if (name == "pair")
        return pair(count);
    if (name == "lifo16")
        return batch(count, 16, true);
    if (name == "fifo16")
        return batch(count, 16, false);
    if (name == "lifo1000")
        return batch(count, 1000, true);
    if (name == "fifo1000")
        return batch(count, 1000, false);
    if (name == "random1k")
        return replace_random(count, 1000, seed);
    if (name == "random100k")
        return replace_random(count, 100000, seed);
    fail("no such case");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 4) {
        std::fprintf(stderr,
                     "usage: %s CASE THREADS ITERATIONS\ncases: pair lifo16 fifo16 lifo1000 "
                     "fifo1000 random1k random100k handover\n",
                     argv[0]);
        return 2;
    }
    const std::string_view name = argv[1];
    const work todo = parse(argc - 1, argv + 1);
    const std::uint64_t sum =
        name == "handover" ? hand_over(todo) : run_threads(todo.threads, [&](unsigned index) {
            return run_case(name, todo.share(index), index + 1);
        });
    report(sum, todo.iterations);
}
