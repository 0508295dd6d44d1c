// A sorted list of address ranges that do not overlap; those that touch and are alike are one. The
// first 128 need no memory, then the array doubles.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

struct address_range {
    uint64_t base;
    uint64_t size;
    int nid;
    uint32_t flags;

    uint64_t end() const { return base + size; }
};

class range_list {
  public:
    static constexpr size_t kFirst = 128;

    // Adds what of the range is not there yet; the rest stays as it is. False: no memory, and
    // nothing changed. The end saturates.
    bool add(uint64_t base, uint64_t size, int nid = 0, uint32_t flags = 0);
    // Both change nothing either where they return false.
    bool remove(uint64_t base, uint64_t size);
    bool set_flags(uint64_t base, uint64_t size, uint32_t flags, bool set);

    size_t count() const { return count_; }
    const address_range &operator[](size_t i) const { return array()[i]; }
    uint64_t total() const;
    // The number of the first range that ends behind `address`; count() when there is none.
    size_t find(uint64_t address) const;
    bool covers(uint64_t base, uint64_t size) const;
    bool overlaps(uint64_t base, uint64_t size) const;

  private:
    const address_range *array() const { return more_ != nullptr ? more_ : first_; }
    address_range *array() { return more_ != nullptr ? more_ : first_; }
    bool reach(size_t count);
    void insert(size_t at, const address_range &range);
    // No range begins before `address` and ends behind it any more; cut() does so at both.
    void split(uint64_t address);
    bool cut(uint64_t base, uint64_t end);
    void merge();

    size_t capacity() const { return more_ != nullptr ? more_capacity_ : kFirst; }
    address_range first_[kFirst] = {};
    address_range *more_ = nullptr; // instead, once there were more than kFirst
    size_t more_capacity_ = 0;
    size_t count_ = 0;
};

} // namespace pagoda
