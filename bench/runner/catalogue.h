#pragma once

// The named workloads and their sizes. The sizes are fixed: figures are comparable only with
// figures of the same sizes, so a new need is a new workload.

#include <string>
#include <vector>

#include "bench/runner/launch.h"

namespace pagoda::bench {

struct workload {
    std::string name;
    program what;
    bool time_is_cpu = false; // a server's wall time is its driver's
};

class catalogue {
  public:
    // Programs that need a place for a socket get it in `scratch`.
    catalogue(bool short_sizes, std::string scratch);

    std::vector<workload> own() const;      // at 1, 2 and 8 threads
    std::vector<workload> programs() const; // redis, python3, g++, sqlite3
    std::vector<workload> micro() const;
    std::vector<workload> small() const; // programs that hardly allocate

    // A workload by its name, "larson" (all thread counts), "larson-4" or "redis".
    // Throws std::runtime_error.
    std::vector<workload> find(const std::string &name) const;

  private:
    bool short_;
    std::string scratch_;
};

} // namespace pagoda::bench
