#pragma once

// One run of one program under one allocator, through the small launcher, and what it cost.

#include <chrono>
#include <string>
#include <vector>

#include "bench/runner/peers.h"

namespace pagoda::bench {

struct program {
    std::vector<std::string> argv;
    std::vector<std::string> environment; // KEY=VALUE
    // For a server: a command that uses it, without the allocator, and makes it end.
    std::vector<std::string> driver;
};

struct sample {
    double wall = 0; // seconds
    double cpu = 0;  // seconds, user and system
    double rss = 0;  // KiB, the peak
    double minor_faults = 0;
    double major_faults = 0;
    int exit_status = -1;
    int signal = 0;
    std::string output;  // of the program, or of its driver
    std::string problem; // empty if the run went well
};

sample launch(const program &what, const peer &under, std::chrono::seconds timeout);

} // namespace pagoda::bench
