/* Fills a scull device from standard input, says what it is made of and writes it to standard
 * output again: scullc [QUANTUM [QSET]] <FILE >COPY */
#include "examples/scull.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *what, int error) {
    fprintf(stderr, "%s: %s: %s\n", scull_storage.name, what, strerror(error));
    return 1;
}

static int fill(struct scull_device *device) {
    char buffer[4096];
    for (size_t end = 0, got; (got = fread(buffer, 1, sizeof buffer, stdin)) > 0;)
        for (size_t done = 0; done < got;) {
            ssize_t n = scull_write(device, buffer + done, got - done, end);
            if (n < 0)
                return failed("write", (int)-n);
            done += (size_t)n;
            end += (size_t)n;
        }
    return ferror(stdin) ? failed("standard input", errno) : 0;
}

static int show(struct scull_device *device) {
    char buffer[4096];
    ssize_t n;
    for (size_t at = 0; (n = scull_read(device, buffer, sizeof buffer, at)) > 0; at += (size_t)n)
        if (fwrite(buffer, 1, (size_t)n, stdout) != (size_t)n)
            return failed("standard output", errno);
    return fflush(stdout) ? failed("standard output", errno) : 0;
}

int main(int argc, char **argv) {
    size_t quantum = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
    size_t qset = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;
    struct scull_device device;
    int error = scull_open(&device, &scull_storage, quantum, qset);
    if (error)
        return failed("open", -error);
    int status = fill(&device);
    if (!status) {
        fprintf(stderr, "%s: %zu bytes in quanta of %zu, %zu to a set\n", scull_storage.name,
                device.size, device.quantum, device.qset);
        status = show(&device);
    }
    scull_close(&device);
    return status;
}
