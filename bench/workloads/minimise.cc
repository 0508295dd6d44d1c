// Minimises random boolean functions to two levels of logic: complement by splitting on a variable,
// expand the cubes against the complement, drop the redundant ones. Every cube is a few bytes on
// the heap, and covers are linked lists that are copied, split and merged all the time.

#include <algorithm>
#include <list>
#include <memory>

#include "bench/workloads/workload.h"

namespace {

using namespace pagoda::bench;

constexpr std::size_t kVariables = 13;
constexpr std::size_t kCubes = 24;

enum literal : unsigned char { negative, positive, either };

using cube = std::unique_ptr<literal[]>;
using cover = std::list<cube>;

cube universe() {
    cube all(new literal[kVariables]);
    std::fill_n(all.get(), kVariables, either);
    return all;
}

cube copy_of(const cube &one) {
    cube copy(new literal[kVariables]);
    std::copy_n(one.get(), kVariables, copy.get());
    return copy;
}

cover copy_of(const cover &many) {
    cover copy;
    for (const cube &each : many)
        copy.push_back(copy_of(each));
    return copy;
}

bool intersect(const cube &a, const cube &b) {
    for (std::size_t v = 0; v < kVariables; ++v) {
        if (a[v] != either && b[v] != either && a[v] != b[v])
            return false;
    }
    return true;
}

bool contains(const cube &outer, const cube &inner) {
    for (std::size_t v = 0; v < kVariables; ++v) {
        if (outer[v] != either && outer[v] != inner[v])
            return false;
    }
    return true;
}

std::size_t literals(const cube &one) {
    return static_cast<std::size_t>(
        std::count_if(one.get(), one.get() + kVariables, [](literal l) { return l != either; }));
}

// The part of a cover inside `space`, with the variables that space fixes left free.
cover cofactor(const cover &many, const cube &space) {
    cover part;
    for (const cube &each : many) {
        if (!intersect(each, space))
            continue;
        cube copy = copy_of(each);
        for (std::size_t v = 0; v < kVariables; ++v) {
            if (space[v] != either)
                copy[v] = either;
        }
        part.push_back(std::move(copy));
    }
    return part;
}

cube half_space(std::size_t variable, literal side) {
    cube half = universe();
    half[variable] = side;
    return half;
}

// The variable that most cubes depend on, those that appear both ways first.
std::size_t split_variable(const cover &many) {
    std::size_t best = 0;
    std::size_t best_score = 0;
    for (std::size_t v = 0; v < kVariables; ++v) {
        std::size_t uses[3] = {0, 0, 0};
        for (const cube &each : many)
            ++uses[each[v]];
        const std::size_t score =
            uses[0] + uses[1] + many.size() * std::min(uses[negative], uses[positive]);
        if (score > best_score) {
            best = v;
            best_score = score;
        }
    }
    return best;
}

bool has_universe(const cover &many) {
    return std::any_of(many.begin(), many.end(),
                       [](const cube &each) { return literals(each) == 0; });
}

bool covers_everything(const cover &many) {
    if (many.empty())
        return false;
    if (has_universe(many))
        return true;
    const std::size_t v = split_variable(many);
    return covers_everything(cofactor(many, half_space(v, negative))) &&
           covers_everything(cofactor(many, half_space(v, positive)));
}

// A cube is dropped when another one contains it.
void absorb(cover &many) {
    for (auto outer = many.begin(); outer != many.end(); ++outer) {
        for (auto inner = many.begin(); inner != many.end();) {
            inner =
                inner != outer && contains(*outer, *inner) ? many.erase(inner) : std::next(inner);
        }
    }
}

cover complement(const cover &many) {
    cover result;
    if (many.empty()) {
        result.push_back(universe());
        return result;
    }
    if (has_universe(many))
        return result;
    const std::size_t v = split_variable(many);
    cover low = complement(cofactor(many, half_space(v, negative)));
    cover high = complement(cofactor(many, half_space(v, positive)));
    // Cubes that both halves know need not mention the variable.
    for (auto one = low.begin(); one != low.end();) {
        const auto twin = std::find_if(high.begin(), high.end(), [&](const cube &other) {
            return std::equal(other.get(), other.get() + kVariables, one->get());
        });
        const auto next = std::next(one);
        if (twin != high.end()) {
            high.erase(twin);
            result.splice(result.end(), low, one);
        } else {
            (*one)[v] = negative;
        }
        one = next;
    }
    for (cube &each : high)
        each[v] = positive;
    result.splice(result.end(), low);
    result.splice(result.end(), high);
    return result;
}

void expand(cover &on, const cover &off, random_source &random) {
    for (cube &each : on) {
        const std::size_t first = random.between(0, kVariables - 1);
        for (std::size_t k = 0; k < kVariables; ++k) {
            const std::size_t v = (first + k) % kVariables;
            if (each[v] == either)
                continue;
            cube raised = copy_of(each);
            raised[v] = either;
            const bool clear = std::none_of(off.begin(), off.end(), [&](const cube &other) {
                return intersect(raised, other);
            });
            if (clear)
                each = std::move(raised);
        }
    }
    absorb(on);
}

void make_irredundant(cover &on) {
    for (auto one = on.begin(); one != on.end();) {
        const auto next = std::next(one);
        cover alone;
        alone.splice(alone.end(), on, one);
        if (!covers_everything(cofactor(on, alone.front())))
            on.splice(next, alone);
        one = next;
    }
}

cover random_function(random_source &random) {
    cover many;
    for (std::size_t i = 0; i < kCubes; ++i) {
        cube one = universe();
        for (std::size_t v = 0; v < kVariables; ++v) {
            const std::size_t die = random.between(0, 9);
            if (die < 5)
                one[v] = die % 2 == 0 ? negative : positive;
        }
        many.push_back(std::move(one));
    }
    return many;
}

bool value_at(const cover &many, std::uint64_t point) {
    return std::any_of(many.begin(), many.end(), [&](const cube &each) {
        for (std::size_t v = 0; v < kVariables; ++v) {
            if (each[v] != either && each[v] != (point >> v & 1))
                return false;
        }
        return true;
    });
}

std::uint64_t minimise_one(std::uint64_t seed) {
    random_source random(seed);
    const cover given = random_function(random);
    const cover off = complement(given);
    cover best = copy_of(given);
    for (int round = 0; round < 3; ++round) {
        expand(best, off, random);
        make_irredundant(best);
    }
    for (int i = 0; i < 200; ++i) {
        const std::uint64_t point = random.next();
        if (value_at(given, point) != value_at(best, point))
            fail("not the same function");
    }
    std::uint64_t sum = best.size();
    for (const cube &each : best)
        sum += literals(each) << 20;
    return sum + (off.size() << 40);
}

} // namespace

int main(int argc, char **argv) {
    const work todo = parse(argc, argv);
    const std::uint64_t sum = run_threads(todo.threads, [&](unsigned index) {
        std::uint64_t part = 0;
        for (std::uint64_t i = index; i < todo.iterations; i += todo.threads) {
            part += minimise_one(i + 1);
        }
        return part;
    });
    report(sum, todo.iterations);
}
