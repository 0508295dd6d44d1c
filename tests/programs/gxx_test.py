#!/usr/bin/env python3
"""g++ on Pagoda: a heavy translation unit compiled, linked and run."""

import program

SOURCE = r"""
#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct node : node<N - 1> {
    std::tuple<node<N - 1>*, std::array<char, N>> data;
    template <class Visitor> long visit(Visitor v) const { return v(N) + node<N - 1>::visit(v); }
};
template <> struct node<0> {
    template <class Visitor> long visit(Visitor v) const { return v(0); }
};

template <std::size_t... I> auto tables(std::index_sequence<I...>) {
    return std::make_tuple(std::map<std::integral_constant<int, I>*, std::string>{}...);
}

using value = std::variant<long, std::string, std::vector<long>, std::shared_ptr<node<3>>>;

static long weigh(const value& v) {
    return std::visit([](const auto& x) -> long {
        using type = std::decay_t<decltype(x)>;
        if constexpr (std::is_same_v<type, long>) return x;
        else if constexpr (std::is_same_v<type, std::string>) return x.size();
        else if constexpr (std::is_same_v<type, std::vector<long>>)
            return std::accumulate(x.begin(), x.end(), 0L);
        else return x->visit([](int n) { return n; });
    }, v);
}

int main() {
    std::vector<value> values;
    for (long i = 0; i < 40000; ++i) {
        if (i % 4 == 0) values.emplace_back(i);
        if (i % 4 == 1) values.emplace_back(std::string(i % 100, 'x'));
        if (i % 4 == 2) values.emplace_back(std::vector<long>(i % 50, 2));
        if (i % 4 == 3) values.emplace_back(std::make_shared<node<3>>());
    }
    long sums[4] = {};
    std::vector<std::thread> team;
    for (int t = 0; t < 4; ++t)
        team.emplace_back([&values, &sums, t] {
            std::unordered_map<std::string, std::unique_ptr<value>> copies;
            for (std::size_t i = t; i < values.size(); i += 4)
                copies[std::to_string(i)] = std::make_unique<value>(values[i]);
            for (auto& [name, copy] : copies) sums[t] += weigh(*copy);
        });
    for (auto& member : team) member.join();
    std::string text;
    for (int i = 0; i < 3000; ++i)
        text += "a" + std::to_string(i) + "=" + std::to_string(i * i) + ";";
    std::regex pair("([a-z][0-9]+)=([0-9]+);");
    long total = std::distance(std::sregex_iterator(text.begin(), text.end(), pair), {});
    auto t = tables(std::make_index_sequence<25>{});
    std::get<7>(t)[nullptr] = "seven";
    node<80> deep{};
    std::printf("%ld %ld %ld %ld %ld %zu %ld\n", sums[0], sums[1], sums[2], sums[3], total,
                std::get<7>(t).size(), deep.visit([](int n) { return n; }));
}
"""

EXPECTED = [
    sum(range(0, 40_000, 4)),
    sum(i % 100 for i in range(1, 40_000, 4)),
    sum(i % 50 * 2 for i in range(2, 40_000, 4)),
    10_000 * (1 + 2 + 3),
    3_000,
    1,
    80 * 81 // 2,
]


class Gxx(program.ProgramTest):
    needs = ("/usr/bin/g++",)

    def test_compile_link_run(self):
        (self.dir / "heavy.cc").write_text(SOURCE)
        compile_it = ("/usr/bin/g++", "-std=c++20", "-O1", "-pthread", "-frandom-seed=1",
                      "heavy.cc", "-c", "-o")
        self.run_program(*compile_it, "glibc.o", on_pagoda=False)
        self.run_program(*compile_it, "pagoda.o")
        self.assertEqual((self.dir / "pagoda.o").read_bytes(),
                         (self.dir / "glibc.o").read_bytes())
        self.run_program("/usr/bin/g++", "-pthread", "pagoda.o", "-o", "heavy")
        result = self.run_program(self.dir / "heavy")
        self.assertEqual([int(word) for word in result.text.split()], EXPECTED)
        self.assert_served(20_000, program="cc1plus")
        self.assert_served(500, program="as")
        self.assert_served(2_000, program="ld")
        self.assert_served(30_000, program="heavy")


if __name__ == "__main__":
    program.main()
