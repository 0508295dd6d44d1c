#pragma once

// Medians, quartiles and geometric means; a value that does not exist is NaN.

#include <vector>

namespace pagoda::bench {

struct summary {
    double median;
    double q1;
    double q3;
};

summary summarise(std::vector<double> values);

// Of the values that exist; NaN if there are none.
double geometric_mean(const std::vector<double> &values);

} // namespace pagoda::bench
