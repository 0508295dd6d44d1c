// The sample devices against a vector of bytes. One program for each storage: scullc, scullp,
// scullv.
#include "examples/scull.h"

#include <pagoda/slab.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>
#include <vector>

namespace {

class device : public testing::Test {
  protected:
    void open(std::size_t quantum, std::size_t qset) {
        ASSERT_EQ(scull_open(&scull_, &scull_storage, quantum, qset), 0);
    }
    // What is leaked is reported when the storage ends.
    void close() {
        testing::internal::CaptureStderr();
        scull_close(&scull_);
        EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    }
    void write(std::size_t offset, const std::vector<char> &bytes) {
        for (std::size_t done = 0; done < bytes.size();) {
            const ssize_t n =
                scull_write(&scull_, bytes.data() + done, bytes.size() - done, offset + done);
            ASSERT_GT(n, 0);
            done += static_cast<std::size_t>(n);
        }
    }
    std::vector<char> read(std::size_t offset, std::size_t count) {
        std::vector<char> bytes(count, 'x');
        std::size_t done = 0;
        for (ssize_t n;
             (n = scull_read(&scull_, bytes.data() + done, count - done, offset + done)) > 0;)
            done += static_cast<std::size_t>(n);
        bytes.resize(done);
        return bytes;
    }
    // Random writes, reads and trims, on the device and on a vector.
    void compare(std::size_t quantum, std::size_t qset, int steps) {
        open(quantum, qset);
        std::mt19937 random(static_cast<unsigned>(quantum + qset));
        const auto below = [&](std::size_t n) { return random() % n; };
        const std::size_t reach = 3 * scull_.quantum * qset + 5;
        std::vector<char> model;
        for (int step = 0; step < steps; ++step) {
            const std::size_t offset = below(reach);
            const std::size_t count = below(2 * scull_.quantum + 2);
            if (below(64) == 0) {
                scull_trim(&scull_);
                model.clear();
            } else if (below(2) == 0) {
                std::vector<char> bytes(count);
                std::generate(bytes.begin(), bytes.end(),
                              [&] { return static_cast<char>(random()); });
                write(offset, bytes);
                if (count != 0 && model.size() < offset + count)
                    model.resize(offset + count);
                std::copy(bytes.begin(), bytes.end(),
                          model.begin() + static_cast<long>(count == 0 ? 0 : offset));
            } else {
                const std::size_t from = std::min(offset, model.size());
                const std::size_t to = std::min(offset + count, model.size());
                ASSERT_EQ(read(offset, count),
                          std::vector<char>(model.begin() + static_cast<long>(from),
                                            model.begin() + static_cast<long>(to)));
            }
            ASSERT_EQ(scull_.size, model.size());
        }
        ASSERT_EQ(read(0, reach * 2), model);
        close();
    }
    // Quanta that were written to.
    [[nodiscard]] std::size_t quanta() const {
        std::size_t n = 0;
        for (const scull_set *set = scull_.first; set != nullptr; set = set->next)
            n += scull_.qset - static_cast<std::size_t>(
                                   std::count(set->quanta, set->quanta + scull_.qset, nullptr));
        return n;
    }

    scull_device scull_{};
};

TEST_F(device, AgreesWithAVector) { compare(0, 3, 1000); }

TEST_F(device, AgreesWithAVectorInSmallQuanta) { compare(1, 5, 5000); }

TEST_F(device, AgreesWithAVectorInOddQuanta) { compare(4097, 2, 1000); }

TEST_F(device, AgreesWithAVectorInLargeQuanta) { compare(300000, 2, 100); }

TEST_F(device, HolesReadAsZerosAndHaveNoMemory) {
    open(0, 10);
    const std::size_t far = 25 * scull_.quantum;
    write(far, {'e', 'n', 'd'});
    EXPECT_EQ(read(5, far - 5), std::vector<char>(far - 5, 0));
    EXPECT_EQ(read(far, 10), std::vector<char>({'e', 'n', 'd'}));
    EXPECT_EQ(quanta(), 1U);
    close();
}

TEST_F(device, AQuantumThatIsUsedAgainIsZero) {
    open(0, 4);
    for (int round = 0; round < 100; ++round) {
        write(scull_.quantum - 1, {'a'});
        EXPECT_EQ(read(0, scull_.quantum - 1), std::vector<char>(scull_.quantum - 1, 0));
        write(0, std::vector<char>(3 * scull_.quantum, 'b'));
        scull_trim(&scull_);
        EXPECT_EQ(quanta(), 0U);
        EXPECT_EQ(read(0, 10), std::vector<char>());
    }
    close();
}

TEST_F(device, TakesWhatFitsOneQuantum) {
    open(0, 4);
    const std::vector<char> bytes(3 * scull_.quantum, 'c');
    EXPECT_EQ(scull_write(&scull_, bytes.data(), bytes.size(), 1),
              static_cast<ssize_t>(scull_.quantum - 1));
    EXPECT_EQ(scull_write(&scull_, bytes.data(), 0, 1000), 0);
    EXPECT_EQ(scull_.size, scull_.quantum);
    close();
}

TEST_F(device, RefusesWhatCannotBe) {
    open(0, 4);
    EXPECT_EQ(scull_write(&scull_, "x", 1, SIZE_MAX), -EFBIG);
    EXPECT_EQ(scull_.size, 0U);
    close();
    scull_device other;
    EXPECT_EQ(scull_open(&other, &scull_storage, SIZE_MAX / 2, 4), -EINVAL);
}

TEST_F(device, QuantaAreWhatTheNameSays) {
    open(5000, 4);
    write(0, std::vector<char>(scull_.quantum, 'd'));
    const std::string name = scull_storage.name;
    if (name == "scullc") {
        EXPECT_EQ(kmem_cache_size(static_cast<kmem_cache *>(scull_.pool)), 5000U);
    }
    if (name == "scullp") { // whole pages, all of them the user's
        EXPECT_EQ(scull_.quantum, 8192U);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(scull_.first->quanta[0]) % scull_.quantum, 0U);
    } else {
        EXPECT_EQ(scull_.quantum, 5000U);
    }
    close();
}

} // namespace
