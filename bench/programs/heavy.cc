// A translation unit that keeps a compiler busy: a good part of the standard library, and templates
// instantiated HEAVY_DEPTH times over. It is compiled by the benchmark, never run.

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <numeric>
#include <ranges>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#ifndef HEAVY_DEPTH
#define HEAVY_DEPTH 2
#endif

namespace {

template <int N> struct record {
    std::array<int, N % 7 + 1> numbers{};
    std::string name = std::to_string(N);
    bool operator<(const record &other) const { return name < other.name; }
};

template <int N> std::size_t exercise() {
    std::map<std::string, record<N>> by_name;
    std::vector<std::variant<int, std::string, record<N>>> mixed;
    for (int i = 0; i < N + 3; ++i) {
        record<N> one;
        one.numbers.fill(i);
        one.name += '-' + std::to_string(i);
        by_name.emplace(one.name, one);
        mixed.emplace_back(std::move(one));
        mixed.emplace_back(i);
    }
    std::set<record<N>> sorted;
    for (const auto &each : mixed) {
        std::visit(
            [&](const auto &value) {
                if constexpr (std::is_same_v<std::decay_t<decltype(value)>, record<N>>) {
                    sorted.insert(value);
                }
            },
            each);
    }
    auto long_names = by_name | std::views::values |
                      std::views::filter([](const auto &r) { return r.name.size() > 3; }) |
                      std::views::transform([](const auto &r) { return r.name.size() + N; });
    return std::accumulate(long_names.begin(), long_names.end(), sorted.size());
}

template <int... N> std::size_t exercise_all(std::integer_sequence<int, N...>) {
    return (exercise<N>() + ... + 0);
}

std::size_t match(const std::string &text) {
    const std::regex word("([a-z]+)-([0-9]+)");
    return static_cast<std::size_t>(
        std::distance(std::sregex_iterator(text.begin(), text.end(), word), {}));
}

} // namespace

std::size_t heavy(const std::string &text) {
    std::function<std::size_t()> all = [] {
        return exercise_all(std::make_integer_sequence<int, HEAVY_DEPTH>());
    };
    std::ostringstream out;
    out << all() << match(text);
    return out.str().size();
}
