// The limits that this process started under.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

inline constexpr uint64_t kNoLimit = ~uint64_t{0};

struct memory_limits {
    // Bytes of address space (RLIMIT_AS) or of writable mappings (RLIMIT_DATA), the lower one.
    uint64_t addresses = kNoLimit;
    // Bytes of memory: of the memory cgroup and those above it, the lowest.
    uint64_t memory = kNoLimit;
    // vm.overcommit_memory = 2: every writable mapping counts, for all processes together.
    bool commit_counts = false;
};

memory_limits read_memory_limits();

// The smallest limit that a cgroup of /proc/self/cgroup's text and its ancestors have, under a
// mount point of cgroup file systems.
uint64_t cgroup_limit(const char *cgroups, const char *mount);

} // namespace pagoda
