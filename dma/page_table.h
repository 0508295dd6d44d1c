// A word for each page of a 48-bit address space, in tables made on demand: 4 levels of 512, as a
// processor's. Readers take no lock; tables live as long as the whole.
#pragma once

#include <atomic>
#include <stdint.h>

namespace pagoda::dma {

class page_table {
  public:
    static constexpr unsigned kPageBits = 36; // pages are numbered by so many bits

    ~page_table();
    // Makes the tables for the pages first to last, so that set() finds them. False: no memory, or
    // pages beyond the last. Any thread; allocates.
    bool prepare(uint64_t first, uint64_t last);
    // 0: never set. Any context.
    uint64_t get(uint64_t page) const;
    // Of a prepared page.
    void set(uint64_t page, uint64_t value);
    // Stores `value` if it was `expected`.
    bool replace(uint64_t page, uint64_t expected, uint64_t value);

  private:
    static constexpr unsigned kBits = 9, kEntries = 1u << kBits, kLevels = kPageBits / kBits;
    struct table {
        std::atomic<uint64_t> entry[kEntries]; // of the last level words, else tables
    };
    std::atomic<uint64_t> *slot(uint64_t page) const;
    static table *below(const std::atomic<uint64_t> &entry);
    static table *make(std::atomic<uint64_t> &entry);
    static void drop(table *t, unsigned level);

    std::atomic<uint64_t> root_{0};
};

} // namespace pagoda::dma
