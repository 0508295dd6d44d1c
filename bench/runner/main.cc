// pagoda-bench: programs and workloads under several allocators, side by side.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "bench/runner/report.h"

namespace {

namespace fs = std::filesystem;
using namespace pagoda::bench;

constexpr int kNothingToMeasure = 77; // what ctest takes for "skipped"

struct request {
    std::vector<std::string> peers;
    std::vector<std::string> peer_environments;
    std::vector<std::string> only;
    std::vector<std::string> required;
    std::vector<std::string> names;
    std::vector<std::string> command;
    std::string base = "glibc";
    std::string json;
    unsigned rounds = 5;
    unsigned timeout = 120;
    bool short_sizes = false;
};

class scratch_folder {
  public:
    scratch_folder() {
        std::string pattern = fs::temp_directory_path() / "pagoda-bench-XXXXXX";
        if (mkdtemp(pattern.data()) == nullptr)
            throw std::runtime_error("cannot make " + pattern);
        path_ = pattern;
    }
    scratch_folder(const scratch_folder &) = delete;
    scratch_folder &operator=(const scratch_folder &) = delete;
    ~scratch_folder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    const std::string &path() const { return path_; }

  private:
    std::string path_;
};

bool contains(const std::vector<std::string> &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

bool can_start(const std::string &file) {
    if (file.find('/') != std::string::npos)
        return access(file.c_str(), X_OK) == 0;
    const char *path = std::getenv("PATH");
    std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
        if (access((fs::path(folder) / file).c_str(), X_OK) == 0)
            return true;
    }
    return false;
}

// The wanted peers that can be preloaded; those that cannot are said to be missing.
session prepare(const request &wanted) {
    std::vector<peer> peers = default_peers();
    for (const std::string &each : wanted.peers)
        set_peer(peers, each);
    for (const std::string &each : wanted.peer_environments)
        set_peer_environment(peers, each);

    session made;
    made.under.base = wanted.base;
    made.under.rounds = wanted.rounds;
    made.under.timeout = std::chrono::seconds(wanted.timeout);
    for (const std::string &name : wanted.only) {
        const auto known = [&](const peer &p) { return p.name == name; };
        if (std::none_of(peers.begin(), peers.end(), known)) {
            throw std::runtime_error("no peer is called " + name);
        }
    }
    for (const peer &each : peers) {
        if (!wanted.only.empty() && !contains(wanted.only, each.name))
            continue;
        const std::string reason = reason_missing(each);
        if (reason.empty()) {
            made.under.peers.push_back(each);
            continue;
        }
        if (contains(wanted.required, each.name))
            throw std::runtime_error(reason);
        std::fprintf(stderr, "missing: %s (%s)\n", each.name.c_str(), reason.c_str());
        made.missing.emplace_back(each.name, reason);
    }
    const auto is_base = [&](const peer &p) { return p.name == wanted.base; };
    if (std::none_of(made.under.peers.begin(), made.under.peers.end(), is_base)) {
        throw std::runtime_error("the base, " + wanted.base + ", is not among the peers");
    }
    return made;
}

void append(std::vector<workload> &all, std::vector<workload> more) {
    all.insert(all.end(), more.begin(), more.end());
}

std::vector<workload> chosen(const request &wanted, const std::string &subcommand,
                             const catalogue &known) {
    std::vector<workload> all;
    if (subcommand == "suite") {
        append(all, known.own());
        append(all, known.programs());
    } else if (subcommand == "micro") {
        append(all, known.micro());
    } else if (subcommand == "small") {
        append(all, known.small());
    } else if (subcommand == "command") {
        all.push_back({fs::path(wanted.command.at(0)).filename(), {wanted.command, {}, {}}});
    } else {
        for (const std::string &name : wanted.names)
            append(all, known.find(name));
    }
    return all;
}

int list(const catalogue &known) {
    for (const auto &group : {known.own(), known.programs(), known.micro(), known.small()}) {
        for (const workload &each : group) {
            std::printf("%-20s", each.name.c_str());
            for (const std::string &word : each.what.argv) {
                std::printf(" %s", word.empty() ? "''" : word.c_str());
            }
            std::printf("\n");
        }
    }
    return 0;
}

int measure_all(const request &wanted, const std::vector<workload> &workloads) {
    session all = prepare(wanted);
    for (const workload &each : workloads) {
        const auto &driver = each.what.driver;
        if (!can_start(each.what.argv[0]) || (!driver.empty() && !can_start(driver[0]))) {
            std::fprintf(stderr, "missing: %s\n", each.what.argv[0].c_str());
            all.missing.emplace_back(each.name, each.what.argv[0] + " is not installed");
            continue;
        }
        all.workloads.push_back(measure(each, all.under));
        print_workload(all.workloads.back());
    }
    if (all.workloads.empty())
        return kNothingToMeasure;
    print_overview(all);
    if (!wanted.json.empty()) {
        std::ofstream file(wanted.json);
        file << to_json(all).dump(2) << "\n";
        if (!file.flush())
            throw std::runtime_error("cannot write " + wanted.json);
    }
    return std::all_of(all.workloads.begin(), all.workloads.end(),
                       [](const measured_workload &w) { return w.good(); })
               ? 0
               : 1;
}

int run(int argc, char **argv) {
    request wanted;
    CLI::App app("Programs and workloads under several allocators, interleaved round by round.");
    app.fallthrough();
    app.require_subcommand(1);
    app.add_option("--peer", wanted.peers, "Add or replace an allocator: NAME=PATH")
        ->allow_extra_args(false);
    app.add_option("--peer-env", wanted.peer_environments,
                   "A variable for one allocator's programs: NAME:KEY=VALUE")
        ->allow_extra_args(false);
    app.add_option("--only", wanted.only, "Measure these allocators only: NAME,NAME")
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("--require", wanted.required, "Fail if one of these is missing: NAME,NAME")
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("--base", wanted.base, "The allocator that ratios refer to")
        ->capture_default_str();
    app.add_option("--rounds", wanted.rounds, "Runs of each cell")
        ->capture_default_str()
        ->check(CLI::Range(1u, 1000u));
    app.add_option("--timeout", wanted.timeout, "Seconds after which a run has failed")
        ->capture_default_str();
    app.add_option("--json", wanted.json, "Write everything that was measured to this file");
    app.add_flag("--short", wanted.short_sizes, "Small sizes: for tests, not for figures");

    app.add_subcommand("suite", "The own workloads at 1, 2 and 8 threads, and the real programs");
    app.add_subcommand("micro", "Single allocation patterns");
    app.add_subcommand("small", "Peak RSS of programs that hardly allocate");
    app.add_subcommand("list", "The workloads and their commands");
    app.add_subcommand("run", "Workloads by name: larson (1, 2, 8 threads), larson-4, redis …")
        ->add_option("NAME", wanted.names)
        ->required();
    app.add_subcommand("command", "Any command: … command -- PROGRAM ARGUMENT…")
        ->add_option("PROGRAM", wanted.command)
        ->required();
    CLI11_PARSE(app, argc, argv);

    const scratch_folder scratch;
    const catalogue known(wanted.short_sizes, scratch.path());
    const std::string subcommand = app.get_subcommands().at(0)->get_name();
    if (subcommand == "list")
        return list(known);
    return measure_all(wanted, chosen(wanted, subcommand, known));
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "pagoda-bench: %s\n", error.what());
        return 2;
    }
}
