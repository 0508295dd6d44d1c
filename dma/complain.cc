#include "dma/complain.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace pagoda::dma {

void complain(const char *format, ...) {
    int kept = errno;
    char line[320] = "pagoda: dma: ";
    size_t length = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line + length, sizeof line - length - 1, format, arguments);
    va_end(arguments);
    length += wanted < 0 ? 0 : strnlen(line + length, sizeof line - length - 1);
    line[length++] = '\n';
    // In one write, so that lines of several threads do not mix. There is nobody to tell of
    // failure.
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
    errno = kept;
}

} // namespace pagoda::dma
