#include "bench/runner/peers.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "bench/runner/launch.h"

namespace pagoda::bench {

namespace fs = std::filesystem;

namespace {

// Preloading libc itself puts its malloc ahead of whatever allocator a program is linked against.
std::string libc_path() {
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    link_map *map = nullptr;
    if (libc == nullptr || dlinfo(libc, RTLD_DI_LINKMAP, &map) != 0) {
        throw std::runtime_error("cannot find libc.so.6");
    }
    return fs::canonical(map->l_name).string();
}

peer *find(std::vector<peer> &peers, const std::string &name) {
    const auto found =
        std::find_if(peers.begin(), peers.end(), [&](const peer &p) { return p.name == name; });
    return found == peers.end() ? nullptr : &*found;
}

} // namespace

std::string own_folder() { return fs::read_symlink("/proc/self/exe").parent_path().string(); }

std::vector<peer> default_peers() {
    const std::string libc = libc_path();
    const fs::path libraries = fs::path(libc).parent_path();
    return {{"glibc", libc, {}},
            {"jemalloc", libraries / "libjemalloc.so.2", {}},
            {"mimalloc2", libraries / "libmimalloc.so.2.0", {}},
            {"tcmalloc", libraries / "libtcmalloc_minimal.so.4", {}},
            {"pagoda", fs::path(own_folder()).parent_path() / "libpagoda.so", {}}};
}

void set_peer(std::vector<peer> &peers, const std::string &definition) {
    const std::size_t equals = definition.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == definition.size()) {
        throw std::runtime_error("--peer wants NAME=PATH, not " + definition);
    }
    const std::string name = definition.substr(0, equals);
    const std::string library = fs::absolute(definition.substr(equals + 1)).string();
    if (peer *known = find(peers, name)) {
        known->library = library;
    } else {
        peers.push_back({name, library, {}});
    }
}

void set_peer_environment(std::vector<peer> &peers, const std::string &definition) {
    const std::size_t colon = definition.find(':');
    if (colon == std::string::npos || definition.find('=', colon) == std::string::npos) {
        throw std::runtime_error("--peer-env wants NAME:KEY=VALUE, not " + definition);
    }
    peer *known = find(peers, definition.substr(0, colon));
    if (known == nullptr)
        throw std::runtime_error("--peer-env: no peer in " + definition);
    known->environment.push_back(definition.substr(colon + 1));
}

std::string reason_missing(const peer &candidate) {
    std::error_code error;
    const fs::path real = fs::canonical(candidate.library, error);
    if (error)
        return candidate.library + " is not there";
    const sample probe =
        launch({{"/bin/cat", "/proc/self/maps"}, {}, {}}, candidate, std::chrono::seconds(10));
    if (!probe.problem.empty())
        return candidate.library + ": cat " + probe.problem;
    if (probe.output.find(real.string()) == std::string::npos) {
        return candidate.library + " cannot be preloaded";
    }
    return {};
}

} // namespace pagoda::bench
