#pragma once

// The allocators that are compared: each is a shared library that LD_PRELOAD puts into a program.

#include <string>
#include <vector>

namespace pagoda::bench {

struct peer {
    std::string name;
    std::string library;
    std::vector<std::string> environment; // KEY=VALUE, for this peer alone
};

// glibc, the allocators that Debian packages, and the Pagoda of this build.
std::vector<peer> default_peers();

// Applies NAME=PATH: replaces the peer of that name or adds one. Throws std::runtime_error.
void set_peer(std::vector<peer> &peers, const std::string &definition);

// Applies NAME:KEY=VALUE. Throws std::runtime_error.
void set_peer_environment(std::vector<peer> &peers, const std::string &definition);

// Why a peer cannot be measured; empty if it can. The loader goes on without a library that it
// cannot preload, so a started program is asked what it has mapped.
std::string reason_missing(const peer &candidate);

// The folder that the runner was started from: the launcher and the workloads lie in it.
std::string own_folder();

} // namespace pagoda::bench
