#pragma once

// What every workload shares: THREADS ITERATIONS on the command line, a seeded random source,
// blocks that carry a stamp, and one line of output that depends on nothing but the arguments.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace pagoda::bench {

struct work {
    unsigned threads;
    std::uint64_t iterations; // of all threads together

    std::uint64_t share(unsigned index) const {
        return iterations / threads + (index < iterations % threads ? 1 : 0);
    }
};

[[noreturn]] inline void fail(const char *what) {
    std::fprintf(stderr, "failed: %s\n", what);
    std::exit(1);
}

inline std::uint64_t parse_number(const char *text) {
    char *end = nullptr;
    const std::uint64_t value = std::strtoull(text, &end, 10);
    if (value == 0 || *end != '\0')
        fail("arguments are THREADS ITERATIONS, both at least 1");
    return value;
}

inline work parse(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s THREADS ITERATIONS\n", argv[0]);
        std::exit(2);
    }
    return {static_cast<unsigned>(parse_number(argv[1])), parse_number(argv[2])};
}

inline void report(std::uint64_t checksum, std::uint64_t operations) {
    std::printf("checksum %016llx operations %llu\n", static_cast<unsigned long long>(checksum),
                static_cast<unsigned long long>(operations));
}

// splitmix64: one word of state, so a random source costs the workload next to nothing.
class random_source {
  public:
    explicit random_source(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

    std::uint64_t next() {
        state_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    // Uniform in [low, high].
    std::size_t between(std::size_t low, std::size_t high) {
        return low + static_cast<std::size_t>(((next() >> 32) * (high - low + 1)) >> 32);
    }

    bool one_in(std::size_t n) { return between(1, n) == 1; }

  private:
    std::uint64_t state_;
};

// A block knows its size and a random value; its last byte repeats that value, so that two blocks
// that overlap, or one that was handed out twice, are noticed when they are dropped.
struct block {
    std::uint32_t size;
    std::uint32_t value;
};

inline block *make_block(std::size_t size, std::uint64_t value) {
    if (size < sizeof(block))
        size = sizeof(block);
    auto *made = static_cast<block *>(std::malloc(size));
    if (made == nullptr)
        fail("malloc returned NULL");
    made->size = static_cast<std::uint32_t>(size);
    made->value = static_cast<std::uint32_t>(value);
    if (size > sizeof(block)) {
        reinterpret_cast<unsigned char *>(made)[size - 1] = static_cast<unsigned char>(value);
    }
    return made;
}

inline std::uint64_t drop_block(block *dropped) {
    const std::uint32_t value = dropped->value;
    const std::size_t size = dropped->size;
    if (size > sizeof(block) &&
        reinterpret_cast<unsigned char *>(dropped)[size - 1] != static_cast<unsigned char>(value)) {
        fail("a block was overwritten");
    }
    std::free(dropped);
    return value + size;
}

// Runs body(index) on each of n threads (the caller's own when n is 1) and adds what they return.
template <class Body> std::uint64_t run_threads(unsigned n, Body body) {
    if (n == 1)
        return body(0u);
    std::vector<std::uint64_t> sums(n);
    std::vector<std::thread> threads;
    threads.reserve(n);
    for (unsigned i = 0; i < n; ++i) {
        threads.emplace_back([&sums, &body, i] { sums[i] = body(i); });
    }
    std::uint64_t sum = 0;
    for (unsigned i = 0; i < n; ++i) {
        threads[i].join();
        sum += sums[i];
    }
    return sum;
}

} // namespace pagoda::bench
