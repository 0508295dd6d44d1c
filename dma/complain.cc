#include "dma/complain.h"

#include "hugepage/provider.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace pagoda::dma {

namespace {

__attribute__((format(printf, 1, 0))) void say(const char *format, va_list arguments) {
    int kept = errno;
    char line[640] = "pagoda: dma: ";
    size_t length = strlen(line);
    int wanted = vsnprintf(line + length, sizeof line - length - 1, format, arguments);
    length += wanted < 0 ? 0 : strnlen(line + length, sizeof line - length - 1);
    line[length++] = '\n';
    // In one write, so that lines of several threads do not mix. There is nobody to tell of
    // failure.
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
    errno = kept;
}

} // namespace

void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

void accuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    pagoda_misuse_told();
}

} // namespace pagoda::dma
