// pagoda options: the table that the parser of PAGODA_OPTIONS works from, for people.
#include "hugepage/options.h"
#include "tools/command.h"

#include <cstdio>
#include <sstream>
#include <string>

namespace pagoda {
namespace {

void print_wrapped(const char *text) {
    constexpr size_t kIndent = 6;
    constexpr size_t kWidth = 80;
    std::istringstream words(text);
    size_t column = kWidth;
    for (std::string word; words >> word; column += word.size()) {
        if (column + 1 + word.size() > kWidth) {
            printf("\n%*s", static_cast<int>(kIndent), "");
            column = kIndent;
        } else {
            putchar(' ');
            column++;
        }
        fputs(word.c_str(), stdout);
    }
    puts("");
}

} // namespace

void print_options() {
    puts("Options are given as PAGODA_OPTIONS=KEY=VALUE,KEY=VALUE in the environment, or\n"
         "with `pagoda run -o KEY=VALUE`. Where a key is given twice the last one holds.");
    for (size_t i = 0; i < kOptionCount; i++) {
        const option_row &row = kOptionTable[i];
        printf("\n  %s=%s", row.key, row.values);
        if (*row.fallback != 0)
            printf("  (default %s)", row.fallback);
        print_wrapped(row.sentence);
    }
}

} // namespace pagoda
