// Factors products of two 38-bit primes by continued fractions, in numbers that each live in a
// heap block of 8 to 32 bytes: millions of tiny, short-lived blocks, and a few thousand that stay.

#include <optional>

#include "bench/workloads/natural.h"
#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;
__extension__ using wide = unsigned __int128;

constexpr unsigned kPrimeBits = 38;
constexpr std::size_t kBaseSize = 60;
constexpr std::size_t kSpareRelations = 16;

std::uint64_t power(std::uint64_t base, std::uint64_t exponent, std::uint64_t modulus) {
    std::uint64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1)
            result = static_cast<std::uint64_t>(wide{result} * base % modulus);
        base = static_cast<std::uint64_t>(wide{base} * base % modulus);
    }
    return result;
}

// Miller and Rabin's test; these bases are exact below 3.4e14.
bool is_prime(std::uint64_t n) {
    const int twos = std::countr_zero(n - 1);
    for (std::uint64_t base : {2u, 3u, 5u, 7u, 11u, 13u, 17u}) {
        if (n % base == 0)
            return n == base;
        std::uint64_t x = power(base, (n - 1) >> twos, n);
        bool witness = x != 1 && x != n - 1;
        for (int i = 1; i < twos && witness; ++i) {
            x = power(x, 2, n);
            witness = x != n - 1;
        }
        if (witness)
            return false;
    }
    return true;
}

std::uint64_t random_prime(random_source &random) {
    std::uint64_t candidate =
        (random.next() >> (64 - kPrimeBits)) | 1 | std::uint64_t{1} << (kPrimeBits - 1);
    while (!is_prime(candidate))
        candidate += 2;
    return candidate;
}

// root² ≡ ± product of base primes (mod n); exponents[0] counts the sign.
struct relation {
    natural root;
    std::vector<unsigned> exponents;
};

class factoriser {
  public:
    factoriser(const natural &n, std::uint64_t multiplier)
        : n_(n), scaled_(n * natural(multiplier)) {
        for (std::uint32_t p = 2; base_.size() < kBaseSize; ++p) {
            if (p != 2 && (p % 2 == 0 || !is_prime(p)))
                continue;
            const std::uint32_t rest = divide(scaled_, p).second;
            if (p == 2 || rest == 0 || power(rest, (p - 1) / 2, p) == 1)
                base_.push_back(p);
        }
    }

    std::optional<natural> find() {
        collect();
        return combine();
    }

  private:
    // Walks the continued fraction of sqrt(scaled), whose remainders are small enough to be smooth.
    void collect() {
        const natural root = square_root(scaled_);
        natural p = root;
        natural q_before(1);
        natural q = scaled_ - root * root;
        natural a_before(1);
        natural a = root % n_;
        for (bool negative = true; relations_.size() < base_.size() + kSpareRelations;
             negative = !negative) {
            if (q.is_zero())
                return;
            keep_if_smooth(a, q, negative);
            const natural term = (root + p) / q;
            natural p_next = term * q - p;
            natural q_next = (scaled_ - p_next * p_next) / q;
            natural a_next = (term * a + a_before) % n_;
            p = std::move(p_next);
            q_before = std::move(q);
            q = std::move(q_next);
            a_before = std::move(a);
            a = std::move(a_next);
        }
    }

    void keep_if_smooth(const natural &root, const natural &value, bool negative) {
        natural left = value;
        std::vector<unsigned> exponents(base_.size() + 1, 0);
        exponents[0] = negative ? 1 : 0;
        for (std::size_t i = 0; i < base_.size(); ++i) {
            for (;;) {
                auto [quotient, rest] = divide(left, base_[i]);
                if (rest != 0)
                    break;
                left = std::move(quotient);
                ++exponents[i + 1];
            }
        }
        if (left == natural(1))
            relations_.push_back({root, std::move(exponents)});
    }

    // Gaussian elimination over the parities; every row that vanishes is a congruence of squares.
    std::optional<natural> combine() const {
        struct row {
            std::vector<bool> parity;
            std::vector<bool> members;
        };
        std::vector<row> rows;
        for (std::size_t i = 0; i < relations_.size(); ++i) {
            row one{{}, std::vector<bool>(relations_.size(), false)};
            for (unsigned e : relations_[i].exponents)
                one.parity.push_back(e % 2 != 0);
            one.members[i] = true;
            rows.push_back(std::move(one));
        }
        std::size_t done = 0;
        for (std::size_t column = 0; column <= base_.size(); ++column) {
            std::size_t pivot = done;
            while (pivot < rows.size() && !rows[pivot].parity[column])
                ++pivot;
            if (pivot == rows.size())
                continue;
            std::swap(rows[pivot], rows[done]);
            for (std::size_t i = done + 1; i < rows.size(); ++i) {
                if (!rows[i].parity[column])
                    continue;
                for (std::size_t k = 0; k <= base_.size(); ++k) {
                    rows[i].parity[k] = rows[i].parity[k] != rows[done].parity[k];
                }
                for (std::size_t k = 0; k < relations_.size(); ++k) {
                    rows[i].members[k] = rows[i].members[k] != rows[done].members[k];
                }
            }
            ++done;
        }
        for (std::size_t i = done; i < rows.size(); ++i) {
            natural divisor = try_members(rows[i].members);
            if (divisor != natural(1) && divisor != n_)
                return divisor;
        }
        return std::nullopt;
    }

    natural try_members(const std::vector<bool> &members) const {
        natural x(1);
        std::vector<unsigned> exponents(base_.size() + 1, 0);
        for (std::size_t i = 0; i < relations_.size(); ++i) {
            if (!members[i])
                continue;
            x = x * relations_[i].root % n_;
            for (std::size_t k = 0; k < exponents.size(); ++k) {
                exponents[k] += relations_[i].exponents[k];
            }
        }
        natural y(1);
        for (std::size_t k = 0; k < base_.size(); ++k) {
            for (unsigned e = 0; e < exponents[k + 1] / 2; ++e) {
                y = y * natural(base_[k]) % n_;
            }
        }
        return greatest_common_divisor(x >= y ? x - y : y - x, n_);
    }

    natural n_;
    natural scaled_;
    std::vector<std::uint32_t> base_;
    std::vector<relation> relations_;
};

std::uint64_t factor_one(std::uint64_t seed) {
    random_source random(seed);
    const std::uint64_t p = random_prime(random);
    const std::uint64_t q = random_prime(random);
    const natural n = natural(p) * natural(q);
    for (std::uint64_t multiplier : {1u, 3u, 5u, 7u, 11u, 13u}) {
        std::optional<natural> divisor = factoriser(n, multiplier).find();
        if (!divisor)
            continue;
        if (*divisor != natural(p) && *divisor != natural(q))
            fail("wrong factor");
        return divisor->low_bits() ^ (n / *divisor).low_bits() << 20;
    }
    fail("no factor found");
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    const std::uint64_t sum = run_threads(todo.threads, [&](unsigned index) {
        std::uint64_t part = 0;
        for (std::uint64_t i = index; i < todo.iterations; i += todo.threads) {
            part += factor_one(i + 1);
        }
        return part;
    });
    report(sum, todo.iterations);
}
