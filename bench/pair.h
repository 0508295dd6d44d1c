// Two ways of doing the same, by CPU time, in turns: what disturbs one disturbs the other.
#pragma once

#include <algorithm>
#include <stdio.h>
#include <time.h>
#include <vector>

namespace bench {

inline double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// The objects must look used to the compiler.
inline void use(void *p) { asm volatile("" : : "r"(p) : "memory"); }

inline double timed(void (*fn)()) {
    double began = cpu_seconds();
    fn();
    return cpu_seconds() - began;
}

// Prints and returns the median of the ratios.
inline double compare(const char *what, void (*ours)(), void (*theirs)(), int pairs) {
    std::vector<double> ratios;
    timed(ours);
    timed(theirs);
    for (int i = 0; i < pairs; i++) { // each first in every other pair
        double a = i % 2 == 0 ? timed(ours) : 0;
        double b = timed(theirs);
        if (i % 2 != 0)
            a = timed(ours);
        ratios.push_back(a / b);
    }
    std::sort(ratios.begin(), ratios.end());
    size_t n = ratios.size();
    printf("%-44s %.3f (%.3f to %.3f)\n", what, ratios[n / 2], ratios[n / 4], ratios[n * 3 / 4]);
    return ratios[n / 2];
}

} // namespace bench
