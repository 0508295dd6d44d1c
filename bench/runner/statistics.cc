#include "bench/runner/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pagoda::bench {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Between two values where the rank falls between them.
double quantile(const std::vector<double> &sorted, double part) {
    const double rank = part * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(rank);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (rank - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

} // namespace

summary summarise(std::vector<double> values) {
    std::erase_if(values, [](double v) { return std::isnan(v); });
    if (values.empty())
        return {kNone, kNone, kNone};
    std::sort(values.begin(), values.end());
    return {quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75)};
}

double geometric_mean(const std::vector<double> &values) {
    double logarithms = 0;
    std::size_t count = 0;
    for (double value : values) {
        if (std::isnan(value) || value <= 0)
            continue;
        logarithms += std::log(value);
        ++count;
    }
    return count == 0 ? kNone : std::exp(logarithms / static_cast<double>(count));
}

} // namespace pagoda::bench
