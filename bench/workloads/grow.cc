// realloc: many strings that grow by a few bytes at a time, side by side, then vectors that double,
// now and then one big buffer that grows by steps to 32 MiB. What was written is checked at the
// end.

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kStrings = 64;
constexpr std::size_t kStringEnd = 3000;
constexpr std::size_t kVectors = 8;
constexpr std::size_t kVectorEnd = 256 << 10;
constexpr std::size_t kBufferEnd = 32 << 20;
constexpr std::uint64_t kBufferEvery = 40;
constexpr std::size_t kStride = 16; // one byte in 16 is written: moving shows, filling does not

unsigned char byte_at(std::size_t position, std::size_t salt) {
    return static_cast<unsigned char>(position * 31 + (position >> 8) + salt);
}

class buffer {
  public:
    explicit buffer(std::size_t salt) : salt_(salt) {}

    void grow(std::size_t capacity) {
        auto *moved = static_cast<unsigned char *>(std::realloc(bytes_, capacity));
        if (moved == nullptr)
            fail("realloc returned NULL");
        bytes_ = moved;
    }

    void fill_to(std::size_t size) {
        for (std::size_t i = (size_ + kStride - 1) / kStride * kStride; i < size; i += kStride) {
            bytes_[i] = byte_at(i, salt_);
        }
        size_ = size;
    }

    std::uint64_t release() {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < size_; i += kStride) {
            if (bytes_[i] != byte_at(i, salt_))
                fail("realloc lost a byte");
            sum += bytes_[i];
        }
        std::free(bytes_);
        bytes_ = nullptr;
        return sum;
    }

    std::size_t size() const { return size_; }

  private:
    unsigned char *bytes_ = nullptr;
    std::size_t size_ = 0;
    std::size_t salt_;
};

std::uint64_t grow_strings(random_source &random) {
    std::vector<buffer> strings;
    for (std::size_t i = 0; i < kStrings; ++i)
        strings.emplace_back(i);
    for (std::size_t growing = kStrings; growing > 0;) {
        growing = 0;
        for (buffer &each : strings) {
            if (each.size() >= kStringEnd)
                continue;
            const std::size_t size = each.size() + random.between(1, 64);
            each.grow(size);
            each.fill_to(size);
            ++growing;
        }
    }
    std::uint64_t sum = 0;
    for (buffer &each : strings)
        sum += each.release();
    return sum;
}

std::uint64_t double_vectors() {
    std::vector<buffer> vectors;
    for (std::size_t i = 0; i < kVectors; ++i)
        vectors.emplace_back(i);
    for (std::size_t capacity = 64; capacity <= kVectorEnd; capacity *= 2) {
        for (buffer &each : vectors) {
            each.grow(capacity);
            each.fill_to(capacity - capacity / 4);
        }
    }
    std::uint64_t sum = 0;
    for (buffer &each : vectors)
        sum += each.release();
    return sum;
}

std::uint64_t grow_buffer(std::size_t salt) {
    buffer big(salt);
    for (std::size_t size = 128 << 10; size <= kBufferEnd; size += size / 8) {
        big.grow(size);
        big.fill_to(size);
    }
    return big.release();
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    const std::uint64_t sum = run_threads(todo.threads, [&](unsigned index) {
        random_source random(index + 1);
        std::uint64_t part = 0;
        for (std::uint64_t i = 0; i < todo.share(index); ++i) {
            part += grow_strings(random);
            part += double_vectors();
            if (i % kBufferEvery == 0)
                part += grow_buffer(index);
        }
        return part;
    });
    report(sum, todo.iterations);
}
