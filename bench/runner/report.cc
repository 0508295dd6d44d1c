#include "bench/runner/report.h"

#include <sys/utsname.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <thread>

namespace pagoda::bench {

namespace {

constexpr double kMillisecond = 1e-3;

std::string number(double value, int decimals) {
    if (std::isnan(value))
        return "-";
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", decimals, value);
    return text;
}

std::string with_quartiles(const summary &s, int decimals, double unit = 1) {
    return number(s.median / unit, decimals) + " [" + number(s.q1 / unit, decimals) + " " +
           number(s.q3 / unit, decimals) + "]";
}

// Columns as wide as their widest cell; the first is aligned left, the others right.
void print_table(const std::vector<std::vector<std::string>> &rows) {
    std::vector<std::size_t> widths;
    for (const auto &row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], row[i].size());
    }
    for (const auto &row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            const auto width = static_cast<int>(widths[i]);
            std::printf(i == 0 ? "  %-*s" : "  %*s", width, row[i].c_str());
        }
        std::printf("\n");
    }
}

std::vector<double>
ratios(const session &all, const std::string &peer_name,
       const std::function<double sample::*(const measured_workload &)> &which) {
    std::vector<double> found;
    for (const measured_workload &each : all.workloads) {
        const measured_peer *mine = each.find(peer_name);
        if (mine != nullptr)
            found.push_back(each.ratio(*mine, which(each)).median);
    }
    return found;
}

struct mean {
    const char *key;
    std::function<double sample::*(const measured_workload &)> which;
};

const std::vector<mean> &means() {
    static const std::vector<mean> all = {
        {"time", [](const measured_workload &w) { return w.time(); }},
        {"wall", [](const measured_workload &) { return &sample::wall; }},
        {"cpu", [](const measured_workload &) { return &sample::cpu; }},
        {"rss", [](const measured_workload &) { return &sample::rss; }},
        {"faults", [](const measured_workload &) { return &sample::minor_faults; }}};
    return all;
}

nlohmann::ordered_json to_json(const summary &s) {
    return {{"median", s.median}, {"q1", s.q1}, {"q3", s.q3}};
}

nlohmann::ordered_json to_json(const measured_workload &all, const measured_peer &one) {
    nlohmann::ordered_json json{{"peer", one.name}, {"ok", one.good()}, {"problems", one.problems}};
    for (const metric &m : kMetrics) {
        nlohmann::ordered_json values = to_json(one.of(m.value));
        for (const sample &each : one.samples)
            values["samples"].push_back(each.*m.value);
        values["ratio"] = to_json(all.ratio(one, m.value));
        json[m.key] = std::move(values);
    }
    return json;
}

std::string first_line(const char *path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

nlohmann::ordered_json machine() {
    utsname system{};
    uname(&system);
    return {{"cpus", std::thread::hardware_concurrency()},
            {"kernel", system.release},
            {"architecture", system.machine},
            {"thp", first_line("/sys/kernel/mm/transparent_hugepage/enabled")}};
}

} // namespace

void print_workload(const measured_workload &one) {
    std::printf("%s  (time is %s)\n", one.what.name.c_str(), one.what.time_is_cpu ? "cpu" : "wall");
    const std::string over = "/" + one.base;
    std::vector<std::vector<std::string>> rows = {
        {"allocator", "wall ms [quartiles]", "cpu ms [quartiles]", "rss MiB", "rss - base KiB",
         "minor faults", "wall" + over + " [quartiles]", "cpu" + over, "rss" + over, "ns/op"}};
    const measured_peer *base = one.find(one.base);
    const double base_rss = base == nullptr ? NAN : base->of(&sample::rss).median;
    for (const measured_peer &each : one.peers) {
        const double rss = each.of(&sample::rss).median;
        const double cpu = each.of(&sample::cpu).median;
        rows.push_back(
            {each.name + (each.good() ? "" : " FAILED"),
             with_quartiles(each.of(&sample::wall), 1, kMillisecond),
             with_quartiles(each.of(&sample::cpu), 1, kMillisecond), number(rss / 1024, 1),
             number(rss - base_rss, 0), number(each.of(&sample::minor_faults).median, 0),
             with_quartiles(one.ratio(each, &sample::wall), 2),
             number(one.ratio(each, &sample::cpu).median, 2),
             number(one.ratio(each, &sample::rss).median, 2),
             one.operations == 0 ? "-"
                                 : number(cpu * 1e9 / static_cast<double>(one.operations), 1)});
    }
    print_table(rows);
    for (const measured_peer &each : one.peers) {
        for (const std::string &problem : each.problems) {
            std::printf("  %s: %s %s\n", each.name.c_str(), one.what.name.c_str(), problem.c_str());
        }
    }
    std::printf("\n");
    std::fflush(stdout);
}

void print_overview(const session &all) {
    std::printf("time/%s, rss/%s: medians of the ratios round by round\n", all.under.base.c_str(),
                all.under.base.c_str());
    std::vector<std::vector<std::string>> rows = {{"workload"}};
    for (const peer &each : all.under.peers)
        rows[0].push_back(each.name);
    for (const measured_workload &one : all.workloads) {
        std::vector<std::string> row = {one.what.name};
        for (const measured_peer &each : one.peers) {
            row.push_back(each.good() ? number(one.ratio(each, one.time()).median, 2) + ", " +
                                            number(one.ratio(each, &sample::rss).median, 2)
                                      : "FAILED");
        }
        rows.push_back(std::move(row));
    }
    for (const mean &m : means()) {
        std::vector<std::string> row = {std::string("geomean ") + m.key};
        for (const peer &each : all.under.peers) {
            row.push_back(number(geometric_mean(ratios(all, each.name, m.which)), 3));
        }
        rows.push_back(std::move(row));
    }
    print_table(rows);
    for (const auto &[name, reason] : all.missing) {
        std::printf("  missing: %s (%s)\n", name.c_str(), reason.c_str());
    }
}

nlohmann::ordered_json to_json(const session &all) {
    nlohmann::ordered_json json{{"version", 1},
                                {"machine", machine()},
                                {"base", all.under.base},
                                {"rounds", all.under.rounds}};
    json["peers"] = nlohmann::ordered_json::array();
    for (const peer &each : all.under.peers) {
        json["peers"].push_back(
            {{"name", each.name}, {"library", each.library}, {"environment", each.environment}});
    }
    json["missing"] = nlohmann::ordered_json::array();
    for (const auto &[name, reason] : all.missing) {
        json["missing"].push_back({{"name", name}, {"reason", reason}});
    }
    json["workloads"] = nlohmann::ordered_json::array();
    for (const measured_workload &one : all.workloads) {
        nlohmann::ordered_json entry{{"name", one.what.name},
                                     {"command", one.what.what.argv},
                                     {"time", one.what.time_is_cpu ? "cpu_s" : "wall_s"},
                                     {"operations", one.operations}};
        for (const measured_peer &each : one.peers) {
            entry["results"].push_back(to_json(one, each));
        }
        json["workloads"].push_back(std::move(entry));
    }
    for (const peer &each : all.under.peers) {
        nlohmann::ordered_json entry{{"peer", each.name}};
        for (const mean &m : means()) {
            entry[m.key] = geometric_mean(ratios(all, each.name, m.which));
        }
        json["geomean"].push_back(std::move(entry));
    }
    return json;
}

} // namespace pagoda::bench
