#include "bench/runner/catalogue.h"

#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace pagoda::bench {

namespace {

struct sizes {
    std::string_view name;
    std::uint64_t full;
    std::uint64_t brief;
};

// Iterations of all threads together: 0.5 to 1.5 s a run, or about 50 ms.
constexpr sizes kOwn[] = {
    {"larson", 30'000'000, 1'200'000},
    {"xmalloc", 150'000, 10'000},
    {"sh6", 5'000, 400},
    {"sh8", 50'000, 4'000},
    {"mstress", 12'000'000, 400'000},
    {"factor", 12, 1},
    {"minimise", 600, 40},
    {"rptest", 24'000, 1'500},
    {"large", 8'000, 300},
    {"grow", 400, 30},
};

constexpr sizes kMicro[] = {
    {"pair", 50'000'000, 4'000'000},     {"lifo16", 50'000'000, 4'000'000},
    {"fifo16", 50'000'000, 4'000'000},   {"lifo1000", 50'000'000, 4'000'000},
    {"fifo1000", 50'000'000, 4'000'000}, {"random1k", 30'000'000, 2'000'000},
    {"random100k", 6'000'000, 400'000},  {"handover", 20'000'000, 1'500'000},
};

constexpr unsigned kOwnThreads[] = {1, 2, 8};
constexpr unsigned kMicroThreads[] = {1, 2};
constexpr std::string_view kMicroPrefix = "micro-";

std::string input(const char *name) { return own_folder() + "/programs/" + name; }

std::string iterations(const sizes &size, bool brief) {
    return std::to_string(brief ? size.brief : size.full);
}

workload own_workload(const sizes &size, unsigned threads, bool brief) {
    const std::string name(size.name);
    const std::string count = std::to_string(threads);
    return {name + "-" + count,
            {{own_folder() + "/" + name, count, iterations(size, brief)}, {}, {}}};
}

workload micro_workload(const sizes &size, unsigned threads, bool brief) {
    const std::string name(size.name);
    const std::string count = std::to_string(threads);
    return {std::string(kMicroPrefix) + name + "-" + count,
            {{own_folder() + "/micro", name, count, iterations(size, brief)}, {}, {}}};
}

// "larson-4" is larson with 4 threads; 0 means that no number was given.
std::pair<std::string, unsigned> split_name(const std::string &name) {
    const std::size_t dash = name.rfind('-');
    unsigned threads = 0;
    if (dash != std::string::npos) {
        const char *end = name.data() + name.size();
        const auto [parsed, error] = std::from_chars(name.data() + dash + 1, end, threads);
        if (error == std::errc() && parsed == end && threads > 0) {
            return {name.substr(0, dash), threads};
        }
    }
    return {name, 0};
}

} // namespace

catalogue::catalogue(bool short_sizes, std::string scratch)
    : short_(short_sizes), scratch_(std::move(scratch)) {}

std::vector<workload> catalogue::own() const {
    std::vector<workload> all;
    for (const sizes &size : kOwn) {
        for (unsigned threads : kOwnThreads)
            all.push_back(own_workload(size, threads, short_));
    }
    return all;
}

std::vector<workload> catalogue::micro() const {
    std::vector<workload> all;
    for (const sizes &size : kMicro) {
        for (unsigned threads : kMicroThreads) {
            // A hand-over takes two.
            if (size.name == "handover" && threads == 1)
                continue;
            all.push_back(micro_workload(size, threads, short_));
        }
    }
    return all;
}

std::vector<workload> catalogue::programs() const {
    const std::string socket = scratch_ + "/redis.sock";
    const program redis{{"redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
                         "--appendonly", "no", "--loglevel", "warning"},
                        {},
                        {input("redis_load.sh"), socket, short_ ? "8000" : "120000"}};
    // The interpreter is named by its path: a version manager's shim would be measured with it.
    const program python{{"/usr/bin/python3", input("objects.py"), short_ ? "1" : "8"},
                         {"PYTHONMALLOC=malloc", "PYTHONHASHSEED=0"},
                         {}};
    const std::string source = input("heavy.cc");
    const program compiler =
        short_ ? program{{"g++", "-std=c++20", "-fsyntax-only", "-DHEAVY_DEPTH=0", source}, {}, {}}
               : program{{"g++", "-std=c++20", "-O1", "-S", "-o", "-", source}, {}, {}};
    const std::string rows = short_ ? "10000" : "150000";
    const program sqlite{{"sqlite3", ":memory:",
                          "CREATE TABLE size(rows INTEGER); INSERT INTO size VALUES(" + rows + ")",
                          ".read " + input("workload.sql")},
                         {},
                         {}};
    return {{"redis", redis, true}, {"python3", python}, {"g++", compiler}, {"sqlite3", sqlite}};
}

std::vector<workload> catalogue::small() const {
    return {{"true", {{"/bin/true"}, {}, {}}},
            {"ls", {{"/bin/ls", "-R", "/usr/share"}, {}, {}}},
            {"python3-pass", {{"/usr/bin/python3", "-c", "pass"}, {}, {}}}};
}

std::vector<workload> catalogue::find(const std::string &name) const {
    for (const std::vector<workload> &group : {programs(), small()}) {
        for (const workload &one : group) {
            if (one.name == name)
                return {one};
        }
    }
    const auto [base, threads] = split_name(name);
    std::vector<workload> found;
    for (const sizes &size : kOwn) {
        if (base != size.name)
            continue;
        if (threads != 0)
            return {own_workload(size, threads, short_)};
        for (unsigned count : kOwnThreads)
            found.push_back(own_workload(size, count, short_));
    }
    for (const sizes &size : kMicro) {
        if (base != std::string(kMicroPrefix) + std::string(size.name))
            continue;
        found.push_back(micro_workload(size, threads != 0 ? threads : 2, short_));
    }
    if (found.empty())
        throw std::runtime_error("no workload is called " + name);
    return found;
}

} // namespace pagoda::bench
