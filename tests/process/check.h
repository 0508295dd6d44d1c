// Checks for the programs of this folder, C and C++. A failed check is said on stderr, without
// allocating, and counted; the program goes on, and check_end() turns the count into its status.
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_failures;

static inline void check_failed(const char *file, int line, const char *what, long long got,
                                long long wanted, bool compared) {
    char text[400];
    const char *name = strrchr(file, '/');
    int length = compared ? snprintf(text, sizeof text, "%s:%d: failed: %s (%lld, not %lld)\n",
                                     name ? name + 1 : file, line, what, got, wanted)
                          : snprintf(text, sizeof text, "%s:%d: failed: %s\n",
                                     name ? name + 1 : file, line, what);
    // The first thirty say enough; a loop that fails everywhere must not fill the disk.
    if (__atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED) < 30 && length > 0) {
        size_t bytes = (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
        if (write(2, text, bytes) < 0) {
            _exit(1);
        }
    }
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            check_failed(__FILE__, __LINE__, #condition, 0, 0, false);                             \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(left, right)                                                                      \
    do {                                                                                           \
        long long check_left = (long long)(left);                                                  \
        long long check_right = (long long)(right);                                                \
        if (check_left != check_right) {                                                           \
            check_failed(__FILE__, __LINE__, #left " == " #right, check_left, check_right, true);  \
        }                                                                                          \
    } while (0)

#define CHECK_AT_LEAST(value, least)                                                               \
    do {                                                                                           \
        long long check_value = (long long)(value);                                                \
        long long check_least = (long long)(least);                                                \
        if (check_value < check_least) {                                                           \
            check_failed(__FILE__, __LINE__, #value " >= " #least, check_value, check_least,       \
                         true);                                                                    \
        }                                                                                          \
    } while (0)

// For what the rest of the program cannot do without.
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            check_failed(__FILE__, __LINE__, #condition, 0, 0, false);                             \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

// Whether this program's malloc is the C library's own. The suite can be run so
// (PAGODA_TEST_LIBRARY empty), which shows that what it asks for is what programs are used to.
static inline bool on_glibc(void) {
    Dl_info info;
    void *address = dlsym(RTLD_DEFAULT, "malloc");
    return address == NULL || dladdr(address, &info) == 0 || info.dli_fname == NULL ||
           strstr(info.dli_fname, "/libc.so") != NULL || strstr(info.dli_fname, "/libc-") != NULL;
}

// A preload that did not take would let every test of this folder pass on glibc.
static inline void check_begin(void) {
    const char *library = getenv("PAGODA_TEST_LIBRARY");
    if (library != NULL && *library != '\0') {
        REQUIRE(!on_glibc());
    }
}

static inline int check_end(void) {
    return __atomic_load_n(&check_failures, __ATOMIC_RELAXED) == 0 ? 0 : 1;
}

// A line of /proc/self/status, as "VmRSS:"; -1: there is none.
static inline long status_kilobytes(const char *key) {
    FILE *file = fopen("/proc/self/status", "r");
    REQUIRE(file != NULL);
    char line[200];
    long value = -1;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            value = strtol(line + strlen(key), NULL, 10);
        }
    }
    fclose(file);
    return value;
}
