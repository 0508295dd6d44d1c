// What the unit tests share: random numbers, children for what consumes a process, sizes of runs.
#pragma once

#include <gtest/gtest.h>

#include "hugepage/base.h"

#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(PAGODA_COVERAGE)
extern "C" void __gcov_dump();
#else
inline void __gcov_dump() {}
#endif

namespace pagoda::test {

// Reproducible: the same seed gives the same operations.
class random_numbers {
  public:
    explicit random_numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ * 0x2545f4914f6cdd1dULL;
    }
    // Uniform in [0, n), n > 0.
    uint64_t below(uint64_t n) {
        return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * n) >> 64);
    }
    bool one_in(uint64_t n) { return below(n) == 0; }
    // As many small values as large ones: uniform in the exponent, up to 2^bits.
    uint64_t skewed(unsigned bits) { return below((uint64_t{1} << (1 + below(bits))) + 1); }

  private:
    uint64_t state_;
};

// Operations of a property test: ten million where invariants are checked, fewer in a quick run of
// what users get. PAGODA_TEST_OPS overrides both.
inline uint64_t operations() {
    const char *text = getenv("PAGODA_TEST_OPS");
    return text != nullptr ? strtoull(text, nullptr, 10) : kDebug ? 10'000'000 : 1'000'000;
}

// How a child ended and what it wrote on stderr.
struct child_end {
    int status = -1;
    std::string errors;

    bool succeeded() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
    int signal() const { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }
    bool said(const char *text) const { return errors.find(text) != std::string::npos; }
    size_t lines() const {
        size_t n = 0;
        for (char c : errors)
            n += c == '\n';
        return n;
    }
};

inline ::testing::AssertionResult succeeded(const child_end &end) {
    if (end.succeeded())
        return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "status " << end.status << ", stderr: " << end.errors;
}

// How many expectations of the running test have failed so far, in this process.
inline int failures_so_far() {
    const ::testing::TestInfo *test = ::testing::UnitTest::GetInstance()->current_test_info();
    int failed = 0;
    for (int i = 0; test != nullptr && i < test->result()->total_part_count(); i++)
        failed += test->result()->GetTestPartResult(i).failed();
    return failed;
}

// Runs body in a child of fork, with its stderr caught. A failed expectation in there, an exception
// that leaves it, or taking longer than `seconds` is a failure of the child; what had failed before
// is not.
template <class F> child_end in_child(F body, unsigned seconds = 120) {
    int ends[2];
    if (pipe(ends) != 0)
        return {};
    fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        signal(SIGALRM, SIG_DFL);
        alarm(seconds);
        rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        int before = failures_so_far();
        bool thrown = false;
        try {
            body();
        } catch (...) { // gtest would go on with the next test, in the child
            thrown = true;
        }
        fflush(nullptr);
        __gcov_dump(); // _exit would not
        _exit(thrown ? 2 : failures_so_far() == before ? 0 : 1);
    }
    close(ends[1]);
    child_end end;
    char buf[4096];
    for (ssize_t n = 0; (n = read(ends[0], buf, sizeof buf)) > 0;)
        end.errors.append(buf, static_cast<size_t>(n));
    close(ends[0]);
    waitpid(pid, &end.status, 0);
    return end;
}

// So that what a CPU's cache is given is what the thread gets from it. For children.
inline bool stays_on_one_cpu() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
}

inline void limit(decltype(RLIMIT_AS) which, uint64_t bytes) {
    rlimit r = {bytes, bytes};
    EXPECT_EQ(setrlimit(which, &r), 0);
}

// A figure of /proc/self/status in bytes: "VmSize", "VmRSS"….
inline uint64_t process_figure(const char *key) {
    uint64_t kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    while (f != nullptr && fgets(line, sizeof line, f) != nullptr)
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            kib = strtoull(line + strlen(key) + 1, nullptr, 10);
    if (f != nullptr)
        fclose(f);
    return kib << 10;
}

inline bool resident(const void *p) {
    unsigned char in = 0;
    void *page = reinterpret_cast<void *>(align_down(reinterpret_cast<uintptr_t>(p), kPageSize));
    return mincore(page, kPageSize, &in) == 0 && (in & 1) != 0;
}

} // namespace pagoda::test
