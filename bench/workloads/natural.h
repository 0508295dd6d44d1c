#pragma once

// Natural numbers of any length, each in a heap block of its own as small as it can be, and never
// changed once made: every operation allocates its result. That is the point of them here.

#include <bit>
#include <compare>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace pagoda::bench {

class natural {
  public:
    natural(std::uint64_t value = 0) : body_(allocate(2)) {
        body_->limbs[0] = static_cast<std::uint32_t>(value);
        body_->limbs[1] = static_cast<std::uint32_t>(value >> 32);
        trim();
    }
    natural(const natural &other) : body_(allocate(other.length())) {
        std::memcpy(body_->limbs, other.body_->limbs, other.length() * sizeof(std::uint32_t));
    }
    natural(natural &&other) noexcept : body_(std::exchange(other.body_, nullptr)) {}
    natural &operator=(natural other) noexcept {
        std::swap(body_, other.body_);
        return *this;
    }
    ~natural() { std::free(body_); }

    bool is_zero() const { return length() == 0; }

    std::uint64_t low_bits() const {
        const std::uint64_t low = length() > 0 ? body_->limbs[0] : 0;
        return length() > 1 ? low | std::uint64_t{body_->limbs[1]} << 32 : low;
    }

    unsigned bit_count() const {
        if (is_zero())
            return 0;
        return 32 * length() - static_cast<unsigned>(std::countl_zero(top()));
    }

    friend std::strong_ordering operator<=>(const natural &a, const natural &b) {
        if (a.length() != b.length())
            return a.length() <=> b.length();
        for (unsigned i = a.length(); i-- > 0;) {
            if (a[i] != b[i])
                return a[i] <=> b[i];
        }
        return std::strong_ordering::equal;
    }
    friend bool operator==(const natural &a, const natural &b) { return std::is_eq(a <=> b); }

    friend natural operator+(const natural &a, const natural &b) {
        const natural &longer = a.length() >= b.length() ? a : b;
        const natural &shorter = a.length() >= b.length() ? b : a;
        natural sum(room{longer.length() + 1});
        std::uint64_t carry = 0;
        for (unsigned i = 0; i < longer.length(); ++i) {
            carry += std::uint64_t{longer[i]} + (i < shorter.length() ? shorter[i] : 0);
            sum.put(i, carry);
            carry >>= 32;
        }
        sum.put(longer.length(), carry);
        return sum.trimmed();
    }

    // Needs a ≥ b.
    friend natural operator-(const natural &a, const natural &b) {
        natural difference(room{a.length()});
        std::uint64_t borrow = 0;
        for (unsigned i = 0; i < a.length(); ++i) {
            const std::uint64_t step = std::uint64_t{a[i]} - (i < b.length() ? b[i] : 0) - borrow;
            difference.put(i, step);
            borrow = step >> 63;
        }
        return difference.trimmed();
    }

    friend natural operator*(const natural &a, const natural &b) {
        natural product(room{a.length() + b.length()});
        std::memset(product.body_->limbs, 0, product.length() * sizeof(std::uint32_t));
        for (unsigned i = 0; i < a.length(); ++i) {
            std::uint64_t carry = 0;
            for (unsigned k = 0; k < b.length(); ++k) {
                carry += std::uint64_t{a[i]} * b[k] + product[i + k];
                product.put(i + k, carry);
                carry >>= 32;
            }
            product.put(i + b.length(), carry);
        }
        return product.trimmed();
    }

    friend std::pair<natural, std::uint32_t> divide(const natural &a, std::uint32_t divisor) {
        natural quotient(room{a.length()});
        std::uint64_t rest = 0;
        for (unsigned i = a.length(); i-- > 0;) {
            rest = rest << 32 | a[i];
            quotient.put(i, rest / divisor);
            rest %= divisor;
        }
        return {quotient.trimmed(), static_cast<std::uint32_t>(rest)};
    }

    // Schoolbook long division, one 32-bit digit at a time; the divisor is shifted until its top
    // bit is set, so that a digit guessed from two limbs is at most two too large.
    friend std::pair<natural, natural> divide(const natural &a, const natural &b) {
        if (a < b)
            return {natural(), a};
        if (b.length() == 1) {
            auto [quotient, rest] = divide(a, b[0]);
            return {std::move(quotient), natural(rest)};
        }
        const auto shift = static_cast<unsigned>(std::countl_zero(b.top()));
        natural rest = a.shifted_left(shift);
        const natural divisor = b.shifted_left(shift);
        const unsigned n = b.length();
        natural quotient(room{a.length() - n + 1});
        for (unsigned at = a.length() - n + 1; at-- > 0;) {
            const std::uint64_t head = std::uint64_t{rest[at + n]} << 32 | rest[at + n - 1];
            std::uint64_t digit = head / divisor[n - 1];
            std::uint64_t left = head % divisor[n - 1];
            while (digit >> 32 != 0 || digit * divisor[n - 2] > (left << 32 | rest[at + n - 2])) {
                --digit;
                left += divisor[n - 1];
                if (left >> 32 != 0)
                    break;
            }
            if (rest.subtract_multiple(divisor, n, digit, at)) {
                --digit;
                rest.add_back(divisor, n, at);
            }
            quotient.put(at, digit);
        }
        return {quotient.trimmed(), rest.trimmed().shifted_right(shift)};
    }

    friend natural operator/(const natural &a, const natural &b) { return divide(a, b).first; }
    friend natural operator%(const natural &a, const natural &b) { return divide(a, b).second; }

    // One limb longer than it needs to be: division wants the room.
    natural shifted_left(unsigned bits) const {
        natural result(room{length() + 1});
        std::uint64_t carry = 0;
        for (unsigned i = 0; i < length(); ++i) {
            carry |= std::uint64_t{(*this)[i]} << bits;
            result.put(i, carry);
            carry >>= 32;
        }
        result.put(length(), carry);
        return result;
    }

    natural shifted_right(unsigned bits) const {
        natural result(room{length()});
        std::uint64_t above = 0;
        for (unsigned i = length(); i-- > 0;) {
            above = above << 32 | (*this)[i];
            result.put(i, above >> bits);
        }
        return result.trimmed();
    }

  private:
    struct body {
        std::uint32_t length;
        std::uint32_t limbs[1];
    };
    struct room {
        unsigned limbs;
    };

    explicit natural(room wanted) : body_(allocate(wanted.limbs)) {}

    static body *allocate(unsigned limbs) {
        auto *made =
            static_cast<body *>(std::malloc(sizeof(std::uint32_t) * (1 + std::size_t{limbs})));
        if (made == nullptr)
            std::abort();
        made->length = limbs;
        return made;
    }

    std::uint32_t length() const { return body_->length; }
    std::uint32_t operator[](unsigned i) const { return body_->limbs[i]; }
    std::uint32_t top() const { return body_->limbs[length() - 1]; }
    void put(unsigned i, std::uint64_t value) {
        body_->limbs[i] = static_cast<std::uint32_t>(value);
    }

    void trim() {
        while (body_->length > 0 && top() == 0)
            --body_->length;
    }
    natural trimmed() {
        trim();
        return std::move(*this);
    }

    // Subtracts digit * divisor at limb `at`; true if that went below zero.
    bool subtract_multiple(const natural &divisor, unsigned n, std::uint64_t digit, unsigned at) {
        std::uint64_t borrow = 0;
        std::uint64_t carry = 0;
        for (unsigned i = 0; i <= n; ++i) {
            carry += i < n ? digit * divisor[i] : 0;
            const std::uint64_t step =
                std::uint64_t{(*this)[at + i]} - (carry & 0xffffffffu) - borrow;
            put(at + i, step);
            borrow = step >> 63;
            carry >>= 32;
        }
        return borrow != 0;
    }

    void add_back(const natural &divisor, unsigned n, unsigned at) {
        std::uint64_t carry = 0;
        for (unsigned i = 0; i <= n; ++i) {
            carry += std::uint64_t{(*this)[at + i]} + (i < n ? divisor[i] : 0);
            put(at + i, carry);
            carry >>= 32;
        }
    }

    body *body_;
};

inline natural square_root(const natural &value) {
    if (value.is_zero())
        return value;
    natural guess = natural(1);
    for (unsigned i = 0; i < value.bit_count() / 2 + 1; ++i)
        guess = guess + guess;
    for (;;) {
        natural next = divide(guess + value / guess, 2u).first;
        if (next >= guess)
            return guess;
        guess = std::move(next);
    }
}

inline natural greatest_common_divisor(natural a, natural b) {
    while (!b.is_zero()) {
        natural rest = a % b;
        a = std::move(b);
        b = std::move(rest);
    }
    return a;
}

} // namespace pagoda::bench
