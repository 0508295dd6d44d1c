#pragma once

// What was measured, as aligned tables for people and as JSON for programs.

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bench/runner/measure.h"

namespace pagoda::bench {

struct session {
    conditions under;
    std::vector<std::pair<std::string, std::string>> missing; // peer or workload, and why
    std::vector<measured_workload> workloads;
};

void print_workload(const measured_workload &one);

// Every workload in one line, and the geometric means of the ratios.
void print_overview(const session &all);

nlohmann::ordered_json to_json(const session &all);

} // namespace pagoda::bench
