#pragma once

// A workload under every allocator, round by round, and what the rounds say together.

#include <cstdint>
#include <string>
#include <vector>

#include "bench/runner/catalogue.h"
#include "bench/runner/statistics.h"

namespace pagoda::bench {

struct metric {
    const char *key;
    double sample::*value;
};

// In the order in which they are reported.
inline constexpr metric kMetrics[] = {{"wall_s", &sample::wall},
                                      {"cpu_s", &sample::cpu},
                                      {"rss_kib", &sample::rss},
                                      {"minor_faults", &sample::minor_faults},
                                      {"major_faults", &sample::major_faults}};

struct measured_peer {
    std::string name;
    std::vector<sample> samples;       // one a round; nothing is discarded
    std::vector<std::string> problems; // empty if every run went well

    bool good() const { return problems.empty(); }
    summary of(double sample::*value) const;
};

struct measured_workload {
    workload what;
    std::string base;
    std::vector<measured_peer> peers;
    std::uint64_t operations = 0; // as the workload counts them; 0 if it does not

    const measured_peer *find(const std::string &peer_name) const;
    bool good() const;

    // The peer's value over the base's value of the same round; NaN where one of them has failed.
    summary ratio(const measured_peer &one, double sample::*value) const;
    double sample::*time() const { return what.time_is_cpu ? &sample::cpu : &sample::wall; }
};

struct conditions {
    std::vector<peer> peers;
    std::string base;
    unsigned rounds = 5;
    std::chrono::seconds timeout{120};
};

measured_workload measure(const workload &what, const conditions &under);

} // namespace pagoda::bench
