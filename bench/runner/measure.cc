#include "bench/runner/measure.h"

#include <algorithm>
#include <cstdio>
#include <limits>

namespace pagoda::bench {

summary measured_peer::of(double sample::*value) const {
    std::vector<double> values;
    for (const sample &each : samples)
        values.push_back(each.*value);
    return summarise(std::move(values));
}

const measured_peer *measured_workload::find(const std::string &peer_name) const {
    const auto found = std::find_if(peers.begin(), peers.end(),
                                    [&](const measured_peer &p) { return p.name == peer_name; });
    return found == peers.end() ? nullptr : &*found;
}

bool measured_workload::good() const {
    return std::all_of(peers.begin(), peers.end(), [](const measured_peer &p) { return p.good(); });
}

summary measured_workload::ratio(const measured_peer &one, double sample::*value) const {
    const measured_peer *against = find(base);
    std::vector<double> ratios;
    if (against != nullptr && one.good() && against->good()) {
        for (std::size_t i = 0; i < one.samples.size(); ++i) {
            const double denominator = against->samples[i].*value;
            if (denominator > 0)
                ratios.push_back(one.samples[i].*value / denominator);
        }
    }
    return summarise(std::move(ratios));
}

measured_workload measure(const workload &what, const conditions &under) {
    measured_workload result{what, under.base, {}, 0};
    for (const peer &each : under.peers)
        result.peers.push_back({each.name, {}, {}});

    const std::string *expected = nullptr;
    for (unsigned round = 0; round < under.rounds; ++round) {
        for (std::size_t k = 0; k < under.peers.size(); ++k) {
            // Another peer begins each round, so that none always runs in another's wake.
            const std::size_t index = (k + round) % under.peers.size();
            measured_peer &mine = result.peers[index];
            mine.samples.reserve(under.rounds);
            mine.samples.push_back(launch(what.what, under.peers[index], under.timeout));
            const sample &latest = mine.samples.back();
            if (!latest.problem.empty()) {
                mine.problems.push_back(latest.problem);
            } else if (expected == nullptr) {
                expected = &latest.output;
            } else if (latest.output != *expected) {
                mine.problems.push_back("printed something else than the others did");
            }
        }
    }
    unsigned long long operations = 0;
    if (expected != nullptr &&
        std::sscanf(expected->c_str(), "checksum %*x operations %llu", &operations) == 1) {
        result.operations = operations;
    }
    return result;
}

} // namespace pagoda::bench
