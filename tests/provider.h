// A library above that has devices without hardware: it gives memory addresses and remembers them.
#pragma once

#include "hugepage/provider.h"
#include "tests/unit.h"

#include <errno.h>
#include <map>

namespace pagoda::test {

struct provided {
    size_t bytes;
    uint64_t address;
    unsigned bits;
};

struct fake_devices {
    std::map<uintptr_t, provided> chunks; // by where they are mapped
    int answer = 0;                       // -ENODEV, …: what provide() says instead
    int answers_left = 0;                 // so often; then it works again
    // Without an IOMMU: a pageblock has the address it has, of which one in so many is below 2^32,
    // and several in a row have none.
    unsigned physical = 0;
    int calls = 0;
    int withdrawn = 0;
    bool stubborn = false; // what is withdrawn is reached all the same
    random_numbers random{17};

    bool is_taken(uint64_t address, size_t bytes) const {
        for (const auto &[at, c] : chunks)
            if (address < c.address + c.bytes && c.address < address + bytes)
                return true;
        return false;
    }

    int provide(uintptr_t at, size_t bytes, unsigned bits, uint64_t *address) {
        calls++;
        EXPECT_EQ(at % kPageblockSize, 0u);
        EXPECT_EQ(bytes % kPageblockSize, 0u);
        EXPECT_EQ(chunks.count(at), 0u);
        EXPECT_TRUE(resident(reinterpret_cast<char *>(at)));
        EXPECT_TRUE(resident(reinterpret_cast<char *>(at + bytes - 1)));
        if (answer != 0 && answers_left-- > 0)
            return answer;
        uint64_t size = uint64_t{1} << order_of(bytes);
        uint64_t end = uint64_t{1} << min_of(bits, 48u);
        if (physical != 0) {
            uint64_t high = (uint64_t{4} << 30) + (at / kPageblockSize % 4096 + 1) * 2 * bytes;
            uint64_t low = at / kPageblockSize % 1024 * bytes + kPageblockSize;
            *address = at / kPageblockSize % physical == 0 ? low : high;
            if (bytes != kPageblockSize || *address + bytes > end)
                return -ERANGE;
        } else {
            if (size > end)
                return -ERANGE;
            *address = end - size;
            while (is_taken(*address, bytes)) {
                if (*address < size)
                    return -ERANGE;
                *address -= size;
            }
        }
        chunks[at] = {bytes, *address, bits};
        return 0;
    }

    void withdraw(uintptr_t at, size_t bytes) {
        withdrawn++;
        ASSERT_EQ(chunks.count(at), 1u);
        EXPECT_EQ(chunks[at].bytes, bytes);
        chunks.erase(at);
    }

    // The device address of a byte; all ones: no device reaches it.
    uint64_t address_of(const void *p) const {
        auto at = reinterpret_cast<uintptr_t>(p);
        auto c = chunks.upper_bound(at);
        if (c == chunks.begin())
            return ~uint64_t{0};
        --c;
        return at - c->first < c->second.bytes ? c->second.address + (at - c->first) : ~uint64_t{0};
    }
    // All of it is reached, in a row, at addresses up to the mask.
    bool reached(const void *p, size_t bytes, uint64_t mask) const {
        uint64_t first = address_of(p);
        uint64_t last = address_of(static_cast<const char *>(p) + bytes - 1);
        return last != ~uint64_t{0} && last <= mask && last - first == bytes - 1;
    }
    uint64_t bytes() const {
        uint64_t sum = 0;
        for (const auto &[at, c] : chunks)
            sum += c.bytes;
        return sum;
    }
};

inline fake_devices devices;

inline constexpr pagoda_dma_provider kFakeProvider = {
    [](void *at, size_t bytes, unsigned bits, uint64_t *address) {
        return devices.provide(reinterpret_cast<uintptr_t>(at), bytes, bits, address);
    },
    [](void *at, size_t bytes) {
        devices.withdraw(reinterpret_cast<uintptr_t>(at), bytes);
        return !devices.stubborn;
    },
    [](void *, size_t) { return false; },
    []() -> const char * { return "the fake one was unplugged"; },
};

} // namespace pagoda::test
